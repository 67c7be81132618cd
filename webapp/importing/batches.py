"""Imports on SQLite, which has one writer at a time: in short transactions, so that nobody who saves waits long.

    reading -> IN_BATCHES -> OPENING -> done      the phases of the Import row
                   `-> taken back                 killed, cancelled or failed: by the job itself, or at a tick

What is written IN_BATCHES is asked of nobody (`wanted` is 0), and no snapshot is taken of it. With OPENING the import
is whole: from there on it only goes forward, whoever does it, and each step may be done twice.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Import, ImportQuerySet, Pair, Project, Prompt, Response
from webapp.importing.spool import CHUNK, in_chunks
from webapp.jobs import State, Stopped
from webapp.labels.checking import number_of
from webapp.labels.counters import recount
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.names import imported_username

logger = logging.getLogger(__name__)

MODELS = {"levels": QualityLabel, "votes": Judgement, "pairs": Pair, "responses": Response, "prompts": Prompt}
# SQLite asks again after 1, 2, 5 ... 25 ms: somebody who waits for a batch finds the gap behind it.
GAP_SECONDS = 0.025


@contextmanager
def batch(still: ImportQuerySet) -> Iterator[None]:
    """One short transaction of a long work, only while its row is among those. Raises Stopped where it isn't."""
    with transaction.atomic():
        if not still.exists():
            raise Stopped("not ours")
        yield
    if not connection.in_atomic_block:
        time.sleep(GAP_SECONDS)


def running(row: Import) -> ImportQuerySet:
    """The row, while it is this process's claim that runs."""
    return Import.objects.filter(pk=row.pk, state=State.RUNNING, started_at=row.started_at)


def own(record_type: str, import_row: Import) -> QuerySet[Any]:
    return MODELS[record_type]._default_manager.filter(origin=import_row)


def import_settle(row: Import) -> None:
    """Take back an import that ended IN_BATCHES, or open the rest of one that ended OPENING."""
    mine = Import.objects.filter(pk=row.pk).filter(~Q(state=State.RUNNING) | Q(started_at=row.started_at))
    try:
        if mine.filter(phase=Import.OPENING).exists():
            import_open(row, mine)
            ended = {"state": State.DONE, "error": "", "finished_at": timezone.now()}
            with transaction.atomic():
                if mine.filter(phase=Import.OPENING).update(phase="", **ended):
                    row.refresh_from_db()
                    row.ended()
        elif (written := mine.filter(phase=Import.IN_BATCHES)).exists():
            _take_back(row, written)
            written.update(phase="")
    except Stopped:
        logger.info("import %s is settled by somebody else", row.pk)


def imports_settle(project: Project | None = None) -> int:
    """Those that nobody works on any more; returns how many."""
    rows = Import.objects.unfinished().exclude(state=State.RUNNING)
    found = list(rows if project is None else rows.filter(project=project))
    for row in found:
        import_settle(row)
    return len(found)


def import_open(row: Import, still: ImportQuerySet) -> None:
    """From now on judgements are wanted on what the import brought."""
    for model in (Pair, Response):
        last = 0
        closed = (
            model._default_manager.filter(origin=row, wanted=0).order_by("pk").values_list("pk", flat=True)
        )
        while pks := list(closed.filter(pk__gt=last)[:CHUNK]):
            with batch(still):
                project = Project.objects.get(pk=row.project_id)
                if model is Response and project.asks_pairs:
                    break
                wanted = (
                    Greatest(Value(project.overlap), F("judged")) if model is Pair else Value(project.overlap)
                )
                model._default_manager.filter(pk__in=pks, wanted=0).update(wanted=wanted)
            last = pks[-1]
    recount(Project.objects.get(pk=row.project_id))


def _take_back(row: Import, still: ImportQuerySet) -> None:
    """Remove what the import wrote; what its labels superseded is current again."""
    project = Project.objects.get(pk=row.project_id)
    for record_type, of in (("levels", "response"), ("votes", "pair")):
        while labels := list(own(record_type, row).values_list("pk", "supersedes", of)[:CHUNK]):
            with batch(still):
                rows = MODELS[record_type]._default_manager.filter(pk__in=[pk for pk, _, _ in labels])
                # Nothing points at them: nobody could see them.
                rows._raw_delete(rows.db)
                replaced = [pk for _, pk, _ in labels if pk is not None]
                MODELS[record_type]._default_manager.filter(pk__in=replaced).update(is_current=True)
                labels_recount(project, {record_type: {pk for _, _, pk in labels}})
    for record_type in ("pairs", "responses", "prompts"):
        while pks := list(own(record_type, row).values_list("pk", flat=True)[:CHUNK]):
            with batch(still):
                MODELS[record_type]._default_manager.filter(pk__in=pks).delete()
    with batch(still):
        named = User.objects.filter(username__startswith=imported_username(project, ""))
        annotators_without_labels(named.values("pk")).delete()
    recount(project)


def labels_recount(project: Project, touched: dict[str, set[int]]) -> None:
    """Count the labels of what stays anew; what only the import had raised is wanted no more."""
    for pks in in_chunks(sorted(touched.get("votes", ())), CHUNK):
        pairs = Pair.objects.filter(pk__in=pks)
        pairs.update(judged=number_of(Judgement.objects.verdicts(), "pair"))
        pairs.filter(wanted__gt=project.overlap).update(wanted=Greatest(F("judged"), Value(project.overlap)))
    for pks in in_chunks(sorted(touched.get("levels", ())), CHUNK):
        Response.objects.filter(pk__in=pks).update(
            labelled=number_of(QualityLabel.objects.current(), "response")
        )


def annotators_without_labels(pks: Iterable[int] | QuerySet[Any]) -> QuerySet[User]:
    """Imported names that have said nothing that is left."""
    said = [model._default_manager.filter(annotator=OuterRef("pk")) for model in (Judgement, QualityLabel)]
    return User.objects.filter(~Exists(said[0]), ~Exists(said[1]), pk__in=pks, kind=User.Kind.IMPORTED)
