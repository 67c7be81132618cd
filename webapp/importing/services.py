"""Imports from upload to finished row: starting, confirming, cancelling, and the run itself.

read    the files once, row by row, into a spool (no transaction is open, progress goes into the row)
check   what is new, what is there already, what contradicts (a dry run ends here)
write   the same walk, with the new rows, in one transaction that also finishes the Import row; on SQLite in batches,
        which are taken back unless all of them are written (importing.batches)
"""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from webapp import life
from webapp.accounts.models import User
from webapp.corpus.access import ProjectArchived, check_not_archived
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Import, ImportQuerySet, Project
from webapp.importing.batches import import_open, import_settle, imports_settle, running
from webapp.importing.labels import LabelWriter
from webapp.importing.loading import Loader
from webapp.importing.mapping import Mapping, Reader
from webapp.importing.names import safe_name
from webapp.importing.origins import origin_fetch, origin_name, origin_of
from webapp.importing.preview import first_items, preview_write
from webapp.importing.reading import ImportRefused, Source, expanded, printable
from webapp.importing.report import ERRORS, OWN_FILES, PROGRESS, Problems, Report, shorten
from webapp.importing.shapes import PARSERS, NotRecognised, recognise
from webapp.importing.spool import OnProgress, Spool, spool_records
from webapp.importing.survey import guess, survey, survey_write
from webapp.importing.writing import CorpusWriter
from webapp.jobs import REQUEUABLE, ProgressFile, State, Stopped, carried
from webapp.labels.counters import recount
from webapp.limits import OUT_OF_MEMORY, memory_limited

# Between two looks whether somebody pressed Cancel, and two notes of the progress.
SECONDS_BETWEEN = 0.5


def import_start(*, project: Project, files: Sequence[UploadedFile], format: str, created_by: User) -> Import:
    """Keep uploaded files and queue their dry run. Raises OSError, and then nothing is kept."""
    check_not_archived(project)
    folder = f"imports/{secrets.token_hex(8)}"
    path = settings.DATA_DIR / folder
    path.mkdir(parents=True)
    names: list[str] = []
    try:
        for file in files:
            name = safe_name(file.name or "", taken=names)
            names.append(name)
            with (path / name).open("wb") as target:
                for block in file.chunks():
                    target.write(block)
        with transaction.atomic():
            row = Import.objects.create(
                project=project,
                created_by=created_by,
                file_name=shorten(", ".join(names), 255),
                folder=folder,
                format=format,
            )
            audit_import(row, Action.IMPORT_UPLOADED, created_by)
            row.enqueue()
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return row


def import_from(
    *,
    project: Project,
    address: str,
    config: str = "",
    split: str = "",
    revision: str = "",
    created_by: User | None,
) -> Import:
    """Queue the dry run of an import whose files a worker fetches. Raises AddressRefused, which names the field."""
    check_not_archived(project)
    origin = origin_of(address, config=config, split=split, revision=revision)
    with transaction.atomic():
        row = Import.objects.create(
            project=project,
            created_by=created_by,
            file_name=origin_name(origin),
            folder=f"imports/{secrets.token_hex(8)}",
            origin=origin,
        )
        audit_import(row, Action.IMPORT_UPLOADED, created_by)
        row.enqueue()
    return row


def audit_import(row: Import, action: Action, actor: User | str | None) -> None:
    detail = {"import": row.pk, "files": row.file_name, "format": row.format}
    if row.origin:
        detail["from"] = row.origin["address"]
    audit(project=row.project, actor=actor, action=action, detail=detail)


@transaction.atomic
def import_cancel(*, import_row: Import, actor: User | None = None) -> bool:
    """Ask a queued or running import to stop. False: it has ended."""
    asked = import_row.request_cancel()
    if asked:
        audit_import(import_row, Action.IMPORT_CANCELLED, actor)
    return asked


@transaction.atomic
def import_retry(*, import_row: Import, actor: User | None = None) -> bool:
    """FAILED | LOST | CANCELLED -> QUEUED; False if it was none of these."""
    check_not_archived(import_row.project)
    queued = import_row.requeue()
    if queued:
        audit_import(import_row, Action.IMPORT_RETRIED, actor)
    return queued


