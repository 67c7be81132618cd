"""Any two versions of a project beside each other, on the rows that neither has learnt anything of."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from django.db.models import F, FloatField, QuerySet
from django.db.models.functions import Abs, Coalesce, Length

from webapp.corpus.models import Pair, Project
from webapp.corpus.options import OPTIONS, knows
from webapp.labels.models import LEVELS, Judgement, QualityLabel
from webapp.labels.summaries import Votes, vote_counts
from webapp.ratings.models import JointVotes, Prediction
from webapp.ratings.probabilities import level_shares
from webapp.ratings.queries import identity, joint_of, kept, labels_state, outcome_from, tallies
from webapp.training.gate import Difference
from webapp.training.models import ModelVersion, public_config
from webapp.training.same_rows import FairRow, fair_rows, held_out_now, paired_difference
from webapp.words import counted

# As in workers.rewards.evaluation.metrics: a forecast of exactly 0 or 1 costs 27.6 nats at most.
SMALLEST_P = 1e-12

LISTS = {
    "pairs": "Pairs that turned round",
    "responses": "Responses that moved",
    "judgements": "New judgements",
    "levels": "New levels",
}


@dataclass(frozen=True)
class ComparedRow:
    """One measure of both versions on the same n rows. `less`: less is better. `share`: shown in percent."""

    name: str
    new: float
    old: float
    difference: Difference
    unit: str
    share: bool = False
    less: bool = False

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "" where the interval holds zero or there is none."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= 0 <= high:
            return ""
        return "better" if (low > 0) != self.less else "worse"


@dataclass(frozen=True)
class Turned:
    """A judged pair of which the versions prefer different sides. p: P(a preferred).

    `right`: which of the two is with most of the people, "new" or "old"; empty where they are divided.
    """

    pair: int
    new: float
    old: float
    right: str


@dataclass(frozen=True)
class Comparison:
    """What can be added up from the rows that two versions share."""

    pairs: int
    groups: int
    rows: list[ComparedRow]
    longer: float | None  # accuracy of “the longer one wins” on the same judgements
    turned: list[Turned]

    @property
    def won(self) -> int:
        """How many pairs the newer one has right and the older one wrong."""
        return sum(each.right == "new" for each in self.turned)

    @property
    def lost(self) -> int:
        return sum(each.right == "old" for each in self.turned)


def comparison(new: ModelVersion, old: ModelVersion, project: Project) -> Comparison:
    """Both versions on the labels of now. At most eleven queries, then kept until a label or a prediction comes."""
    state = labels_state(project)
    now = held_out_now(project)
    rated = "-".join(str(version.predictions.count()) for version in (new, old))
    key = f"compared:{identity(new)}:{identity(old)}:{rated}:{now and now.version}:{state}"

    def make() -> Comparison:
        rows = fair_rows(new, now), fair_rows(old, now)
        joint = joint_of(new), joint_of(old)
        return _compare(new, old, rows, joint, _judged(project, state, rows), _levelled(project, rows))

    return kept(key, make)


@dataclass(frozen=True)
class _Pair:
    """A judged pair: votes for a and for b, the people's share for a, characters of a more than of b."""

    pk: int
    a: int
    b: int
    for_a: int
    for_b: int
    share: float
    longer: int


Rows = tuple[dict[int, FairRow], dict[int, FairRow]]


def _judged(project: Project, state: str, rows: Rows) -> list[_Pair]:
    """The judged pairs whose sides both versions compare fairly."""
    votes = tallies(project, state)
    fair = rows[0].keys() & rows[1].keys()
    pairs = Pair.objects.of(project).annotate(longer=Length("response_a__text") - Length("response_b__text"))
    found = []
    columns = pairs.filter(judged__gt=0).values_list("pk", "response_a_id", "response_b_id", "longer")
    for pk, a, b, longer in columns.iterator(chunk_size=5000):
        said = votes.get(pk)
        if said is not None and said.share is not None and a in fair and b in fair:
            found.append(_Pair(pk, a, b, said.a, said.b, said.share, longer))
    return found


def _levelled(project: Project, rows: Rows) -> list[tuple[int, int]]:
    """(response, number of the level from 0) of each level label on what both versions compare fairly."""
    fair = rows[0].keys() & rows[1].keys()
    labels = QualityLabel.objects.of(project).current().values_list("response_id", "level")
    return [(response, LEVELS.index(level)) for response, level in labels if response in fair and level]


class _Sums:
    """Both versions' values of one measure, summed by group."""

    def __init__(self) -> None:
        self.totals = [0.0, 0.0]
        self.n = 0
        self.groups: dict[str, tuple[float, int]] = {}

    def add(self, group: str, values: Sequence[float], n: int = 1) -> None:
        """`values`: the sums of n rows, of the newer and of the older version."""
        total, count = self.groups.get(group, (0.0, 0))
        self.groups[group] = total + values[0] - values[1], count + n
        self.totals = [total + value for total, value in zip(self.totals, values, strict=True)]
        self.n += n

    def row(self, name: str, unit: str, **fields: Any) -> ComparedRow | None:
        found = paired_difference(self.groups)
        if found is None:
            return None
        return ComparedRow(name, self.totals[0] / self.n, self.totals[1] / self.n, found, unit, **fields)


