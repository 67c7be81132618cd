"""What the page of rollouts shows: rewards over time beside what people said, by version, and the newest pairs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.db.models import Count, Max, Q

from webapp.corpus.models import Project
from webapp.labels.models import VERDICTS, Judgement, Level, QualityLabel
from webapp.labels.summaries import Votes
from webapp.ratings.queries import kept, labels_state
from webapp.rollouts.models import RolloutPair, RolloutWindow
from webapp.rollouts.monitor import (
    Comparison,
    Judged,
    Rewards,
    Share,
    compare,
    pooled,
    share_of,
    towards_preferred,
    weighted_mean,
)
from webapp.training.models import ModelVersion

WINDOWS = 2_000
"""The newest windows that a page looks at."""

POINTS = 16
"""Points of a picture: more would not be told apart on a phone."""


@dataclass(frozen=True)
class Point:
    """Some windows of one version, one after the other: what was scored, and what people said of the random pairs.

    `expected`: how often the proxy expects to be agreed with on those judged; `good`: share of levels that are good.
    """

    version: str
    since: datetime
    until: datetime
    windows: int
    rewards: Rewards
    length: float
    expected: float | None
    people: Share | None
    good: Share | None


@dataclass(frozen=True)
class OfVersion:
    """One version's rollouts: how many were scored, how many pairs asked, and proxy against people on random pairs and
    on pairs of an earlier and a later rollout.
    """

    version: ModelVersion
    scored: int
    asked: int
    random: int
    comparison: Comparison | None
    later: Comparison | None

    @property
    def parted(self) -> list[Comparison]:
        return [each for each in (self.comparison, self.later) if each is not None and each.parted]


@dataclass(frozen=True)
class Overview:
    """All that the pictures and tables need. `versions`: the one that scored last comes first."""

    points: list[Point]
    versions: list[OfVersion]
    more: bool

    @property
    def newest(self) -> OfVersion | None:
        return self.versions[0] if self.versions else None


def overview(project: Project) -> Overview:
    """The newest windows with what came of them; the process keeps it while no label and no window comes."""
    newest = (
        RolloutWindow.objects.filter(project=project).order_by("-pk").values_list("pk", flat=True).first()
    )
    return kept(f"rollouts:{labels_state(project)}:{newest}", lambda: _read(project))


def _read(project: Project) -> Overview:
    """Eight queries, whatever the number of rows."""
    windows = list(RolloutWindow.objects.filter(project=project).order_by("-until", "-pk")[: WINDOWS + 1])
    more, windows = len(windows) > WINDOWS, windows[:WINDOWS][::-1]
    if not windows:
        return Overview([], [], False)
    first = windows[0].pk if not more else min(window.pk for window in windows)
    judged = _judged(_drawn(project, first))
    later = _judged(RolloutPair.objects.of(project).later().filter(window__gte=first))
    good = _levels(project, first)
    asked = _asked(project, first)
    by_version: dict[int, list[RolloutWindow]] = defaultdict(list)
    for window in windows:
        by_version[window.version_id].append(window)
    found = project.versions.filter(pk__in=by_version).defer("metrics").in_bulk()
    points = []
    for key, rows in by_version.items():
        number = max(1, round(POINTS * len(rows) / len(windows)))
        points += [_point(found[key], part, judged, good) for part in _parts(rows, number)]
    last = {key: rows[-1].until for key, rows in by_version.items()}
    versions = [
        OfVersion(
            version=found[key],
            scored=sum(row.seen for row in by_version[key]),
            asked=sum(asked[row.pk][0] for row in by_version[key]),
            random=sum(asked[row.pk][1] for row in by_version[key]),
            comparison=compare(pair for row in by_version[key] for pair in judged.get(row.pk, ())),
            later=compare(pair for row in by_version[key] for pair in later.get(row.pk, ())),
        )
        for key in sorted(by_version, key=lambda key: last[key], reverse=True)
    ]
    return Overview(sorted(points, key=lambda point: point.until), versions, more)


def _parts(rows: Sequence[RolloutWindow], number: int) -> list[Sequence[RolloutWindow]]:
    """Rows in about equal parts, in their order."""
    number = min(number, len(rows))
    edges = [round(place * len(rows) / number) for place in range(number + 1)]
    return [rows[start:stop] for start, stop in pairwise(edges)]


def _point(
    version: ModelVersion,
    rows: Sequence[RolloutWindow],
    judged: dict[int, list[Judged]],
    good: dict[int, list[float]],
) -> Point:
    rewards = pooled([(row.seen, row.reward_mean, row.reward_sd) for row in rows])
    assert rewards is not None  # a window in which nothing was scored is not taken
    pairs = [pair for row in rows for pair in judged.get(row.pk, ())]
    weights = [pair.weight for pair in pairs]
    levels = [value for row in rows for value in good.get(row.pk, ())]
    return Point(
        version=version.address,
        since=rows[0].since,
        until=rows[-1].until,
        windows=len(rows),
        rewards=rewards,
        length=weighted_mean([row.length_mean for row in rows], [row.seen for row in rows]),
        expected=weighted_mean([pair.expected for pair in pairs], weights) if pairs else None,
        people=share_of([pair.agreed for pair in pairs], weights) if pairs else None,
        good=share_of(levels, [1.0] * len(levels)) if levels else None,
    )


def votes_of(pairs: Iterable[int]) -> dict[int, tuple[Votes, datetime]]:
    """Votes by pair, and when the newest was given."""
    rows = Judgement.objects.verdicts().filter(pair__in=pairs).order_by().values("pair_id")
    counts = {f"n_{verdict}": Count("pk", filter=Q(verdict=verdict)) for verdict in VERDICTS}
    names = [f"n_{verdict}" for verdict in VERDICTS]
    found = rows.annotate(**counts, newest=Max("created_at")).values_list("pair_id", "newest", *names)
    return {pair: (Votes(*numbers), newest) for pair, newest, *numbers in found}


def _drawn(project: Project, first: int) -> Any:
    return RolloutPair.objects.of(project).drawn().filter(window__gte=first)


def _judged(pairs: Any) -> dict[int, list[Judged]]:
    """Those of random pairs, or of pairs of an earlier and a later rollout, that have a verdict: by window."""
    votes = votes_of(pairs.values("pair"))
    judged: dict[int, list[Judged]] = defaultdict(list)
    rows = pairs.order_by("pk").values_list(
        "window", "pair", "why", "preferred", "propensity", "pair__judged", "pair__wanted"
    )
    for window, pair, why, preferred, propensity, number, wanted in rows:
        if (said := votes.get(pair)) is None or (share := said[0].share) is None:
            continue
        if why == RolloutPair.Why.LATER:
            expected, agreed = 1 - preferred, 1 - share
        else:
            expected, agreed = towards_preferred(preferred, share)
        done = said[1] if number >= wanted else None
        judged[window].append(Judged(expected, agreed, 1 / propensity, done))
    return judged


def _levels(project: Project, first: int) -> dict[int, list[float]]:
    """By window: for each rollout of a random pair with levels, the share of them that are good."""
    rows = (
        QualityLabel.objects.current()
        .filter(response__rollouts__window__project=project, response__rollouts__window__gte=first)
        .filter(
            Q(response__pairs_as_a__rollouts__why=RolloutPair.Why.RANDOM)
            | Q(response__pairs_as_b__rollouts__why=RolloutPair.Why.RANDOM)
        )
        .order_by()
        .values_list("response__rollouts__window", "response")
        .annotate(all=Count("pk", distinct=True), good=Count("pk", distinct=True, filter=Q(level=Level.GOOD)))
    )
    found: dict[int, list[float]] = defaultdict(list)
    for window, _, number, good in rows:
        found[window].append(good / number)
    return found


def _asked(project: Project, first: int) -> dict[int, tuple[int, int]]:
    """By window: pairs asked, and those of them that were drawn at random."""
    rows = RolloutPair.objects.of(project).filter(window__gte=first).order_by().values_list("window")
    counts = rows.annotate(all=Count("pk"), random=Count("pk", filter=Q(why=RolloutPair.Why.RANDOM)))
    return defaultdict(lambda: (0, 0), {window: (number, random) for window, number, random in counts})