def import_next(*, project: Project) -> None:
    """Send the import of the project that has waited longest for another one to end, if there is one."""
    waiting = Import.objects.filter(project=project, state=State.QUEUED).order_by("queued_at", "pk").first()
    if waiting is not None:
        waiting.enqueue()


@transaction.atomic
def import_confirm(*, import_row: Import, actor: User | None = None) -> bool:
    """DONE (dry run) -> QUEUED (for real): one conditional UPDATE, so that a double click imports once."""
    check_not_archived(import_row.project)
    confirmed = (
        Import.objects.filter(pk=import_row.pk, state=State.DONE, dry_run=True).exclude(report__has_key="asks").update(
            state=State.QUEUED, dry_run=False, queued_at=timezone.now(), started_at=None, finished_at=None, phase="",
            step=0, total=0, error="",
        )
        == 1
    )  # fmt: skip
    if confirmed:
        audit_import(import_row, Action.IMPORT_CONFIRMED, actor)
        import_row.enqueue()
    return confirmed


@transaction.atomic
def import_map(*, import_row: Import, mapping: Mapping, actor: User | None = None) -> bool:
    """Keep which column is what, and queue a preview by it. False: the import isn't a preview (any more)."""
    kept = {"mapping": mapping.as_json(), "format": Import.Format.MAPPED}
    return _look_again(import_row, Action.IMPORT_MAPPED, actor, **kept)


@transaction.atomic
def import_ask(*, import_row: Import, actor: User | None = None) -> bool:
    """Have the columns of a preview read, so that somebody can say which is what."""
    return _look_again(
        import_row, Action.IMPORT_MAPPED, actor, mapping={}, format=Import.Format.MAPPED, report={}
    )


def _look_again(import_row: Import, action: Action, actor: User | None, **changes: Any) -> bool:
    """DONE (dry run) or FAILED (dry run) -> QUEUED, as a dry run; one conditional UPDATE."""
    check_not_archived(import_row.project)
    queued = (
        Import.objects.filter(pk=import_row.pk, dry_run=True, state__in=[State.DONE, *REQUEUABLE]).update(
            state=State.QUEUED, queued_at=timezone.now(), started_at=None, finished_at=None, phase="", step=0,
            total=0, error="", cancel_requested=False, **changes,
        )
        == 1
    )  # fmt: skip
    if queued:
        import_row.refresh_from_db()
        audit_import(import_row, action, actor)
        import_row.enqueue()
    return queued


def mapping_offered(import_row: Import, found: dict[str, Any]) -> tuple[Mapping, Import | None]:
    """What the mapping page begins with: the import's own mapping, that of the last import of the project with the
    same columns (and which it was), else guesses."""
    if import_row.mapping:
        return Mapping.from_json(import_row.mapping), None
    columns = set(found["columns"])
    earlier = (
        Import.objects.filter(project=import_row.project_id).exclude(pk=import_row.pk).exclude(mapping={})
    )
    for row in earlier.defer("report")[:50]:
        if set(row.mapping.get("roles", {})) == columns:
            return Mapping.from_json(row.mapping), row
    return guess(found), None


