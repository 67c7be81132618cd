"""What takes seconds to add up in a large project: the worker adds it up and stores it, pages tell of when it is.

A small project's pages add it up themselves, so there it is always of now.
"""

import dataclasses
import logging
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from django.utils import timezone

from webapp.corpus.models import Pair, Project, Response
from webapp.ratings.leaderboard import Board, board_of
from webapp.ratings.models import Summary
from webapp.ratings.queries import Annotators, annotators_of, kept, labels_state, version_with_snapshot
from webapp.ratings.summaries import LabelSummary, label_summary
from webapp.training.models import ModelVersion

logger = logging.getLogger(__name__)

# A project of more judged pairs (or labelled responses) is a large one.
LARGE = 5000
# An old summary is made anew after so long, and after so many times what it took: labels come in all the time.
SECONDS, TIMES = 60, 20

T = TypeVar("T")


@dataclass(frozen=True)
class Stored(Generic[T]):
    """A summary; `as_of`: when it was made, where labels are newer. No value: the worker makes it now."""

    value: T | None
    as_of: datetime | None = None


def is_large(project: Project) -> bool:
    """One query, that stops counting there."""
    if project.asks_pairs:
        return Pair.objects.of(project).filter(judged__gt=0)[: LARGE + 1].count() > LARGE
    return Response.objects.of(project).filter(labelled__gt=0)[: LARGE + 1].count() > LARGE


def labels_of(project: Project) -> Stored[LabelSummary]:
    return _stored(project, "labels", LabelSummary, lambda: label_summary(project))


def leaderboard_of(project: Project, version: ModelVersion | None) -> Stored[Board]:
    name = f"board:{version.pk}" if version else "board"
    return _stored(project, name, Board, lambda: board_of(project, version))


def offered_annotators(project: Project, chosen: int | None) -> list[tuple[int, str]]:
    """Keys and names to choose from, by name: the people with the most labels, and the chosen one.

    Whoever is new in a large project comes into it a minute later.
    """
    if is_large(project):
        # Not compared with the newest labels: finding those takes SQLite longer than all else of a list.
        row, _ = Summary.objects.get_or_create(project=project, name="annotators")
        found = rebuilt(Annotators, row.value) if row.value else Annotators([], [])
    else:
        found = kept(f"annotators:{labels_state(project)}", lambda: annotators_of(project))
    offered = [(pk, name) for pk, name in found.busiest]
    if chosen is not None and chosen not in {pk for pk, _ in offered}:
        names = dict(found.others)
        offered.append((chosen, names.get(chosen, "somebody who labelled nothing here")))
    return sorted(offered, key=lambda each: (each[1].casefold(), each[0]))


def summaries_want(project: Project) -> None:
    """Somebody asks for a new count: the worker's next tick makes it."""
    Summary.objects.filter(project=project).update(wanted=True)


def summaries_make() -> int:
    """Make what is wanted or old, of all large projects; how many. The worker's part."""
    made = 0
    for project in Project.objects.order_by("pk"):
        if not is_large(project):
            continue
        state = _state(project)
        serving = project.versions.serving().values_list("pk", flat=True)
        names = {"labels", "annotators", "board", *(f"board:{pk}" for pk in serving)}
        names |= set(Summary.objects.filter(project=project).values_list("name", flat=True))
        for name in sorted(names):
            row, _ = Summary.objects.get_or_create(project=project, name=name)
            if row.made_at is not None and (row.state == state or not _is_due(row)):
                continue
            start, at = time.monotonic(), timezone.now()
            row.value = dataclasses.asdict(_make(project, name))
            row.state, row.made_at, row.wanted = state, at, False
            row.seconds = time.monotonic() - start
            row.save()
            made += 1
    return made


def _is_due(row: Summary) -> bool:
    assert row.made_at is not None
    return row.wanted or timezone.now() - row.made_at > timedelta(seconds=max(SECONDS, TIMES * row.seconds))


def _make(project: Project, name: str) -> Any:
    if name == "labels":
        return label_summary(project)
    if name == "annotators":
        return annotators_of(project)
    _, _, pk = name.partition(":")
    return board_of(project, version_with_snapshot(project, int(pk)) if pk else None)


def _stored(project: Project, name: str, kind: type[T], make: Callable[[], T]) -> Stored[T]:
    if not is_large(project):
        return Stored(make())
    row, _ = Summary.objects.get_or_create(project=project, name=name)
    if row.value is None or row.made_at is None:
        return Stored(None)
    return Stored(rebuilt(kind, row.value), None if row.state == _state(project) else row.made_at)


def _state(project: Project) -> str:
    """What a summary is of: the labels that there are, and the day."""
    return f"{labels_state(project)}:{timezone.localdate()}"


def rebuilt(kind: Any, value: Any) -> Any:
    """A dataclass (or list, tuple, dict, date ... of them) from what its JSON form gives back."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else rebuilt(arguments[0], value)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: rebuilt(hints[name], each) for name, each in value.items()})  # type: ignore[operator]
    if origin is list:
        return [rebuilt(arguments[0], each) for each in value]
    if origin is tuple:
        return tuple(rebuilt(hint, each) for hint, each in zip(arguments, value, strict=True))
    if kind is date:
        return date.fromisoformat(value)
    return value
