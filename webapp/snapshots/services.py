"""Taking a snapshot: a project's responses and current labels as Parquet files under a digest of their content.

The digest is sha256 over canonical JSON of the rows, so it depends neither on the clock, nor on primary keys, nor on
the Parquet library: the same labels give the same digest, in whatever database they lie.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from webapp.corpus.models import Project
from webapp.labels.models import Judgement
from webapp.labels.names import annotator_names
from webapp.snapshots.models import Snapshot
from webapp.snapshots.reading import (
    consistent_read,
    iso,
    judgement_id,
    judgement_rows,
    level_rows,
    messages_text,
    response_rows,
    short_id,
)

FORMAT = 1
BATCH = 5000

# Columns of projects with tools, or with answers of several turns or tool calls (their text is a transcript). Others do
# without: the same labels keep the snapshot that they always had.
LATER = ("tools", "answer")

Row = dict[str, Any]


@dataclass(frozen=True)
class Frozen:
    """A snapshot's files, in place, before there is a row for them."""

    digest: str
    counts: dict[str, int]


def schemas(*, conversations: bool = False) -> dict[str, Any]:
    """Arrow schemas of the three tables (PLAN: the contract with workers.rewards); with `conversations` LATER's too."""
    import pyarrow as pa

    text, moment = pa.string(), pa.timestamp("us", tz="UTC")

    def schema(*fields: tuple[str, Any, bool]) -> Any:
        return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])

    return {
        "responses": schema(
            ("response_id", text, False),
            ("prompt_id", text, False),
            ("group", text, False),
            ("messages", text, False),
            ("text", text, False),
            ("author", text, False),
            *[(name, text, True) for name in LATER if conversations],
        ),
        "judgements": schema(
            ("judgement_id", text, False),
            ("response_a", text, False),
            ("response_b", text, False),
            ("verdict", text, False),
            ("strength", pa.int8(), True),
            ("annotator", text, False),
            ("left", text, True),
            ("policy", text, True),
            ("propensity", pa.float64(), True),
            ("created_at", moment, False),
        ),
        "levels": schema(
            ("label_id", text, False),
            ("response_id", text, False),
            ("level", text, False),
            ("annotator", text, False),
            ("created_at", moment, False),
        ),
    }


def snapshot_take(*, project: Project) -> Snapshot:
    """The snapshot of the project's labels as they are now; the same row and folder while they stay the same.

    Memory is bounded by a batch of rows. Several processes may take it at once.
    """
    with consistent_read():
        frozen = snapshot_freeze(project)
    return snapshot_record(project, frozen)


def snapshot_record(project: Project, frozen: Frozen) -> Snapshot:
    snapshot, _ = Snapshot.objects.get_or_create(
        project=project, digest=frozen.digest, defaults={"counts": frozen.counts}
    )
    return snapshot


def snapshot_freeze(project: Project) -> Frozen:
    """Write the files of a snapshot, inside a consistent read: beside, and renamed when complete."""
    root = settings.DATA_DIR / "snapshots"
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".taking-", dir=root))
    try:
        work.chmod(0o755)
        counts, tables = _write_tables(project, work)
        summary = {"format": FORMAT, "tables": {name: table["sha256"] for name, table in tables.items()}}
        digest = hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()
        manifest = {
            "format": FORMAT,
            "project": project.slug,
            "digest": digest,
            "created_at": timezone.now().isoformat(),
            "counts": counts,
            "tables": tables,
        }
        (work / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in work.iterdir():
            _sync(path)
        _put_in_place(work, root / digest)
        _sync(root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Frozen(digest, counts)


def _put_in_place(work: Path, final: Path) -> None:
    """Rename, unless the same content is there already. A folder that lost files (by hand) is replaced."""
    if final.is_dir() and {path.name for path in final.iterdir()} != {path.name for path in work.iterdir()}:
        shutil.rmtree(final)
    try:
        work.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_tables(project: Project, folder: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    names = annotator_names(project)
    conversations = (
        project.prompts.exclude(tools=[]).exists()
        or project.responses.filter(messages__isnull=False).exists()
    )
    prompts: set[str] = set()
    annotators: set[str] = set()

    def responses() -> Iterator[Row]:
        for row in response_rows(project):
            prompts.add(row["prompt_id"])
            yield {
                **row,
                **{name: messages_text(row[name]) for name in ("messages", *LATER) if row[name] is not None},
            }

    def judgements() -> Iterator[Row]:
        for row in judgement_rows(Judgement.objects.verdicts(), project, names):
            annotators.add(row["annotator"])
            yield {
                **row,
                "judgement_id": judgement_id(row),
                "response_a": row["response_a_id"],
                "response_b": row["response_b_id"],
                "left": row["left"] or None,
                "policy": row["policy"] or None,
            }

    def levels() -> Iterator[Row]:
        for row in level_rows(project, names):
            annotators.add(row["annotator"])
            yield {
                **row,
                "label_id": short_id(
                    row["response_id"], row["annotator"], iso(row["created_at"]), row["level"]
                ),
            }

    sources = {"responses": responses(), "judgements": judgements(), "levels": levels()}
    tables = {
        name: _write_table(folder / f"{name}.parquet", schema, sources[name])
        for name, schema in schemas(conversations=conversations).items()
    }
    counts = {name: table["rows"] for name, table in tables.items()}
    return {**counts, "prompts": len(prompts), "annotators": len(annotators)}, tables


def _write_table(path: Path, schema: Any, rows: Iterable[Row]) -> dict[str, Any]:
    """Write the rows in batches; returns their number and the sha256 of their canonical serialisation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest, count, batch = hashlib.sha256(), 0, []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            values = {name: row[name] for name in schema.names}
            digest.update(_canonical(values))
            batch.append(values)
            count += 1
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return {"rows": count, "sha256": digest.hexdigest()}


def _canonical(row: Row) -> bytes:
    """One line of JSON: the values in the schema's order, times in UTC with microseconds."""
    values = [iso(value) if isinstance(value, datetime) else value for value in row.values()]
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
