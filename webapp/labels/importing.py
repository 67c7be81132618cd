"""Importing labels, and the order of a whole import: read, check, write.

    read    the files once, row by row, into a spool (no transaction is open, progress goes into the row)
    check   what is new, what is there already, what contradicts (a dry run ends here)
    write   the same walk, with the new rows, in one transaction that also finishes the Import row

Nothing is half-imported: rows with problems are left out, listed and counted; everything else is there after the
commit, or nothing is. Importing a file again changes nothing.

Decided: an annotator's repeated verdict on a pair is "present" if it says the same; another verdict supersedes the
imported one (append-only), unless it is older. Imports never overrule people: a verdict that contradicts what a
person said in the browser under the same name is left out.
"""

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import F, Model
from django.db.models.functions import Greatest

from webapp import life
from webapp.accounts.models import User
from webapp.corpus.formats import PARSERS, LevelRecord, VoteRecord, recognise
from webapp.corpus.importing import (
    CHUNK,
    ERRORS,
    OWN_FILES,
    PROGRESS,
    CorpusWriter,
    Known,
    Problems,
    Progress,
    Report,
    Spool,
    Where,
    import_next,
    in_chunks,
    shorten,
    spool_records,
)
from webapp.corpus.models import Import, Pair, Project, Response
from webapp.corpus.reading import ImportRefused, Source, printable
from webapp.jobs import ProgressFile
from webapp.labels.models import Judgement, QualityLabel, Verdict
from webapp.labels.models import Source as LabelSource
from webapp.labels.names import imported_username
from webapp.limits import OUT_OF_MEMORY, memory_limited

logger = logging.getLogger(__name__)

_SWAPPED = {"a": "b", "b": "a"}


class Stopped(Exception):
    """The row is no longer RUNNING, or its cancel button was pressed."""


class _Annotator:
    """An imported name: its user, and whether a person judges under the same name in this project."""

    __slots__ = ("counted", "fresh", "name", "pk")

    def __init__(self, name: str, pk: int, *, fresh: bool) -> None:
        self.name, self.pk, self.fresh, self.counted = name, pk, fresh, False


class _Said:
    """A current word of somebody on something: what, when, by whom, and the row's key."""

    __slots__ = ("annotator_pk", "by_person", "created_at", "pk", "what")

    def __init__(
        self,
        pk: int,
        what: tuple[Any, ...],
        created_at: datetime | None,
        annotator_pk: int,
        *,
        by_person: bool,
    ) -> None:
        self.pk, self.what, self.created_at = pk, what, created_at
        self.annotator_pk, self.by_person = annotator_pk, by_person


