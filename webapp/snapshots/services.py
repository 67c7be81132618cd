"""Taking a snapshot: a project's responses and current labels as Parquet files under a digest of their content.

The digest is sha256 over canonical JSON of the rows, so it depends neither on the clock, nor on primary keys, nor on
the Parquet library: the same labels give the same digest, in whatever database they lie.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring as quote
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from webapp.corpus.models import Project
from webapp.labels.models import Judgement, Source, Verdict
from webapp.labels.names import Named, annotator_names
from webapp.snapshots.models import Snapshot, snapshot_path
from webapp.snapshots.reading import (
    Judgements,
    Levels,
    Responses,
    judgement_batches,
    judgement_ids,
    level_batches,
    messages_text,
    response_batches,
    short_id,
    whole_read,
)
from webapp.snapshots.writing import Batch, ParquetSink, spread

FORMAT = 1

# Columns of projects with tools, or with answers of several turns or tool calls (their text is a transcript). Others do
# without: the same labels keep the snapshot that they always had.
LATER = ("tools", "answer")


@dataclass(frozen=True)
class Frozen:
    """A snapshot's files, in place, before there is a row for them."""

    digest: str
    counts: dict[str, int]

    @property
    def path(self) -> Path:
        return snapshot_path(self.digest)


def schemas(*, conversations: bool = False, machines: bool = False) -> dict[str, Any]:
    """Arrow schemas of the three tables, as workers.rewards reads them; with `conversations` LATER's columns too, with
    `machines` which judgements are a machine's.
    """
    import pyarrow as pa

    text, moment = pa.string(), pa.timestamp("us", tz="UTC")

    def schema(*fields: tuple[str, Any, bool]) -> Any:
        return pa.schema([pa.field(name, dtype, nullable=nullable) for name, dtype, nullable in fields])

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
            *[("machine", pa.bool_(), False) for _ in range(machines)],
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
    with whole_read(project):
        frozen = snapshot_freeze(project)
    return snapshot_record(project, frozen)


def snapshot_record(project: Project, frozen: Frozen) -> Snapshot:
    snapshot, _ = Snapshot.objects.get_or_create(
        project=project, digest=frozen.digest, defaults={"counts": frozen.counts}
    )
    return snapshot


class Watch:
    """Sees the labels pass by while a snapshot is written of them, so that an export needs no second read."""

    # Whether it wants judgements that were corrected or taken back as well, and those of machine annotators.
    superseded = False
    machines = False
    # Labels that it passed on to nobody, by reason.
    left_out: Mapping[str, int] = {}

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> None:
        """Current judgements with skips, whole pairs at a time, and their judgement ids."""

    def levels(self, rows: Levels) -> None:
        """Current quality labels."""


def snapshot_freeze(project: Project, watch: Watch | None = None) -> Frozen:
    """Write the files of a snapshot, inside a consistent read: beside, and renamed when complete."""
    root = settings.DATA_DIR / "snapshots"
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".taking-", dir=root))
    try:
        work.chmod(0o755)
        counts, tables = _write_tables(project, work, watch or Watch())
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