def _compare(
    new: ModelVersion,
    old: ModelVersion,
    rows: Rows,
    joint: tuple[dict[int, JointVotes], dict[int, JointVotes]],
    pairs: list[_Pair],
    levels: list[tuple[int, int]],
) -> Comparison:
    accuracy, nll, brier = _Sums(), _Sums(), _Sums()
    groups: set[str] = set()
    turned: list[Turned] = []
    longer = 0.0
    for pair in pairs:
        sides = [(each[pair.a], each[pair.b]) for each in rows]
        group = min(side.group for side in sides[0])
        groups.add(group)
        signs = [_sign(a.score - b.score) for a, b in sides]
        decisive = pair.for_a + pair.for_b
        accuracy.add(group, [_right(sign, pair) for sign in signs], decisive)
        longer += _right(_sign(pair.longer), pair)
        p = [
            outcome_from(version, (a.score, a.p), (b.score, b.p), votes.get(pair.pk)).preferred
            for version, (a, b), votes in zip((new, old), sides, joint, strict=True)
        ]
        q = pair.share
        nll.add(group, [_cross_entropy(each, q) for each in p])
        brier.add(group, [q * (1 - each) ** 2 + (1 - q) * each**2 for each in p])
        if signs[0] * signs[1] < 0:
            lean = _sign(pair.for_a - pair.for_b)
            right = "" if not lean else "new" if lean == signs[0] else "old"
            turned.append(Turned(pair.pk, p[0], p[1], right))
    turned.sort(key=lambda each: (-abs(each.new - each.old), each.pair))
    found = [
        accuracy.row("Pair accuracy", "judgement", share=True),
        nll.row("Log loss against vote shares (NLL)", "pair", less=True),
        brier.row("Squared error against vote shares (Brier)", "pair", less=True),
        *_level_rows(new, old, rows, levels),
    ]
    return Comparison(
        pairs=len(pairs),
        groups=len(groups),
        rows=[row for row in found if row is not None],
        longer=longer / accuracy.n if accuracy.n else None,
        turned=turned,
    )


def _level_rows(
    new: ModelVersion, old: ModelVersion, rows: Rows, levels: list[tuple[int, int]]
) -> list[ComparedRow | None]:
    """Level accuracy and ranked probability score, where both versions saw levels."""
    if not (new.saw_levels and old.saw_levels):
        return []
    accuracy, rps = _Sums(), _Sums()
    for response, level in levels:
        sides = [each[response] for each in rows]
        masses = [
            mass
            for version, side in zip((new, old), sides, strict=True)
            if (mass := _level_masses(version, side)) is not None
        ]
        if len(masses) < 2:
            continue
        accuracy.add(sides[0].group, [float(max(range(3), key=mass.__getitem__) == level) for mass in masses])
        rps.add(sides[0].group, [_rps(mass, level) for mass in masses])
    return [
        accuracy.row("Level accuracy", "level", share=True),
        rps.row("Level error (ranked probability score, RPS)", "level", less=True),
    ]


def _level_masses(version: ModelVersion, row: FairRow) -> list[float] | None:
    """P(bad), P(normal), P(good): of a rating distribution, or of a reward by the version's cut points."""
    if row.p:
        return _masses(row.p, _partition(version))
    return list(level_shares(row.score, version.level_cuts).values()) if version.level_cuts else None


def _partition(version: ModelVersion) -> tuple[int, int]:
    """Its highest bad and highest normal rating."""
    config = version.metrics.get("config") or {}
    bad, normal = config.get("partition") or (version.project.bad_to, version.project.normal_to)
    return bad, normal


def _masses(p: Sequence[float], partition: tuple[int, int]) -> list[float]:
    """P(bad), P(normal), P(good)."""
    cuts = [0, *partition, len(p)]
    total = math.fsum(p)
    return [math.fsum(p[low:high]) / total for low, high in itertools.pairwise(cuts)]


def _rps(mass: Sequence[float], level: int) -> float:
    """Ranked probability score of three levels, 0 (sure and right) to 1."""
    bad, normal, _ = mass
    return ((bad - (level <= 0)) ** 2 + (bad + normal - (level <= 1)) ** 2) / 2


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _right(sign: int, pair: _Pair) -> float:
    """How many of the pair's decisive judgements a side is right on; no side is half right."""
    if not sign:
        return (pair.for_a + pair.for_b) / 2
    return float(pair.for_a if sign > 0 else pair.for_b)


def _cross_entropy(p: float, q: float) -> float:
    p = min(max(p, SMALLEST_P), 1 - SMALLEST_P)
    return -q * math.log(p) - (1 - q) * math.log1p(-p)


