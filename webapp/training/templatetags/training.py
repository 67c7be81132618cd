"""Filters of the training pages."""

from datetime import timedelta

from django import template
from django.utils import timezone

from webapp.training.models import TrainingRun
from webapp.words import duration

register = template.Library()


register.filter(duration)


@register.filter
def took(run: TrainingRun) -> timedelta | None:
    """How long a run took, or has been running."""
    if run.started_at is None:
        return None
    return (run.finished_at or timezone.now()) - run.started_at


@register.filter
def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign and fixed digits, an en dash for None."""
    if value is None:
        return "–"
    # No sign before what rounds to nothing.
    rounded = round(value, digits) or 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


@register.filter
def tiny(value: float | None) -> str:
    """A number that should be next to nothing, in two digits that count; an en dash for None."""
    return "–" if value is None else f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.2g}"
