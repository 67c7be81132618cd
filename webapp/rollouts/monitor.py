"""Proxy against people: what judgements of rollout pairs say about the rewards of all rollouts.

The rule of the warning, written before any data: see RULE. Its test is by betting (Waudby-Smith and Ramdas 2024,
Estimating means of bounded random variables by betting): a stake of 1 grows by 1 + lambda * (q - z - MARGIN) with each
judged pair, where q is the probability that the proxy gives to one side and z what people said (1 that side, 1/2 a tie
or both bad, 0 the other; the mean where several judged). Of random pairs the side is the one that the proxy prefers,
of an earlier and a later rollout it is the later one. While people prefer that side at least as often as q - MARGIN,
the stake can't be expected to grow, whatever lambda; so it ever reaches ENOUGH with a chance of at most 1 / ENOUGH
(Ville's inequality), however often somebody looks. The stake is spread evenly over a few lambdas, which are large where
a great gap shall be seen soon and small where a small one shall be seen at all. Of each, half is bet from the first
pair on and the rest is kept for later beginnings, one every BLOCK pairs (the j-th gets 1 / j(j + 1)), so that a model
that was right for long is found out as well.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

MARGIN = 0.05
ALARMS = 0.05
# Two comparisons share the chance of a false alarm.
ENOUGH = 2 / ALARMS
BLOCK = 10
_RICH = 1e100
# Below 1 / (1 + MARGIN), so that no stake is ever lost whole.
_LAMBDAS = (0.2, 0.4, 0.9)
_Z95 = 1.959963984540054

RULE = (
    "Caliper makes two comparisons for each version. On rollout pairs drawn at random: how often people agree with the "
    "model, and how often it expects to be agreed with. On pairs of an earlier and a later rollout of one prompt: how "
    "often people prefer the later one, and how often the model does. It warns when people's figure lies more than 5 "
    "percentage points below the model's. It looks after every pair that has all its judgements. However often it "
    "looks, a model of which that is not true is warned of with a chance of at most 5 % in all. A new version starts "
    "anew."
)


@dataclass(frozen=True)
class Judged:
    """A rollout pair with its verdicts, from one side: `expected` is the proxy's probability of it, `agreed` people's
    share for it.

    `weight`: how many candidates it stands for (1 / propensity). `done`: when it had all its judgements; None before.
    """

    expected: float
    agreed: float
    weight: float = 1.0
    done: datetime | None = None


def towards_preferred(preferred: float, share: float) -> tuple[float, float]:
    """`expected` and `agreed` of the side that the proxy prefers, from its P(a) and people's share for a."""
    if preferred == 0.5:
        return 0.5, 0.5  # it prefers neither, and half of the people agree whatever they say
    return (preferred, share) if preferred > 0.5 else (1 - preferred, 1 - share)


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval; `n` pairs were judged."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """What the proxy expects of one side of the pairs, what people say, and whether the two have parted.

    `stake`: what the test's stake of 1 has grown to at its greatest; `warned_after`: finished pairs until the warning,
    None without one; `finished`: pairs that the test has seen.
    """

    expected: float
    people: Share
    stake: float
    finished: int
    warned_after: int | None

    @property
    def parted(self) -> bool:
        return self.warned_after is not None


def compare(pairs: Iterable[Judged]) -> Comparison | None:
    """Proxy against people; None where no pair is judged."""
    judged = list(pairs)
    if not judged:
        return None
    weights = [pair.weight for pair in judged]
    stake, warned_after, finished = betting(judged)
    return Comparison(
        expected=weighted_mean([pair.expected for pair in judged], weights),
        people=share_of([pair.agreed for pair in judged], weights),
        stake=stake,
        finished=finished,
        warned_after=warned_after,
    )


def betting(pairs: Iterable[Judged]) -> tuple[float, int | None, int]:
    """The greatest stake, after how many finished pairs it first reached ENOUGH, and how many there are."""
    finished = [
        pair
        for _, pair in sorted(((pair.done, pair) for pair in pairs if pair.done), key=lambda each: each[0])
    ]
    stakes, most, warned = [0.0] * len(_LAMBDAS), 1.0, None
    for place, pair in enumerate(finished):
        gap = pair.expected - pair.agreed - MARGIN
        block = place // BLOCK + 1
        begun = 1 / (block * (block + 1)) if place % BLOCK == 0 else 0.0
        stakes = [
            min((stake + begun) * (1 + size * gap), _RICH)
            for stake, size in zip(stakes, _LAMBDAS, strict=True)
        ]
        # What is kept for beginnings to come is there as well.
        stake = math.fsum(stakes) / len(stakes) + 1 / (block + 1)
        most = max(most, stake)
        if warned is None and stake >= ENOUGH:
            warned = place + 1
    return most, warned, len(finished)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def share_of(values: Sequence[float], weights: Sequence[float]) -> Share:
    """The weighted mean of values in 0..1 with Wilson's interval at Kish's effective number of pairs.

    Values between 0 and 1 spread less than the shares that Wilson thinks of, so the interval is if anything too wide.
    """
    value = weighted_mean(values, weights)
    number = math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)
    low, high = wilson(value, number)
    return Share(value, low, high, len(values))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share among n."""
    square = _Z95**2 / n
    centre = (share + square / 2) / (1 + square)
    half = _Z95 / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Rewards:
    """The rewards of several windows taken together: `count` rollouts, their mean and its 95 % interval."""

    count: int
    mean: float
    low: float
    high: float


def pooled(parts: Sequence[tuple[int, float, float]]) -> Rewards | None:
    """Of (count, mean, sd) of each window; None where nothing was scored."""
    count = sum(n for n, _, _ in parts)
    if not count:
        return None
    mean = math.fsum(n * m for n, m, _ in parts) / count
    square = math.fsum(n * (sd * sd + (m - mean) ** 2) for n, m, sd in parts) / count
    half = _Z95 * math.sqrt(square / count)
    return Rewards(count, mean, mean - half, mean + half)