# --- Lists ---


def moved(new: ModelVersion, old: ModelVersion) -> QuerySet[Prediction]:
    """The newer version's predictions with the older one's beside them, what moved most first.

    `moved_by`: ratings where both are ordinal; else percentiles, as rewards have no common scale.
    """
    column = "expected" if new.kind == old.kind == "ordinal" else "percentile"
    before = f"response__predictions__{column}"
    return (
        new.predictions.filter(response__predictions__version=old)
        .annotate(
            was=F(before),
            moved_by=F(column) - F(before),
            distance=Abs(F(column) - F(before), output_field=FloatField()),
        )
        .select_related("response__prompt")
        .order_by("-distance", "response_id")
    )


def new_judgements(new: ModelVersion, old: ModelVersion) -> QuerySet[Judgement]:
    """Current verdicts that came in between the two snapshots, the newest first."""
    found = _came_between(Judgement.objects.of(new.project).verdicts(), new, old)
    return found.select_related("pair__response_a__prompt", "annotator")


def new_levels(new: ModelVersion, old: ModelVersion) -> QuerySet[QualityLabel]:
    """Current levels that came in between the two snapshots, the newest first."""
    found = _came_between(QualityLabel.objects.of(new.project).current().exclude(level=""), new, old)
    return found.select_related("response__prompt", "annotator")


def _came_between(labels: QuerySet[Any], new: ModelVersion, old: ModelVersion) -> QuerySet[Any]:
    """Imported labels may be dated back: they came when their import ended."""
    if (times := _between(new, old)) is None:
        return labels.none()
    came = Coalesce("origin__finished_at", "created_at")
    return labels.annotate(came=came).filter(came__gt=times[0], came__lte=times[1]).order_by("-pk")


def _between(new: ModelVersion, old: ModelVersion) -> tuple[datetime, datetime] | None:
    """When the two snapshots were taken, the earlier one first; None where a version has none."""
    if new.run.snapshot is None or old.run.snapshot is None:
        return None
    first, last = sorted([new.run.snapshot.created_at, old.run.snapshot.created_at])
    return first, last


@dataclass(frozen=True)
class TurnedRow:
    """A row of the list of pairs that turned round."""

    turned: Turned
    pair: Pair
    votes: Votes


def turned_rows(project: Project, turned: Sequence[Turned]) -> list[TurnedRow]:
    """These pairs with their texts and votes. Two queries."""
    keys = [each.pair for each in turned]
    pairs = {pair.pk: pair for pair in Pair.objects.of(project).with_texts().filter(pk__in=keys)}
    votes = vote_counts(keys)
    return [TurnedRow(each, pairs[each.pair], votes[each.pair]) for each in turned if each.pair in pairs]


def settings_apart(new: ModelVersion, old: ModelVersion) -> list[tuple[str, Any, Any]]:
    """Name and both values of each setting that differs; what a trainer filled in by itself counts too.

    What means nothing to one of the methods is left out.
    """
    configs = [_config(version) for version in (new, old)]
    names: Iterable[str] = sorted({*configs[0], *configs[1]} - {"format", "snapshot_digest"})
    absent = "not named"
    return [
        (name, one, other)
        for name in names
        if (name not in OPTIONS or all(knows(version.method, name) for version in (new, old)))
        and (one := configs[0].get(name, absent)) != (other := configs[1].get(name, absent))
    ]


def _config(version: ModelVersion) -> dict[str, Any]:
    found = version.metrics.get("config")
    config = public_config(found if isinstance(found, dict) and found else version.run.config)
    if text := config.get("guidelines"):
        config["guidelines"] = (
            f"{counted(len(text), 'character')}, sha256 {sha256(text.encode()).hexdigest()[:8]}"
        )
    return config


@dataclass(frozen=True)
class Asked:
    """The two versions that are compared, and all that can be; None where there are too few."""

    every: list[ModelVersion]  # the newest first, without their figures
    new: ModelVersion | None
    old: ModelVersion | None


def versions_asked(project: Project, new: str, old: str) -> Asked:
    """The versions of these addresses. Not named: the newest, and what serves its method or came before it.

    Two queries.
    """
    every = list(project.versions.only("method", "number", "is_serving", "project"))
    by_address = {version.address: version for version in every}
    first = by_address.get(new) or next(iter(every), None)
    second = by_address.get(old)
    if first is not None and (second is None or second.pk == first.pk):
        others = [version for version in every if version.pk != first.pk]
        same = [version for version in others if version.method == first.method]
        second = next(iter([*(each for each in same if each.is_serving), *same, *others]), None)
    keys = [each.pk for each in (first, second) if each is not None]
    whole = project.versions.select_related("run__snapshot", "project").in_bulk(keys)
    return Asked(every, first and whole.get(first.pk), second and whole.get(second.pk))
