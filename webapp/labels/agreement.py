"""How far people agree: Krippendorff's alpha.

Ratings are (unit, rater, value) triples. A unit is a pair (value: the verdict) or a response (value: the level), and
anybody may have rated anything. Alpha takes away the agreement that is expected by chance, so it collapses when one
category dominates, and it ignores units with a single rating. It comes with a bootstrap interval over units; where it
is not defined, with None and a reason, never NaN. The source is Krippendorff (2011), Computing Krippendorff's
Alpha-Reliability.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rating = tuple[Hashable, Hashable, Hashable]
Metric = Literal["nominal", "ordinal"]

REPLICATES = 1000
# An interval over the replicates in which alpha exists hides those in which it does not.
_UNDEFINED_TOLERATED = 0.05

NO_OVERLAP = "no unit has ratings by two people"
ONE_CATEGORY = "all ratings are in one category"


@dataclass(frozen=True)
class Agreement:
    """Alpha with its 95 % interval.

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


def krippendorff_alpha(
    ratings: Iterable[Rating],
    *,
    categories: Sequence[Hashable],
    metric: Metric = "nominal",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Agreement:
    """Krippendorff's alpha, 1 - observed / expected disagreement, from coincidences within units: at most 1.

    The ordinal metric takes the categories in their order; categories nobody used make no difference. Raises
    ValueError for a rating that is none of the categories, or is there twice.
    """
    if metric not in ("nominal", "ordinal"):
        raise ValueError(f"metric must be nominal or ordinal, not {metric!r}")
    every, raters = _counts(ratings, categories)
    counts = every[every.sum(axis=1) >= 2]  # [U, K]: a lone rating agrees with nothing
    size = len(categories)

    def alpha(sums: Floats) -> Floats:
        observed = sums.reshape(-1, size, size)  # [B, K, K]
        totals = observed.sum(axis=2)  # [B, K]
        distance = _ordinal_distance(totals) if metric == "ordinal" else 1.0 - np.eye(size)
        expected = np.sum(totals[:, :, None] * totals[:, None, :] * distance, axis=(1, 2))
        seen = np.sum(observed * distance, axis=(1, 2))
        return 1.0 - _ratio((totals.sum(axis=1) - 1) * seen, expected)

    value = low = high = reason = None
    if not len(counts):
        reason = NO_OVERLAP
    elif np.count_nonzero(counts.sum(axis=0)) == 1:
        reason = ONE_CATEGORY
    else:
        # Units with equal counts are interchangeable: patterns [P, K], and how many units have each [P].
        patterns, repeats = np.unique(counts, axis=0, return_counts=True)
        additions = _coincidences(patterns.astype(np.float64))
        value = float(alpha((repeats @ additions)[None, :])[0])
        low, high = _interval(additions, repeats, alpha, replicates, seed)
    return Agreement(value, low, high, len(counts), raters, int(every.sum()), reason)


def _counts(ratings: Iterable[Rating], categories: Sequence[Hashable]) -> tuple[Ints, int]:
    """How often a unit was put into a category [U, K], and the number of raters."""
    index = {category: i for i, category in enumerate(categories)}
    units: dict[Hashable, int] = {}
    raters: dict[Hashable, int] = {}
    seen: set[tuple[int, int]] = set()
    cells = []
    for unit, rater, value in ratings:
        if value not in index:
            scale = ", ".join(map(str, categories))
            raise ValueError(f"unit {unit!r} is rated {value!r}, which is none of {scale}")
        key = units.setdefault(unit, len(units)), raters.setdefault(rater, len(raters))
        if key in seen:
            raise ValueError(f"rater {rater!r} rated unit {unit!r} twice: give the current rating alone")
        seen.add(key)
        cells.append(key[0] * len(index) + index[value])
    counts = np.bincount(np.array(cells, dtype=np.int64), minlength=len(units) * len(index))
    return counts.reshape(len(units), len(index)), len(raters)


def _coincidences(patterns: Floats) -> Floats:
    """What a unit of each pattern [P, K] adds to the table of coincidences: [P, K * K]."""
    size = patterns.shape[1]
    products = patterns[:, :, None] * patterns[:, None, :]  # [P, K, K]
    products -= patterns[:, :, None] * np.eye(size)
    return (products / (patterns.sum(axis=1) - 1)[:, None, None]).reshape(len(patterns), size * size)


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


def _interval(
    additions: Floats, repeats: Ints, alpha: Callable[[Floats], Floats], replicates: int, seed: int
) -> tuple[float | None, float | None]:
    """The percentile bootstrap over units; `repeats` [P] says how many units make each of the `additions` [P, S].

    Drawing units with replacement is drawing those numbers from a multinomial, which costs the same for a hundred
    units or a million.
    """
    n = int(repeats.sum())
    if n < 2 or replicates < 1:
        return None, None
    rng = np.random.default_rng(seed)
    at_once = max(1, 4_000_000 // len(repeats))  # keeps the drawn numbers within 32 MB
    drawn = []
    for start in range(0, replicates, at_once):
        draws = rng.multinomial(n, repeats / n, size=min(at_once, replicates - start))
        drawn.append(alpha(draws @ additions))
    defined = np.concatenate(drawn)
    defined = defined[np.isfinite(defined)]
    if len(defined) < (1.0 - _UNDEFINED_TOLERATED) * replicates:
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