class LabelWriter:
    """Finds or writes annotators, votes and levels of an import. Stand-ins and counts as in CorpusWriter."""

    def __init__(self, corpus: CorpusWriter, *, write: bool) -> None:
        self.corpus, self.report, self.project, self.write = corpus, corpus.report, corpus.project, write
        self.annotators: dict[str, _Annotator] = {}
        self.people: dict[str, _Annotator] = {}
        # What the files themselves said so far, by (pair or response, annotator).
        self._votes: dict[tuple[int, int], tuple[tuple[Any, ...], int]] = {}
        self._levels: dict[tuple[int, int], tuple[tuple[Any, ...], int]] = {}
        self.judged: dict[int, int] = defaultdict(int)
        self.labelled: dict[int, int] = defaultdict(int)
        self.preview_votes: dict[int, list[dict[str, str]]] = defaultdict(list)

    def _look_up_annotators(self, names: Iterable[str]) -> None:
        missing = sorted({name for name in names if name not in self.annotators})
        usernames = {imported_username(self.project, name): name for name in missing}
        for username, pk in User.objects.filter(username__in=usernames).values_list("username", "pk"):
            name = usernames.pop(username)
            self.annotators[name] = _Annotator(name, pk, fresh=False)
        fresh = [
            (
                _Annotator(name, 0, fresh=True),
                User(
                    username=username, kind=User.Kind.IMPORTED, is_active=False, password=make_password(None)
                ),
            )
            for username, name in usernames.items()
        ]
        self.corpus.create(User, fresh)  # type: ignore[arg-type]
        self.annotators |= {annotator.name: annotator for annotator, _ in fresh}

    def _annotator(self, name: str, before: _Said | None) -> _Annotator:
        """The imported annotator of that name, or the person whose own word has come back."""
        if before is not None and before.by_person:
            return self.people.setdefault(name, _Annotator(name, before.annotator_pk, fresh=False))
        return self.annotators[name]

    def _met(self, annotator: _Annotator) -> None:
        if not annotator.counted:
            annotator.counted = True
            self.report.count("annotators", "found")
            self.report.count("annotators", "new" if annotator.fresh else "present")

    def _current(
        self, model: type[Model], of: str, keys: set[int], what: tuple[str, ...]
    ) -> dict[tuple[int, str], _Said]:
        """Current words on these pairs (responses) by (key, the annotator's username)."""
        said = {}
        rows = model._default_manager.filter(**{f"{of}__in": keys, "is_current": True}).values_list(
            "pk",
            f"{of}_id",
            "created_at",
            "retraction",
            "annotator",
            "annotator__username",
            "annotator__kind",
            *what,
        )
        for pk, key, created_at, retraction, user, username, kind, *values in rows:
            words = ("retracted",) if retraction else tuple(values)
            said[key, username] = _Said(pk, words, created_at, user, by_person=kind == User.Kind.PERSON)
        return said

    def _before(self, said: dict[tuple[int, str], _Said], key: int, name: str) -> _Said | None:
        """What the imported annotator said; else what the person of that name did, who is met when an export of this
        project comes back into it."""
        if before := said.get((key, imported_username(self.project, name))):
            return before
        before = said.get((key, name))
        return before if before and before.by_person else None

    def _verdict(
        self,
        where: Where,
        field: str,
        record: VoteRecord | LevelRecord,
        key: tuple[int, int],
        what: tuple[Any, ...],
        earlier: dict[tuple[int, int], tuple[tuple[Any, ...], int]],
        said: _Said | None,
    ) -> str | None:
        """new, present or changed; None if the row is left out (and why is reported)."""
        remedy = "Keep one of the two rows."
        if before := earlier.get(key):
            if before[0] != what:
                message = f"differs from row {before[1]}, where “{record.annotator}” judged the same."
                self.corpus.problem(where, field, message, remedy)
                return None
            return "repeated"
        if said is None:
            return "new"
        if said.what == what:
            return "present"
        if said.by_person:
            message = (
                f"contradicts what the person “{record.annotator}” said here; imports don't overrule people."
            )
            self.corpus.problem(where, field, message, "Give the imported annotator another name.")
            return None
        if (
            record.created_at
            and said.created_at
            and datetime.fromisoformat(record.created_at) < said.created_at
        ):
            message = f"differs from the newer word of “{record.annotator}” that is in the project already."
            self.corpus.problem(where, field, message, "Leave the row out, or give it a later created_at.")
            return None
        return "changed"

    # Votes

    def write_votes(self, chunk: list[tuple[Where, VoteRecord]]) -> None:
        corpus = self.corpus
        corpus.look_up_pairs(record.pair for _, record in chunk if record.pair)
        corpus.look_up(
            "responses", corpus.responses, (id for _, r in chunk if not r.pair for id in (r.a, r.b))
        )
        votes: list[tuple[Where, VoteRecord, Known]] = []
        for where, record in chunk:
            if record.pair:
                found = corpus.pair_named(record.pair)
                if found is None:
                    corpus.unknown(where, "pair", "pair", record.pair)
                    continue
            else:
                a, b = corpus.responses.get(record.a), corpus.responses.get(record.b)
                found = corpus.pair_of(a.pk, b.pk) if a and b else None
                if found is None:
                    continue  # its pair was left out, and the row with it
            pair, swapped = found
            if swapped:
                verdict, left = _SWAPPED.get(record.verdict, record.verdict), _SWAPPED.get(record.left, "")
                record = record._replace(verdict=verdict, left=left)
            votes.append((where, record, pair))
        said = self._current(
            Judgement, "pair", {pair.pk for _, _, pair in votes if not pair.fresh}, ("verdict", "strength")
        )
        known = [self._before(said, pair.pk, record.annotator) for _, record, pair in votes]
        self._look_up_annotators(
            record.annotator
            for (_, record, _), before in zip(votes, known, strict=True)
            if before is None or not before.by_person
        )
        fresh: list[Judgement] = []
        for (where, record, pair), before in zip(votes, known, strict=True):
            annotator = self._annotator(record.annotator, before)
            key, what = (pair.pk, annotator.pk), (record.verdict, record.strength)
            outcome = self._verdict(where, "verdict", record, key, what, self._votes, before)
            if outcome is None or outcome == "repeated":
                continue
            self._votes[key] = (what, where.row)
            self._met(annotator)
            self.report.count("votes", "found")
            self.report.count("votes", outcome)
            if pair in corpus.preview_pairs and len(self.preview_votes[pair.pk]) < 8:
                vote = {
                    "annotator": record.annotator,
                    "verdict": record.verdict,
                    "comment": shorten(record.comment, 120),
                }
                self.preview_votes[pair.pk].append(vote)
            if outcome == "present":
                continue
            old = before if outcome == "changed" else None
            silent = (Verdict.SKIP, "retracted")
            self.judged[pair.pk] += (record.verdict != Verdict.SKIP) - (
                old is not None and old.what[0] not in silent
            )
            if self.write:
                fresh.append(self._judgement(record, pair, annotator, old))
        self._store(Judgement, fresh)

    def _judgement(
        self, record: VoteRecord, pair: Known, annotator: _Annotator, old: _Said | None
    ) -> Judgement:
        return Judgement(
            pair_id=pair.pk,
            annotator_id=annotator.pk,
            verdict=record.verdict,
            strength=record.strength,
            reasons=list(record.reasons),
            comment=record.comment,
            left=record.left,
            shown_at=datetime.fromisoformat(record.shown_at) if record.shown_at else None,
            created_at=datetime.fromisoformat(record.created_at) if record.created_at else self.corpus.now,
            policy=record.policy,
            propensity=record.propensity,
            source=LabelSource.IMPORT,
            client_key=f"import:{pair.pk}:{annotator.pk}:{old.pk if old else 0}",
            supersedes_id=old.pk if old else None,
        )

    def _store(self, model: type[Judgement] | type[QualityLabel], rows: Sequence[Any]) -> None:
        replaced = [row.supersedes_id for row in rows if row.supersedes_id]
        for pks in in_chunks(replaced, CHUNK):
            model._default_manager.filter(pk__in=pks).update(is_current=False)
        model._default_manager.bulk_create(rows)

    # Levels

    def write_levels(self, chunk: list[tuple[Where, LevelRecord]]) -> None:
        corpus = self.corpus
        corpus.look_up("responses", corpus.responses, (record.response for _, record in chunk))
        levels: list[tuple[Where, LevelRecord, Known]] = []
        for where, record in chunk:
            if response := corpus.responses.get(record.response):
                levels.append((where, record, response))
            else:
                corpus.unknown(where, "response", "response", record.response)
        old = {response.pk for _, _, response in levels if not response.fresh}
        said = self._current(QualityLabel, "response", old, ("level",))
        known = [self._before(said, response.pk, record.annotator) for _, record, response in levels]
        self._look_up_annotators(
            record.annotator
            for (_, record, _), before in zip(levels, known, strict=True)
            if before is None or not before.by_person
        )
        fresh = []
        for (where, record, response), before in zip(levels, known, strict=True):
            annotator = self._annotator(record.annotator, before)
            key, what = (response.pk, annotator.pk), (record.level,)
            outcome = self._verdict(where, "level", record, key, what, self._levels, before)
            if outcome is None or outcome == "repeated":
                continue
            self._levels[key] = (what, where.row)
            self._met(annotator)
            self.report.count("levels", "found")
            self.report.count("levels", outcome)
            if outcome == "present":
                continue
            replaced = before if outcome == "changed" else None
            self.labelled[response.pk] += 1 - (replaced is not None and replaced.what[0] != "retracted")
            if self.write:
                fresh.append(
                    QualityLabel(
                        response_id=response.pk,
                        annotator_id=annotator.pk,
                        level=record.level,
                        comment=record.comment,
                        created_at=datetime.fromisoformat(record.created_at)
                        if record.created_at
                        else corpus.now,
                        source=LabelSource.IMPORT,
                        client_key=f"import:{response.pk}:{annotator.pk}:{replaced.pk if replaced else 0}",
                        supersedes_id=replaced.pk if replaced else None,
                    )
                )
        self._store(QualityLabel, fresh)

    # Counters

    def write_counters(self) -> None:
        """Add what was imported to the queue's counters, last, so that their rows are locked only briefly.

        A pair that came with more votes than the project wants wants exactly those: it is complete, and asked no more.
        """
        if not self.write:
            return
        for delta, pks in _by_value(self.judged).items():
            for chunk in in_chunks(pks, CHUNK):
                Pair.objects.filter(pk__in=chunk).update(
                    judged=F("judged") + delta, wanted=Greatest(F("wanted"), F("judged") + delta)
                )
        for delta, pks in _by_value(self.labelled).items():
            for chunk in in_chunks(pks, CHUNK):
                Response.objects.filter(pk__in=chunk).update(labelled=F("labelled") + delta)


