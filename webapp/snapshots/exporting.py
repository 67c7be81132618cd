"""Making an export: data file, data card and archive, from one consistent read of the labels."""

import os
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.db import OperationalError, transaction

from webapp import life
from webapp.accounts.models import User
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Project
from webapp.jobs import JobFailed, ProgressFile, carried, explained
from webapp.labels.models import Judgement
from webapp.limits import OUT_OF_MEMORY, memory_limited
from webapp.snapshots.data_card import agreement_lines, data_card, rollout_lines
from webapp.snapshots.dividing import Divided, HeldOut, held_out_keys
from webapp.snapshots.formats import FORMATS, View, choice_of
from webapp.snapshots.models import Export
from webapp.snapshots.reading import Judgements, Levels, whole_read
from webapp.snapshots.services import Watch, snapshot_freeze, snapshot_record
from webapp.snapshots.writing import Sink, sink

STORED = (".parquet", ".safetensors")

# What an export's row says of what was asked for.
SETTINGS = (
    "format",
    "file_type",
    "aggregation",
    "superseded",
    "safe_for_spreadsheets",
    "held_out_apart",
    "version",
)


class ExportRefused(JobFailed):
    """The export cannot be made as asked; the message says why and what to ask for."""


def check_choice(format: str, file_type: str, *, held_out_apart: bool = False) -> None:
    """Raises ExportRefused for a format that doesn't fit into a file type, or can't be divided."""
    if format not in FORMATS:
        raise ExportRefused(f"There is no format “{format}”. Known: {', '.join(FORMATS)}.")
    if file_type not in Export.FileType.values:
        raise ExportRefused(
            f"There is no file type “{file_type}”. Known: {', '.join(Export.FileType.values)}."
        )
    if file_type not in FORMATS[format].file_types:
        labels = " or ".join(Export.FileType(name).label for name in FORMATS[format].file_types)
        why = (
            "Caliper JSONL has lines of several kinds, so it is JSONL."
            if format == Export.Format.CALIPER
            else "CSV has no nested columns, so it can't hold lists of messages or of responses."
        )
        raise ExportRefused(f"{why} Choose {labels}, or another format.")
    if held_out_apart and not FORMATS[format].divides:
        raise ExportRefused(
            "This format isn't made of judgements alone, so its held-out rows can't lie apart. Export all rows "
            "together."
        )


class _Written(Watch):
    """Writes a view's rows into a sink while the snapshot is taken."""

    def __init__(
        self,
        view: View,
        file: Sink,
        superseded: bool,
        machines: bool,
        counted: Callable[[int], None] = lambda seen: None,
    ) -> None:
        self.view, self.file, self.counted = view, file, counted
        self.superseded, self.machines = superseded, machines
        self.seen = 0

    def write(self, batches: Iterable[Any]) -> None:
        for batch in batches:
            self.file.write(batch)

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> None:
        self.write(self.view.judgements(rows, ids))
        self.seen += len(ids)
        self.counted(self.seen)

    def levels(self, rows: Levels) -> None:
        self.write(self.view.levels(rows))


