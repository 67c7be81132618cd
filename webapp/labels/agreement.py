"""How far people agree: percent agreement, Cohen, Fleiss, Krippendorff's alpha and Gwet's AC1/AC2.

Ratings are (unit, rater, value) triples; anybody may have rated anything, so data are as incomplete as they
are in a real project. A unit is a pair (value: the verdict) or a response (value: the level). Every
coefficient comes with a bootstrap interval over units, and with None and a reason, never NaN, where it is not
defined.

Which to read: percent agreement says what happened; kappa and alpha subtract the agreement expected by chance
and collapse when one category dominates; AC1/AC2 do not. Alpha ignores units with a single rating; Fleiss and
Gwet learn how common a category is from them, after Gwet (2014), Handbook of Inter-Rater Reliability, 4th
ed., chapters 2-3. Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, is the source of alpha.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rating = tuple[Hashable, Hashable, Hashable]
Metric = Literal["nominal", "ordinal"]
Weights = Literal["identity", "linear", "quadratic", "ordinal"]

LEVELS = ("bad", "normal", "good")
VERDICTS = ("a", "b", "tie", "both_bad")
ORDERED_VERDICTS = ("a", "tie", "b")

REPLICATES = 1000
# An interval over the replicates in which the coefficient exists hides those in which it does not.
_UNDEFINED_TOLERATED = 0.05

NO_OVERLAP = "no unit has ratings by two people"
ONE_CATEGORY = "all ratings are in one category"
ONE_CATEGORY_EACH = "both raters used one and the same category throughout"


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its 95 % interval.

    units: those with two ratings or more, from which agreement is seen; raters and ratings: of all units.
    reason says why value is None; low and high are None too where units are too few or too alike to resample.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int
    raters: int
    ratings: int
    reason: str | None = None


def percent_agreement(
    ratings: Iterable[Rating],
    *,
    categories: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Share of pairs of ratings of a unit that are equal, averaged over units: 0..1."""
    table = _tabulate(ratings, categories)
    weights = _weights("identity", len(table.categories))
    return _estimate(table, None, _agreement_sums(table.counts, weights), _observed, replicates, seed)