def _by_value(counts: dict[int, int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for pk, count in sorted(counts.items()):
        if count:
            groups[count].append(pk)
    return groups


# The whole import --------------------------------------------------------------------------------------------


def import_files(
    *,
    project: Project,
    sources: Sequence[Source],
    format_name: str,
    dry_run: bool,
    folder: Path,
    progress: Progress = lambda phase, step, total: None,
    before_write: Callable[[int], None] = lambda records: None,
    written: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Import files into a project; the report says what was found, written and left out.

    `progress(phase, step, total)` is called between transactions while reading, and inside the one write transaction
    while writing; `before_write(records)` right before that transaction and `written(report)` as its last act. The
    rows left out are listed in `folder`/errors.jsonl. Raises ImportRefused, and then nothing was written.
    """
    started = time.monotonic()
    report = Report(dry_run=dry_run)
    if not sources:
        raise ImportRefused("There is no file to import. Choose one.")
    report.format = recognise(sources) if format_name == Import.Format.AUTO else format_name
    if report.format not in PARSERS:
        raise ImportRefused(f"There is no format “{report.format}”. Known: auto, {', '.join(PARSERS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / ERRORS).open("w", encoding="utf-8") as errors,
        tempfile.TemporaryDirectory(dir=folder) as work,
    ):
        problems = Problems(errors, report)
        spool = Spool(Path(work))
        try:
            spool_records(sources, report.format, spool, problems, report, progress)
        finally:
            spool.close()
        _refuse_unusable(report, spool, problems)
        total = sum(spool.sizes.values())
        if not dry_run:
            before_write(total)
        with nullcontext() if dry_run else transaction.atomic():
            if not dry_run:
                # One import of a project at a time; rows that refer to the project may be added meanwhile.
                Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            _walk(project, sources, spool, problems, report, total, progress, write=not dry_run)
            if not report.found:
                raise ImportRefused(
                    f"Nothing could be used: every row has a problem. The first: {problems.first}"
                )
            report.seconds = time.monotonic() - started
            if not dry_run:
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


def _walk(
    project: Project, sources: Sequence[Source], spool: Spool, problems: Problems, report: Report, total: int,
    progress: Progress, *, write: bool,
) -> None:  # fmt: skip
    """Prompts, responses, pairs, votes, levels, counters: in this order, a chunk at a time."""
    corpus = CorpusWriter(project, sources, spool, problems, report, write=write)
    labels = LabelWriter(corpus, write=write)
    steps: list[tuple[str, Callable[[list[Any]], None]]] = [
        ("prompts", corpus.write_prompts),
        ("responses", corpus.write_responses),
        ("pairs", corpus.write_pairs),
        ("implied", corpus.write_pairs),
        ("votes", labels.write_votes),
        ("levels", labels.write_levels),
    ]
    done = 0
    for kind, step in steps:
        for chunk in spool.chunks(kind):
            step(chunk)
            done += len(chunk)
            progress("writing" if write else "checking", done, total)
    labels.write_counters()
    report.preview = corpus.preview()
    by_id = {pair.id: labels.preview_votes.get(pair.pk, []) for pair in corpus.preview_pairs}
    for entry in report.preview:
        entry["votes"] = by_id.get(entry.get("pair", ""), [])


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
    if not import_row.claim():
        return
    with life.alive(import_row) as sign:
        _import_run(import_row, sign)
    import_next(project=import_row.project)


def _import_run(import_row: Import, sign: life.Life) -> None:
    folder = settings.DATA_DIR / import_row.folder
    shown = ProgressFile(folder / PROGRESS)
    last = 0.0

    def progress(phase: str, step: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last < 0.5:
            return
        last = time.monotonic()
        if sign.cancelled:
            raise Stopped
        if phase == "writing":  # inside the transaction: other connections would not see the row change
            shown.write(step=step, total=total)
        elif not import_row.beat(phase=phase, step=step, total=total) or _cancelled(import_row):
            raise Stopped

    def before_write(records: int) -> None:
        if _cancelled(import_row) or not import_row.beat(phase="writing", step=0, total=records):
            raise Stopped

    def written(report: Report) -> None:
        if not import_row.finish(report=report.as_json()):
            raise Stopped  # given up as lost meanwhile: roll back, so that the state tells the truth

    try:
        with memory_limited():
            report = import_files(
                project=import_row.project,
                sources=sources_in(folder),
                format_name=import_row.format,
                dry_run=import_row.dry_run,
                folder=folder,
                progress=progress,
                before_write=before_write,
                written=written,
            )
        if import_row.dry_run:
            import_row.finish(report=report.as_json())
    except Stopped:
        import_row.stop()
    except ImportRefused as error:
        import_row.fail(printable(str(error)))
    except MemoryError:
        logger.warning("import %s needed more memory than it may take", import_row.pk)
        import_row.fail(f"{OUT_OF_MEMORY} Nothing was imported. Split the files.")
    except (IntegrityError, OperationalError) as error:
        logger.exception("import %s failed", import_row.pk)
        import_row.fail(f"The database refused the import, and nothing was written ({error}). Try again.")
    except OSError as error:
        logger.exception("import %s failed", import_row.pk)
        import_row.fail(f"A file could not be read or written, and nothing was imported ({error}).")
    except Exception as error:
        logger.exception("import %s failed", import_row.pk)
        import_row.fail(
            f"{type(error).__name__}: {error}. Nothing was imported; the worker's log has the traceback."
        )
    finally:
        shown.remove()


def _cancelled(import_row: Import) -> bool:
    return Import.objects.filter(pk=import_row.pk, cancel_requested=True).exists()