def _write_tables(
    project: Project, folder: Path, watch: Watch
) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """Write the three tables in one read each; `watch` sees the rows that pass by."""
    names = annotator_names(project)
    prompts: set[int] = set()
    annotators: set[int] = set()
    conversations = (
        project.prompts.exclude(tools=[]).exists()
        or project.responses.filter(messages__isnull=False).exists()
    )
    machines = (
        project.machine_labels and Judgement.objects.of(project).current_of_all().of_machines().exists()
    )
    with ExitStack() as stack:
        tables = {
            name: stack.enter_context(_Table(folder / f"{name}.parquet", schema))
            for name, schema in schemas(conversations=conversations, machines=machines).items()
        }
        for responses in response_batches(project):
            prompts.update(responses.prompt)
            tables["responses"].write(_response_columns(responses))
        judgements = Judgement.objects.all() if watch.superseded else Judgement.objects.current_of_all()
        if not (machines or watch.machines):
            judgements = judgements.of_people()
        for rows in judgement_batches(judgements, project, names):
            ids = judgement_ids(rows, names)
            said = [
                row
                for row, (verdict, current, retraction, source) in enumerate(
                    zip(rows.verdict, rows.is_current, rows.retraction, rows.source, strict=True)
                )
                if current
                and not retraction
                and verdict != Verdict.SKIP
                and (machines or source != Source.MACHINE)
            ]
            verdicts = rows.of(said)
            annotators.update(
                who
                for who, source in zip(verdicts.annotator, verdicts.source, strict=True)
                if source != Source.MACHINE
            )
            columns = _judgement_columns(verdicts, [ids[row] for row in said], names)
            if machines:
                columns["machine"] = [source == Source.MACHINE for source in verdicts.source]
            tables["judgements"].write(columns)
            if not watch.machines:
                seen = [row for row, source in enumerate(rows.source) if source != Source.MACHINE]
                rows, ids = rows.of(seen), [ids[row] for row in seen]
            watch.judgements(rows, ids)
        for levels in level_batches(project, names):
            annotators.update(levels.annotator)
            tables["levels"].write(_level_columns(levels, names))
            watch.levels(levels)
        written = {name: table.summary() for name, table in tables.items()}
    counts = {name: table["rows"] for name, table in written.items()}
    return {**counts, "prompts": len(prompts), "annotators": len(annotators)}, written


def _response_columns(rows: Responses) -> Batch:
    return {
        "response_id": rows.id,
        "prompt_id": rows.prompt_id,
        "group": [group or prompt for group, prompt in zip(rows.group, rows.prompt_id, strict=True)],
        "messages": [_sorted_keys(messages) for messages in rows.messages],
        "text": rows.text,
        "author": rows.author,
        "tools": [None if tools == "[]" else _sorted_keys(tools) for tools in rows.tools],
        "answer": [None if answer is None else _sorted_keys(answer) for answer in rows.answer],
    }


def _judgement_columns(rows: Judgements, ids: Sequence[str], names: dict[int, Named]) -> Batch:
    return {
        "judgement_id": ids,
        "response_a": rows.a_id,
        "response_b": rows.b_id,
        "verdict": rows.verdict,
        "strength": rows.strength,
        "annotator": [names[pk].name for pk in rows.annotator],
        "left": [left or None for left in rows.left],
        "policy": [policy or None for policy in rows.policy],
        "propensity": rows.propensity,
        "created_at": rows.created_at,
    }


def _level_columns(rows: Levels, names: dict[int, Named]) -> Batch:
    annotators = [names[pk].name for pk in rows.annotator]
    return {
        "label_id": [
            short_id(*parts)
            for parts in zip(rows.response_id, annotators, rows.created_at, rows.level, strict=True)
        ],
        "response_id": rows.response_id,
        "level": rows.level,
        "annotator": annotators,
        "created_at": rows.created_at,
    }


@lru_cache(256)
def _sorted_keys(messages: str) -> str:
    return messages_text(json.loads(messages))


class _Table(ParquetSink):
    """A table, and the sha256 of its canonical serialisation.

    That is one line of JSON a row: the values in the schema's order, times in UTC with microseconds.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        super().__init__(path, schema)
        self.digest = hashlib.sha256()

    def add(self, batch: Batch) -> None:
        texts = [_json_column(spread(batch[name])) for name in self.schema.names]
        lines = "]\n[".join(map(",".join, zip(*texts, strict=True)))
        self.digest.update(f"[{lines}]\n".encode())
        super().add(batch)

    def summary(self) -> dict[str, Any]:
        return {"rows": self.rows, "sha256": self.digest.hexdigest()}


def _json_column(values: Sequence[Any]) -> list[str]:
    """Every value as `json.dumps` writes it without ASCII escapes."""
    return [
        quote(value) if type(value) is str else "null" if value is None else repr(value) for value in values
    ]
