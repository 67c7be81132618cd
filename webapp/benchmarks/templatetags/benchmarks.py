"""What pages of versions show of benchmarks; webapp.training itself knows nothing of them."""

from typing import Any

from django import template

from webapp.benchmarks.models import Measurement
from webapp.benchmarks.reports import Comparison, comparison
from webapp.corpus.models import Project
from webapp.training.models import ModelVersion

register = template.Library()


@register.simple_tag
def measured_in(project: Project) -> dict[int, list[Measurement]]:
    """The finished measurements of each version of a project, by the version's key. One query."""
    found: dict[int, list[Measurement]] = {}
    for one in Measurement.objects.of(project).with_names().done():
        found.setdefault(one.version_id, []).append(one)
    return found


@register.filter
def of_version(found: dict[int, list[Measurement]], pk: int) -> list[Measurement]:
    return found.get(pk, [])


@register.simple_tag
def benchmarks_of(version: ModelVersion | None) -> list[tuple[Any, Comparison]]:
    """Each set a version was measured on, with its lines. One query."""
    if version is None:
        return []
    done = Measurement.objects.filter(version=version).done().select_related("evaluation_set", "version")
    return [(one.evaluation_set, comparison([one])) for one in done]
