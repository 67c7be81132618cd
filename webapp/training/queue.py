"""Where a training stands in the queue, what is ahead of it, and how long that should take, from past runs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.base_models import base_model_public
from webapp.corpus.models import Membership, Method, Project
from webapp.jobs import State
from webapp.training.models import TrainingRun

# How many past runs an estimate is made of.
PAST_RUNS = 10
# At most: one training on all labels and five on four fifths of them, but what is measured is measured once.
TIMES_FOLDED = 5
KINDS_TOLD = 3


class Kind(NamedTuple):
    """Trainings that take about equally long a label."""

    method: str
    tuning: str
    base_model: str
    folded: bool


@dataclass(frozen=True)
class Ahead:
    """A training that comes first. `shown`: the reader may look at its page, else only its method is told."""

    run: TrainingRun
    shown: bool


@dataclass(frozen=True)
class Place:
    """A waiting run's position (from 1), what is ahead, and estimates; None: no past run tells."""

    position: int
    running: list[Ahead]
    waiting: list[Ahead]
    begins: timedelta | None
    takes: timedelta | None


def places(runs: Sequence[TrainingRun], user: User) -> dict[int, Place]:
    """The places of the runs among these that wait, by primary key."""
    if not any(run.state == State.QUEUED for run in runs):
        return {}
    queue = list(TrainingRun.objects.active().select_related("project").order_by("queued_at", "pk"))
    readable = _readable(user)
    ahead = {each.pk: Ahead(each, user.is_superuser or each.project_id in readable) for each in queue}
    running = [each for each in queue if each.state == State.RUNNING]
    waiting = [each for each in queue if each.state == State.QUEUED]
    rates: dict[Kind, float | None] = {}
    found = {}
    wanted = {run.pk for run in runs}
    for number, run in enumerate(waiting):
        if run.pk in wanted:
            before = [left(each, rates) for each in [*running, *waiting[:number]]]
            known = [each for each in before if each is not None]
            # As many at a time as run now: that many workers are there, at least.
            begins = sum(known, timedelta()) / max(1, len(running)) if len(known) == len(before) else None
            found[run.pk] = Place(
                position=number + 1,
                running=[ahead[each.pk] for each in running],
                waiting=[ahead[each.pk] for each in waiting[:number]],
                begins=begins,
                takes=left(run, rates),
            )
    return found


def left(run: TrainingRun, rates: dict[Kind, float | None] | None = None) -> timedelta | None:
    """How long an active run should still take; None where no run of its kind has ended, or it takes longer already."""
    kind = Kind(
        run.method, str(run.config.get("tuning")), str(run.config.get("base_model")), folded=run.folded
    )
    rates = {} if rates is None else rates
    if kind not in rates:
        rates[kind] = seconds_per_label(*kind)
    if (rate := rates[kind]) is None:
        return None
    whole = timedelta(seconds=rate * max(1, run.labels_seen))
    if run.state != State.RUNNING or run.started_at is None:
        return whole
    rest = whole - (timezone.now() - run.started_at)
    return rest if rest > timedelta() else None


def seconds_per_label(method: str, tuning: str, base_model: str, folded: bool = False) -> float | None:
    """The median of the newest finished runs of this method, tuning and base model, whatever their project.

    `folded`: cross-fitted ones of tuned weights; where there was none, as many times what a plain one takes.
    """
    same = {"config__tuning": tuning, "config__base_model": base_model}
    times = {"started_at__isnull": False, "finished_at__isnull": False, "labels_seen__gt": 0}
    runs = TrainingRun.objects.trained(method, {**same, **times}, folded=folded)
    rows = runs.values_list("started_at", "finished_at", "labels_seen")[:PAST_RUNS]
    seconds = [
        (ended - started).total_seconds() / labels for started, ended, labels in rows if started and ended
    ]
    if seconds:
        return statistics.median(seconds)
    plain = seconds_per_label(method, tuning, base_model) if folded else None
    return None if plain is None else TIMES_FOLDED * plain


def crossfit_costs(project: Project, labels: int) -> list[tuple[str, timedelta]]:
    """How long a cross-fitted training of these labels should take, for the kinds that the project tuned last.

    Seven queries at most, one for a project that tuned nothing.
    """
    kinds: list[Kind] = []
    for run in project.runs.filter(state=State.DONE, same_as=None)[:PAST_RUNS]:
        kind = Kind(run.method, str(run.config.get("tuning")), str(run.config.get("base_model")), True)
        if kind.tuning != "frozen" and kind not in kinds:
            kinds.append(kind)
    found = []
    for kind in kinds[:KINDS_TOLD]:
        if (rate := seconds_per_label(*kind)) is not None:
            name = f"{Method(kind.method).label}, {base_model_public(kind.base_model)}"
            found.append((name, timedelta(seconds=rate * labels)))
    return found


def _readable(user: User) -> set[int]:
    """The projects whose runs somebody may look at."""
    roles = (Membership.Role.RESEARCHER, Membership.Role.ADMIN)
    return set(
        Project.objects.filter(memberships__user=user, memberships__role__in=roles).values_list(
            "pk", flat=True
        )
    )