def fleiss_kappa(
    ratings: Iterable[Rating],
    *,
    categories: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Fleiss' kappa (1971), with Gwet's treatment of units that have differently many ratings: at most 1."""
    table = _tabulate(ratings, categories)

    def kappa(sums: Floats) -> Floats:
        by_chance = np.sum(_prevalence(sums) ** 2, axis=1)
        return _ratio(_observed(sums) - by_chance, 1.0 - by_chance)

    reason = ONE_CATEGORY if table.used_categories == 1 else None
    weights = _weights("identity", len(table.categories))
    return _estimate(table, reason, _agreement_sums(table.counts, weights), kappa, replicates, seed)


def gwet_ac(
    ratings: Iterable[Rating],
    *,
    weights: Weights = "identity",
    categories: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Gwet's AC1 (identity weights) or AC2 (linear, quadratic or ordinal weights): at most 1.

    Chance agreement depends on how many categories there are to choose from: give `categories`, or only those
    in use count. Weights other than identity need the categories in their order.
    """
    table = _tabulate(ratings, categories, ordered=weights != "identity")
    size = len(table.categories)
    matrix = _weights(weights, size)

    def coefficient(sums: Floats) -> Floats:
        prevalence = _prevalence(sums)
        by_chance = matrix.sum() / (size * (size - 1)) * np.sum(prevalence * (1.0 - prevalence), axis=1)
        return _ratio(_observed(sums) - by_chance, 1.0 - by_chance)

    reason = ONE_CATEGORY if size == 1 else None
    return _estimate(table, reason, _agreement_sums(table.counts, matrix), coefficient, replicates, seed)


def krippendorff_alpha(
    ratings: Iterable[Rating],
    *,
    metric: Metric = "nominal",
    categories: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Krippendorff's alpha, 1 - observed / expected disagreement, from coincidences within units: at most 1.

    The ordinal metric needs the categories in their order; categories nobody used make no difference.
    """
    if metric not in ("nominal", "ordinal"):
        raise ValueError(f"metric must be nominal or ordinal, not {metric!r}")
    table = _tabulate(ratings, categories, ordered=metric == "ordinal")
    counts = table.counts[table.counts.sum(axis=1) >= 2]  # [U, K]: alpha knows nothing of lone ratings
    size = len(table.categories)

    def coincidences(patterns: Floats) -> Floats:
        products = patterns[:, :, None] * patterns[:, None, :]  # [P, K, K]
        products -= patterns[:, :, None] * np.eye(size)
        return (products / (patterns.sum(axis=1) - 1)[:, None, None]).reshape(len(patterns), size * size)

    def alpha(sums: Floats) -> Floats:
        observed = sums.reshape(-1, size, size)  # [B, K, K]
        totals = observed.sum(axis=2)  # [B, K]
        distance = _ordinal_distance(totals) if metric == "ordinal" else 1.0 - np.eye(size)
        expected = np.sum(totals[:, :, None] * totals[:, None, :] * distance, axis=(1, 2))
        seen = np.sum(observed * distance, axis=(1, 2))
        return 1.0 - _ratio((totals.sum(axis=1) - 1) * seen, expected)

    reason = ONE_CATEGORY if np.count_nonzero(counts.sum(axis=0)) == 1 else None
    patterns, repeats = _distinct(counts)
    return _estimate(table, reason, (coincidences(patterns), repeats), alpha, replicates, seed)


def cohen_kappa(
    ratings: Iterable[Rating],
    *,
    raters: tuple[Hashable, Hashable] | None = None,
    weights: Weights = "identity",
    categories: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Cohen's kappa of two raters on the units that both rated, weighted or not: at most 1.

    `raters` may be left out where the ratings are by two people. Weights other than identity need the
    categories in their order. Raises ValueError where it is unclear which two raters are meant.
    """
    rows = list(ratings)
    present = {rater for _, rater, _ in rows}
    if raters is None:
        if len(present) > 2:
            raise ValueError(f"Cohen's kappa compares two raters, and here are {len(present)}: name two")
        first, second = (*sorted(present, key=str), None, None)[:2]
    else:
        first, second = raters
        if first == second:
            raise ValueError(f"Cohen's kappa compares two raters, and {first!r} is one")
    rows = [row for row in rows if row[1] in (first, second)]
    table = _tabulate(rows, categories, ordered=weights != "identity")
    size = len(table.categories)
    disagreement = 1.0 - _weights(weights, size)

    value = {(unit, rater): table.index[category] for unit, rater, category in rows}
    both = [
        (code, value[unit, second])
        for (unit, rater), code in value.items()
        if rater == first and (unit, second) in value
    ]
    cells = np.zeros((size, size), dtype=np.int64)
    np.add.at(cells, tuple(np.array(both, dtype=np.int64).reshape(-1, 2).T), 1)

    def kappa(sums: Floats) -> Floats:
        seen = sums.reshape(-1, size, size)  # [B, K, K]
        by_chance = seen.sum(axis=2)[:, :, None] * seen.sum(axis=1)[:, None, :]
        expected = np.sum(by_chance * disagreement, axis=(1, 2))
        return 1.0 - _ratio(np.sum(seen * disagreement, axis=(1, 2)) * len(both), expected)

    # A table with all units in one cell of the diagonal leaves nothing to agree on by chance or otherwise.
    reason = ONE_CATEGORY_EACH if both and np.count_nonzero(cells) == 1 and np.trace(cells) else None
    sums = np.eye(size * size)[cells.ravel() > 0], cells.ravel()[cells.ravel() > 0]
    return _estimate(table, reason, sums, kappa, replicates, seed)


def ordered_verdicts(ratings: Iterable[Rating]) -> list[Rating]:
    """Verdicts as points on a < tie < b (ORDERED_VERDICTS); both_bad has no place there and is left out."""
    return [rating for rating in ratings if rating[2] != "both_bad"]


# --- From triples to counts ---


@dataclass(frozen=True)
class _Table:
    counts: Ints  # [U, K] ratings of a unit in a category; every unit has one at least
    categories: Sequence[Hashable]
    index: dict[Hashable, int]
    raters: int

    @property
    def used_categories(self) -> int:
        return int(np.count_nonzero(self.counts.sum(axis=0)))


def _tabulate(
    ratings: Iterable[Rating], categories: Sequence[Hashable] | None, *, ordered: bool = False
) -> _Table:
    """Count ratings by unit and category; ValueError for a rating that is out of scale or there twice."""
    rows = list(ratings)
    if categories is None:
        categories = _in_order({value for _, _, value in rows}, ordered)
    index = {category: i for i, category in enumerate(categories)}
    units: dict[Hashable, int] = {}
    raters: dict[Hashable, int] = {}
    seen: set[tuple[int, int]] = set()
    codes = np.empty((len(rows), 2), dtype=np.int64)
    for i, (unit, rater, value) in enumerate(rows):
        if value not in index:
            scale = ", ".join(map(str, categories))
            raise ValueError(f"unit {unit!r} is rated {value!r}, which is none of {scale}")
        key = units.setdefault(unit, len(units)), raters.setdefault(rater, len(raters))
        if key in seen:
            raise ValueError(f"rater {rater!r} rated unit {unit!r} twice: give the current rating alone")
        seen.add(key)
        codes[i] = key[0], index[value]
    size = len(index)
    counts = np.bincount(codes[:, 0] * size + codes[:, 1], minlength=len(units) * size)
    return _Table(counts.reshape(len(units), size), categories, index, len(raters))


def _in_order(values: set[Hashable], ordered: bool) -> list[Hashable]:
    """Values in an order that doesn't hang on the order of rows: by size where size has a meaning."""
    if not ordered:
        return sorted(values, key=lambda value: (str(type(value)), str(value)))
    numbers = [value for value in values if isinstance(value, (int, float))]
    if len(numbers) < len(values):
        raise ValueError("an ordinal coefficient needs `categories` in their order, or numbers")
    return [*sorted(numbers)]


def _distinct(counts: Ints) -> tuple[Floats, Ints]:
    """Distinct rows [P, K] and how many units have each [P]: units with equal counts are interchangeable."""
    patterns, repeats = np.unique(counts, axis=0, return_counts=True)
    return patterns.astype(np.float64), repeats


# --- What the chance-corrected coefficients share ---


def _weights(kind: Weights, size: int) -> Floats:
    """Agreement weights [K, K] between categories: 1 on the diagonal, 0 at the greatest distance."""
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    if kind == "identity":
        distance = (distance > 0).astype(np.float64)
    elif kind == "quadratic":
        distance = distance**2
    elif kind == "ordinal":  # Gwet: the number of pairs of categories within reach of both
        distance = distance * (distance + 1) / 2
    elif kind != "linear":
        raise ValueError(f"weights must be identity, linear, quadratic or ordinal, not {kind!r}")
    result: Floats = 1.0 - distance / max(float(distance.max(initial=0.0)), 1.0)
    return result


def _agreement_sums(counts: Ints, weights: Floats) -> tuple[Floats, Ints]:
    """What a unit adds, for each distinct unit: [P, 3 + K] of agreement, 1 if it is seen, 1, shares."""
    patterns, repeats = _distinct(counts)
    total = patterns.sum(axis=1)  # [P]
    pairs = total * (total - 1)
    agreeing = np.sum(patterns * (patterns @ weights - 1.0), axis=1)
    agreement = np.divide(agreeing, pairs, out=np.zeros_like(pairs), where=pairs > 0)
    shares = patterns / np.maximum(total, 1)[:, None]
    return np.column_stack([agreement, pairs > 0, np.ones_like(total), shares]), repeats


def _observed(sums: Floats) -> Floats:
    """Observed agreement [B] from sums of `_agreement_sums` [B, 3 + K]."""
    return _ratio(sums[:, 0], sums[:, 1])


def _prevalence(sums: Floats) -> Floats:
    """How common each category is [B, K], every unit counting alike."""
    return sums[:, 3:] / sums[:, 2:3]


def _ordinal_distance(totals: Floats) -> Floats:
    """Krippendorff's ordinal difference [B, K, K]: squared number of ratings from one category to the other.

    `totals` [B, K]; the two ends count half.
    """
    middle = np.cumsum(totals, axis=1) - totals / 2  # [B, K]
    result: Floats = (middle[:, :, None] - middle[:, None, :]) ** 2
    return result


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, NaN where the denominator is 0 up to rounding."""
    undefined = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.abs(denominator) > 1e-12)


def _estimate(
    table: _Table,
    reason: str | None,
    sums: tuple[Floats, Ints],
    coefficient: Callable[[Floats], Floats],
    replicates: int,
    seed: int,
) -> Agreement:
    """A coefficient of sums over units, and its percentile bootstrap over units.

    `sums`: what each distinct unit adds [P, S], and how many such units there are [P]. Drawing units with
    replacement is drawing those numbers from a multinomial, which costs the same for a hundred units or a
    million.
    """
    additions, repeats = sums
    per_unit = table.counts.sum(axis=1)
    size: dict[str, Any] = {
        "units": int(np.sum(per_unit >= 2)),
        "raters": table.raters,
        "ratings": int(per_unit.sum()),
    }
    if not size["units"]:
        reason = NO_OVERLAP
    if reason is not None:
        return Agreement(None, None, None, **size, reason=reason)
    value = float(coefficient((repeats @ additions)[None, :])[0])
    low = high = None
    n = int(repeats.sum())
    if n > 1 and replicates > 0:
        rng = np.random.default_rng(seed)
        at_once = max(1, 4_000_000 // len(repeats))  # keeps the drawn numbers within 32 MB
        drawn = []
        for start in range(0, replicates, at_once):
            draws = rng.multinomial(n, repeats / n, size=min(at_once, replicates - start))
            drawn.append(coefficient(draws @ additions))
        defined = np.concatenate(drawn)
        defined = defined[np.isfinite(defined)]
        if len(defined) >= (1.0 - _UNDEFINED_TOLERATED) * replicates:
            low, high = (float(x) for x in np.quantile(defined, [0.025, 0.975]))
    return Agreement(value, low, high, **size)
