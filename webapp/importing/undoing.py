"""Taking an import back, and throwing a preview away.

An import can be undone while nobody relies on what it wrote: no person (or simulated annotator) has judged any of it,
and no other import, and nobody by hand, has built on it. Then exactly the rows that it wrote go, and what its labels
had superseded is current again. Snapshots are frozen copies: they, and the models trained on them, stay as they are.
"""

import shutil
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action
from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Import, Pair, Project, Response
from webapp.importing.batches import MODELS, annotators_without_labels, imports_settle, labels_recount, own
from webapp.importing.services import audit_import
from webapp.importing.spool import CHUNK, in_chunks
from webapp.jobs import REQUEUABLE, State
from webapp.labels.machine_models import MachineAnswer
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.models import Source as LabelSource


class UndoRefused(ValueError):
    """Somebody relies on what the import wrote; the message says who."""


def written_by(import_row: Import) -> dict[str, int]:
    """How many rows of each type the import wrote and would take back."""
    counts = {record_type: own(record_type, import_row).count() for record_type in reversed(MODELS)}
    return {record_type: count for record_type, count in counts.items() if count}


def undo_obstacles(import_row: Import) -> list[str]:
    """Why the import cannot be undone, one sentence each; nothing if it can."""
    if import_row.state != State.DONE or import_row.dry_run:
        return ["It is not an import that was carried out."]
    if import_row.undone_at is not None:
        return ["It was undone before."]
    if not written_by(import_row):
        return [
            "It wrote nothing that could be taken back: either everything was there already, or it was made by an "
            "older version, which did not note what an import wrote."
        ]
    votes = _others(Judgement, import_row).filter(
        Q(pair__origin=import_row)
        | Q(pair__response_a__origin=import_row)
        | Q(pair__response_b__origin=import_row)
        | Q(supersedes__origin=import_row)
    )
    levels = _others(QualityLabel, import_row).filter(
        Q(response__origin=import_row)
        | Q(supersedes__origin=import_row)
        | Q(judgement__origin=import_row)
        | Q(judgement__pair__origin=import_row)
    )
    responses = _others(Response, import_row).filter(prompt__origin=import_row)
    pairs = _others(Pair, import_row).filter(
        Q(response_a__origin=import_row) | Q(response_b__origin=import_row)
    )
    asked = MachineAnswer.objects.filter(judgement__isnull=True).filter(
        Q(pair__origin=import_row)
        | Q(pair__response_a__origin=import_row)
        | Q(pair__response_b__origin=import_row)
    )
    return [
        *_judged(votes, levels),
        *_undecided(asked.count()),
        *_built("vote", votes.filter(source=LabelSource.IMPORT)),
        *_built("level", levels.filter(source=LabelSource.IMPORT)),
        *_built("response", responses),
        *_built("pair", pairs),
    ]


def _others(model: Any, import_row: Import) -> QuerySet[Any]:
    """Rows that something else than the import wrote."""
    rows: QuerySet[Any] = model._default_manager.filter(Q(origin__isnull=True) | ~Q(origin=import_row))
    return rows


def _judged(votes: QuerySet[Any], levels: QuerySet[Any]) -> list[str]:
    """Who judged how much of it, in one sentence."""
    counts: dict[str, int] = {}
    for rows in (votes, levels):
        found = rows.exclude(source=LabelSource.IMPORT).order_by().values_list("annotator__username")
        for username, number in found.annotate(number=Count("pk")):
            counts[username] = counts.get(username, 0) + number
    if not counts:
        return []
    named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{username} ({number:,})" for username, number in named[:5])
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    total = sum(counts.values())
    return [
        f"{total:,} judgement{'s' * (total != 1)} or level{'s' * (total != 1)} given here are on what it brought, "
        f"by {shown}{more}."
    ]


def _undecided(number: int) -> list[str]:
    """Answers of machine annotators that came to no judgement, in one sentence."""
    if not number:
        return []
    return [
        f"{number:,} answer{'s' * (number != 1)} of machine annotators without a verdict are on what it brought."
    ]


def _built(what: str, rows: QuerySet[Any]) -> list[str]:
    found = rows.order_by().values_list("origin").annotate(number=Count("pk"))
    return [
        f"{number:,} {what}{'s' * (number != 1)} "
        + (f"of import {origin}" if origin else "that were added otherwise")
        + f" rel{'y' if number != 1 else 'ies'} on it."
        + (f" Undo import {origin} first." if origin else "")
        for origin, number in sorted(found, key=lambda item: item[0] or 0)
    ]


@transaction.atomic
def import_undo(*, import_row: Import, actor: User | None = None) -> dict[str, int]:
    """Take back every row that the import wrote; how many of each type. Raises UndoRefused, and nothing changed."""
    project = Project.objects.select_for_update(no_key=True).get(pk=import_row.project_id)
    check_not_archived(project)
    import_row = Import.objects.select_for_update().get(pk=import_row.pk)
    # Whoever is judging one of them ends first, or finds it gone.
    for record_type in ("pairs", "responses"):
        list(own(record_type, import_row).order_by("pk").select_for_update().values_list("pk", flat=True))
    if obstacles := undo_obstacles(import_row):
        raise UndoRefused(" ".join(obstacles))
    counts = written_by(import_row)
    touched = {
        "votes": set(_kept(Judgement, "pair", import_row)),
        "levels": set(_kept(QualityLabel, "response", import_row)),
    }
    annotators = {
        pk
        for record_type in ("votes", "levels")
        for pk in own(record_type, import_row).order_by().values_list("annotator", flat=True).distinct()
    }
    for record_type in ("levels", "votes"):
        replaced = [
            pk for pk in own(record_type, import_row).values_list("supersedes", flat=True) if pk is not None
        ]
        rows = own(record_type, import_row)
        # Nothing points at them any more (that was looked up above), so the collector has nothing to collect.
        rows._raw_delete(rows.db)
        for pks in in_chunks(replaced, CHUNK):
            MODELS[record_type]._default_manager.filter(pk__in=pks).update(is_current=True)
    for record_type in ("pairs", "responses", "prompts"):
        own(record_type, import_row).delete()
    labels_recount(project, touched)
    counters_forget(project.pk)
    annotators_without_labels(annotators).delete()
    Import.objects.filter(pk=import_row.pk).update(undone_at=timezone.now())
    audit_import(import_row, Action.IMPORT_UNDONE, actor)
    return counts


def _kept(model: Any, of: str, import_row: Import) -> Iterable[int]:
    """What the import's labels are on and that stays."""
    rows = model._default_manager.filter(origin=import_row)
    others = rows.filter(Q(**{f"{of}__origin__isnull": True}) | ~Q(**{f"{of}__origin": import_row}))
    found: Iterable[int] = others.order_by().values_list(f"{of}_id", flat=True).distinct()
    return found


@transaction.atomic
def import_discard(*, import_row: Import, actor: User | None = None) -> bool:
    """Throw away a preview, or an import that failed, with its files. False: it runs, or it wrote something."""
    check_not_archived(import_row.project)
    imports_settle(import_row.project)
    removable = Q(dry_run=True, state=State.DONE) | Q(state__in=REQUEUABLE)
    found = Import.objects.select_for_update().filter(removable, pk=import_row.pk).first()
    if found is None:
        return False
    audit_import(found, Action.IMPORT_DISCARDED, actor)
    folder = settings.DATA_DIR / found.folder
    found.delete()
    # What cannot be removed now is swept later, since no row speaks of it.
    transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))
    return True