def export_write(
    *,
    project: Project,
    format: str,
    file_type: str,
    aggregation: str,
    folder: Path,
    superseded: bool = False,
    safe_for_spreadsheets: bool = False,
    version: str = "",
    held_out: HeldOut | None = None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> dict[str, Any]:
    """Write the data set into a new folder (beside, and renamed when complete) and return the report.

    With `held_out` the rows of held-out responses are a split "test" of their own (snapshots.dividing).
    `progress(judgements read, judgements)` is called inside the read. Raises ExportRefused.
    """
    check_choice(format, file_type, held_out_apart=held_out is not None)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportRefused(f"{folder} is there already and not empty. Name a new folder.")
    made = FORMATS[format]
    started = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        work.chmod(0o755)
        splits = ["train"] if held_out is None else ["train", "test"]
        data_files = {split: made.data_file or f"data/{split}.{file_type}" for split in splits}
        with whole_read(project), ExitStack() as files:
            choice = choice_of(project, aggregation=aggregation, superseded=superseded, version=version)
            held = None if held_out is None else held_out_keys(project, held_out)
            total = Judgement.objects.of(project).filter(is_current=True).count()
            # One row a judgement, with who gave it: the only format that machines' stand in.
            machines = format == Export.Format.JUDGEMENTS
            superseded = superseded and machines

            def counted(seen: int) -> None:
                progress(seen, total)

            written = []
            for name in data_files.values():
                (work / name).parent.mkdir(exist_ok=True)
                view = made.view(choice)
                file = files.enter_context(sink(work / name, view.schema, safe=safe_for_spreadsheets))
                written.append(_Written(view, file, superseded, machines))
            whole = written[0]
            whole.counted = counted
            watch = whole if held is None else Divided(whole, written[1], held, counted)
            for each in written:
                each.write(each.view.begin())
            frozen = snapshot_freeze(project, watch)
            for each in written:
                each.write(each.view.end())
            agreement = agreement_lines(project)
            rollouts = rollout_lines(project)
        snapshot_record(project, frozen)
        left_out = sum((each.view.left_out for each in written), Counter(watch.left_out))
        report: dict[str, Any] = {
            "rows": sum(each.file.rows for each in written),
            "left_out": _counted(left_out),
            "changed": _counted(sum((each.view.changed for each in written), Counter[str]())),
            "snapshot": frozen.digest,
            "counts": frozen.counts,
            "superseded": superseded,
            "splits": {split: each.file.rows for split, each in zip(data_files, written, strict=True)},
        }
        view = whole.view
        readme = data_card(
            project=project,
            made=made,
            aggregation=aggregation,
            file_type=file_type,
            data_files=data_files,
            schema=view.schema.arrow() if view.schema is not None else None,
            like_times=set().union(*(each.file.like_times for each in written)),
            safe=safe_for_spreadsheets and file_type == Export.FileType.CSV,
            report=report,
            agreement=agreement,
            notes=[*view.notes, *rollouts],
        )
        (work / "README.md").write_text(readme, encoding="utf-8")
        names = [*data_files.values(), "README.md"]
        report["files"] = [{"name": name, "bytes": (work / name).stat().st_size} for name in names]
        report["seconds"] = round(time.monotonic() - started, 2)
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _counted(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in counts.items() if count}


def zip_folder(folder: Path, archive: Path, name: str) -> None:
    """A zip of the folder, written beside and renamed. Parquet and weights would not get smaller."""
    beside = archive.with_suffix(".part")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as zipped:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                compression = zipfile.ZIP_STORED if path.suffix in STORED else None
                zipped.write(path, f"{name}/{path.relative_to(folder)}", compress_type=compression)
    os.replace(beside, archive)


def archive_name(export: Export) -> str:
    return f"{export.project.slug}-{export.format}-{export.pk}"


@transaction.atomic
def export_start(*, export_row: Export, project: Project, created_by: User) -> Export:
    """Queue the export that a form describes."""
    export_row.project, export_row.created_by = project, created_by
    export_row.save()
    chosen = {name: getattr(export_row, name) for name in SETTINGS}
    audit(
        project=project,
        actor=created_by,
        action=Action.EXPORT_STARTED,
        detail={"export": export_row.pk, **chosen},
    )
    export_row.enqueue()
    return export_row


@transaction.atomic
def export_retry(*, export_row: Export, actor: User | None = None) -> bool:
    """FAILED | LOST | CANCELLED -> QUEUED; False if it was none of these."""
    queued = export_row.requeue()
    if queued:
        audit(
            project=export_row.project,
            actor=actor,
            action=Action.EXPORT_RETRIED,
            detail={"export": export_row.pk},
        )
    return queued


def export_run(export_row: Export, held_out: HeldOut | None = None) -> None:
    """Make the export of a QUEUED row: claim it, write it, and leave it DONE or FAILED. Never raises.

    `held_out` says which responses are, for a row that wants them apart. A row that somebody else has claimed is left
    alone.
    """
    if not export_row.claim():
        return
    with carried(export_row, explain=_explained), life.alive(export_row):
        _export(export_row, held_out)


def _export(export_row: Export, held_out: HeldOut | None) -> None:
    shown = ProgressFile(export_row.progress_path)
    last = 0.0

    def progress(step: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            shown.write(step=step, total=total)

    try:
        # What an earlier attempt left is not this one's.
        shutil.rmtree(export_row.folder, ignore_errors=True)
        export_row.folder.parent.mkdir(parents=True, exist_ok=True)
        rows = Judgement.objects.filter(pair__project=export_row.project).count()
        export_row.proceed(phase="writing", total=rows)
        with memory_limited():
            report = export_write(
                project=export_row.project,
                folder=export_row.folder,
                progress=progress,
                held_out=held_out if export_row.held_out_apart else None,
                **{name: getattr(export_row, name) for name in SETTINGS if name != "held_out_apart"},
            )
        zip_folder(export_row.folder, export_row.archive, archive_name(export_row))
        report["archive_bytes"] = export_row.archive.stat().st_size
        export_row.finish(report=report)
    finally:
        shown.remove()


def _explained(error: Exception) -> str:
    match error:
        case MemoryError():
            return f"{OUT_OF_MEMORY} Ask the operator for more."
        case OSError() | OperationalError():
            return f"A file or the database could not be used ({error}). Mend that and try again."
    return explained(error)