def import_files(
    *,
    project: Project,
    sources: Sequence[Source],
    format_name: str,
    dry_run: bool,
    folder: Path,
    mapping: Mapping | None = None,
    origin: Callable[[Report], Import] | None = None,
    batches: ImportQuerySet | None = None,
    progress: OnProgress = lambda phase, step, total: None,
    before_write: Callable[[int], None] = lambda records: None,
    written: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Import files into a project; the report says what was found, written and left out.

    `progress(phase, step, total)` is called between transactions while reading, and inside the one write transaction
    while writing; `before_write(records)` right before that transaction, `origin(report)` as its first act (the row
    that what is written points to) and `written(report)` as its last. With `batches` there are many transactions
    instead, each only while its row is among those (see importing.batches). `mapping` reads the format “mapped”. The
    rows left out are listed in `folder`/errors.jsonl. A source may be a zip or a folder: its files are read, and those
    that hold no data are named in the report. Raises ImportRefused, and then nothing was written.
    """
    started = time.monotonic()
    report = Report(dry_run=dry_run)
    if not sources:
        raise ImportRefused("There is no file to import. Choose one.")
    sources, passed_over = expanded(sources)
    report.format = recognise(sources) if format_name == Import.Format.AUTO else format_name
    reader: Reader | None = None
    if report.format == Import.Format.MAPPED:
        if mapping is None or not mapping.roles:
            raise NotRecognised("Nobody has said yet which column is what.")
        reader = Reader(mapping)
    elif report.format not in PARSERS:
        raise ImportRefused(f"There is no format “{report.format}”. Known: auto, {', '.join(PARSERS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / ERRORS).open("w", encoding="utf-8") as errors,
        tempfile.TemporaryDirectory(dir=folder) as work,
    ):
        problems = Problems(errors, report)
        spool = Spool(Path(work))
        try:
            spool_records(sources, report.format, spool, problems, report, progress, reader)
        finally:
            spool.close()
        report.files += passed_over
        if reader is not None:
            report.unused = reader.unused()
        _refuse_unusable(report, spool, problems)
        total = sum(spool.sizes.values())
        if not dry_run:
            before_write(total)
        with nullcontext() if dry_run or batches is not None else transaction.atomic():
            if not dry_run:
                # One import of a project at a time; rows that refer to the project may be added meanwhile. In batches
                # nothing is locked: there the row's claim sees to it.
                locked = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
                if locked.archived_at is not None:
                    raise ImportRefused(str(ProjectArchived(locked)))
            row = None if dry_run or origin is None else origin(report)
            with Loader() as loader:
                corpus = CorpusWriter(
                    project,
                    sources,
                    spool,
                    problems,
                    report,
                    loader,
                    write=not dry_run,
                    origin=row,
                    batches=batches,
                )
                _walk(corpus, spool, report, total, progress)
                if not report.found:
                    raise ImportRefused(
                        f"Nothing could be used: every row has a problem. The first: {problems.first}"
                    )
            preview_write(folder, report.preview)
            report.seconds = time.monotonic() - started
            if not dry_run:
                if batches is None:
                    recount(project)
                written(report)
    return report


def _refuse_unusable(report: Report, spool: Spool, problems: Problems) -> None:
    if not sum(spool.sizes.values()):
        first = f" The first: {problems.first}" if problems.first else ""
        raise ImportRefused(f"Nothing could be used: no row is in the format {report.format}.{first}")
    if report.format == Import.Format.UKP:
        if not spool.sizes["pairs"]:
            raise ImportRefused("UKPConvArg1 needs both of its files. Add pairs.jsonl.gz (the votes).")
        if not spool.sizes["responses"]:
            raise ImportRefused("UKPConvArg1 needs both of its files. Add responses.jsonl.gz (the texts).")


def _walk(corpus: CorpusWriter, spool: Spool, report: Report, total: int, progress: OnProgress) -> None:
    """Prompts, responses, pairs, votes, levels, counters: in this order, a chunk at a time."""
    labels = LabelWriter(corpus, write=corpus.write)
    steps: list[tuple[str, Callable[[list[Any]], None]]] = [
        ("prompts", corpus.write_prompts),
        ("responses", corpus.write_responses),
        ("pairs", corpus.write_pairs),
        ("implied", corpus.write_pairs),
        ("votes", labels.write_votes),
        ("levels", labels.write_levels),
    ]
    done = 0
    for record_type, step in steps:
        if record_type == "votes":
            corpus.pair_the_lone()
        for chunk in spool.chunks(record_type):
            step(chunk)
            done += len(chunk)
            progress("writing" if corpus.write else "checking", done, total)
    labels.write_counters()
    report.preview = first_items(corpus)
    by_id = {pair.id: labels.preview_votes.get(pair.pk, []) for pair in corpus.preview_pairs}
    for entry in report.preview:
        entry["votes"] = by_id.get(entry["pair"], [])


def sources_in(folder: Path) -> list[Source]:
    """The files of an import's folder, without what the import itself writes there."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [Source(path, path.name) for path in paths if path.is_file() and path.name not in OWN_FILES]


def import_run(import_row: Import) -> None:
    """Do the import of a QUEUED row: claim it, run it, and leave it DONE, FAILED or CANCELLED. Never raises.

    A row that somebody else has claimed is left alone.
    """
    imports_settle(import_row.project)
    if not import_row.claim():
        return
    with carried(import_row, explain=_explained), life.alive(import_row) as sign:
        _import(import_row, sign)
    import_next(project=import_row.project)


def _import(import_row: Import, sign: life.Life) -> None:
    folder = settings.DATA_DIR / import_row.folder
    shown = ProgressFile(folder / PROGRESS)
    last = 0.0

    def progress(phase: str, step: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN:
            return
        last = time.monotonic()
        if sign.cancelled:
            raise Stopped("cancelled")
        if phase == "writing":  # inside a transaction: other connections would not see the row change
            shown.write(step=step, total=total)
        else:
            import_row.proceed(phase=phase, step=step, total=total)

    mapping = Mapping.from_json(import_row.mapping) if import_row.mapping else None
    try:
        origin_fetch(import_row, folder, progress)
        with memory_limited():
            import_claimed(import_row, sources_in(folder), mapping=mapping, folder=folder, progress=progress)
    except NotRecognised as error:
        _ask(import_row, folder, str(error))
    finally:
        shown.remove()


def import_claimed(
    import_row: Import,
    sources: Sequence[Source],
    *,
    mapping: Mapping | None,
    folder: Path,
    progress: OnProgress,
    written: Callable[[Report], None] = lambda report: None,
) -> Report:
    """The import of a claimed row, which is DONE afterwards; `written` is called in the transaction that ends it.

    Raises what import_files does, and Stopped; then nothing was written, or it was taken back.
    """
    batches = running(import_row) if connection.vendor == "sqlite" and not import_row.dry_run else None

    def before_write(records: int) -> None:
        phase = "writing" if batches is None else Import.IN_BATCHES
        import_row.proceed(phase=phase, step=0, total=records)

    def ending(report: Report) -> None:
        whole = import_row.finish if batches is None else partial(import_row.beat, phase=Import.OPENING)
        with transaction.atomic():
            if not whole(report=report.as_json()):
                # Given up as lost meanwhile: roll back, so that the state tells the truth.
                raise Stopped("not ours")
            written(report)

    try:
        report = import_files(
            project=import_row.project,
            sources=sources,
            format_name=import_row.format,
            mapping=mapping,
            origin=lambda report: import_row,
            dry_run=import_row.dry_run,
            folder=folder,
            progress=progress,
            batches=batches,
            before_write=before_write,
            written=ending,
        )
        if batches is not None:
            import_open(import_row, batches)
        if import_row.dry_run or batches is not None:
            import_row.finish(report=report.as_json())
    finally:
        if batches is not None:
            import_settle(import_row)
    return report


def _ask(import_row: Import, folder: Path, why: str) -> None:
    """The files are in no known format: note what their columns hold, and leave the row to be asked about."""
    found = survey(sources_in(folder))
    if not import_row.dry_run or not found["columns"]:
        raise ImportRefused(why)
    survey_write(folder, found)
    import_row.finish(report={"asks": printable(why), "rows": found["rows"]})


def _explained(error: Exception) -> str:
    match error:
        case ImportRefused():
            return printable(str(error))
        case MemoryError():
            return f"{OUT_OF_MEMORY} Nothing was imported. Split the files."
        case IntegrityError() | OperationalError():
            return f"The database refused the import, and nothing was written ({error}). Try again."
        case OSError():
            return f"A file could not be read or written, and nothing was imported ({error})."
    return f"{type(error).__name__}: {error}. Nothing was imported; the worker's log has the traceback."
