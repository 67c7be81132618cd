"""Whether the queue's numbers are those of the rows that they count: every night, and by `manage.py recount`.

Two sorts are kept in the transactions that change them: places, on each pair and response, and the counters of a
project. Neither should ever differ. What differs is mended and told, since it points to a fault.
"""

from typing import Any

from django.db import models, transaction
from django.db.models import Count, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Project
from webapp.labels.counters import PAIRS, RESPONSES, Subject, recount
from webapp.labels.models import Assignment, Judgement, QualityLabel


def counters_check(project: Project) -> list[str]:
    """Mend every number of the project that is wrong; a sentence for each."""
    told = []
    for subject in (PAIRS, RESPONSES):
        for pk in _wrong(subject, subject.of(project)).values_list("pk", flat=True):
            told += _mend(subject, project, pk)
    for number in recount(project):
        whose = f" of person {number.person}" if number.person else ""
        told.append(
            f"The counter “{number.name}”{whose} ({number.place.taken} taken, priority {number.place.priority}) "
            f"lacked {number.missing}."
        )
    return told


def _mend(subject: Subject, project: Project, pk: int) -> list[str]:
    with transaction.atomic():
        # Whoever changes its places holds this lock until their change is whole.
        subject.rows().select_for_update(no_key=True).get(pk=pk)
        row = _wrong(subject, subject.rows().filter(pk=pk)).first()
        if row is None:
            return []
        done = getattr(row, subject.done)
        subject.rows().filter(pk=pk).update(**{subject.done: row.true_done, "reserved": row.true_reserved})
        counters_forget(project.pk)
    return [
        f"The {subject.field} {row} had {done} {subject.done} and {row.reserved} reserved; "
        f"it has {row.true_done} and {row.true_reserved}."
    ]


def _wrong(subject: Subject, rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
    said: models.QuerySet[Any] = (
        Judgement.objects.verdicts() if subject is PAIRS else QualityLabel.objects.current()
    )
    held = Assignment.objects.open().filter(holds_place=True)
    rows = rows.annotate(
        true_done=number_of(said, subject.field), true_reserved=number_of(held, subject.field)
    )
    return rows.filter(~Q(**{subject.done: F("true_done")}) | ~Q(reserved=F("true_reserved"))).order_by("pk")


def number_of(rows: models.QuerySet[Any], field: str) -> Any:
    """How many of `rows` point at an outer pair or response by `field`, as an expression."""
    counted = rows.filter(**{field: OuterRef("pk")}).order_by().values(field).annotate(n=Count("pk"))
    return Coalesce(Subquery(counted.values("n")), 0)
