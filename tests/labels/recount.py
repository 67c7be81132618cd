"""The counters of pairs and responses, counted anew from the rows that they count."""

from typing import Any

from django.db import models
from django.db.models import Count
from django.db.models.functions import Coalesce

from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel


def counters_recount(*, project: Project) -> None:
    """Set every counter of the project. What was right before is unchanged."""
    held = Assignment.objects.filter(state=Assignment.State.OPEN, holds_place=True)
    Pair.objects.of(project).update(
        judged=_rows_of(Judgement.objects.verdicts(), "pair"), reserved=_rows_of(held, "pair")
    )
    Response.objects.of(project).update(
        labelled=_rows_of(QualityLabel.objects.current(), "response"), reserved=_rows_of(held, "response")
    )


def _rows_of(rows: models.QuerySet[Any], field: str) -> Any:
    """Subquery: how many of `rows` point at the outer row by `field`."""
    counted = (
        rows.filter(**{field: models.OuterRef("pk")})
        .order_by()
        .values(field)
        .annotate(n=Count("pk"))
        .values("n")
    )
    return Coalesce(models.Subquery(counted), 0)
