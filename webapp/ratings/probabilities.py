"""What two ratings say about a comparison: probabilities of the outcomes a, tie, b. Pure Python, no database.

The web half may not import the reward models, so the few formulas that pages need stand here once more; tests hold
them against those of workers.rewards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

RATINGS = 9


@dataclass(frozen=True)
class Outcome:
    """Probabilities that a wins, that it is a tie, and that b wins; they add up to 1."""

    a: float
    tie: float
    b: float

    @property
    def preferred(self) -> float:
        """P(a preferred) = P(a wins) + P(tie) / 2, in 0..1."""
        return self.a + self.tie / 2

    @property
    def swapped(self) -> "Outcome":
        """The same comparison seen from b."""
        return Outcome(a=self.b, tie=self.tie, b=self.a)


def ordinal_outcome(p_a: Sequence[float], p_b: Sequence[float]) -> Outcome:
    """W = P(s_a > s_b), T = P(s_a = s_b) and W' = P(s_b > s_a) of two independent ratings (OPRM, arXiv 2602.12660).

    `p_a`, `p_b`: probabilities of the ratings from lowest to highest, equally many; they are renormalised, since
    rows stored in float32 miss 1 by some 1e-7. Raises ValueError for different lengths or a sum that is not positive.
    """
    if len(p_a) != len(p_b):
        raise ValueError(f"two distributions over different scales: {len(p_a)} and {len(p_b)} ratings")
    total = math.fsum(p_a) * math.fsum(p_b)
    if not total > 0:
        raise ValueError("a distribution must have a positive sum")
    wins = ties = below = 0.0
    for first, second in zip(p_a, p_b, strict=True):
        wins += first * below
        ties += first * second
        below += second
    wins, ties = wins / total, ties / total
    return Outcome(a=wins, tie=ties, b=max(0.0, 1.0 - wins - ties))


def joint_outcome(wins: int, ties: int, losses: int) -> Outcome:
    """Of a pair whose two responses were scored in one text n = wins + ties + losses times: docs/methods.md.

    P(a) = (wins + 1/2) / (n + 1), tie = ties / (n + 1): half a vote each way, so that no pair is certain.
    Raises ValueError for a negative count.
    """
    if min(wins, ties, losses) < 0:
        raise ValueError(f"votes are counts, not {wins}, {ties}, {losses}")
    n = wins + ties + losses
    return Outcome(a=(wins + 0.5) / (n + 1), tie=ties / (n + 1), b=(losses + 0.5) / (n + 1))


def rating_quantile(p: Sequence[float], share: float) -> float:
    """The rating that `share` (0..1) of a distribution over ratings 1, 2, ... lies below; 0.5 is its median.

    The mass of rating k is spread evenly over k - 1/2 to k + 1/2: else nearly all responses would have the same one.
    Raises ValueError for a sum that is not positive.
    """
    total = math.fsum(p)
    if not total > 0:
        raise ValueError("a distribution must have a positive sum")
    left = share * total
    for rating, mass in enumerate(p, start=1):
        if mass > 0 and left <= mass:
            return rating - 0.5 + left / mass
        left -= mass
    return len(p) + 0.5


def scalar_outcome(r_a: float, r_b: float, *, tie: float | None = None, temperature: float = 1.0) -> Outcome:
    """Outcome of two scalar rewards by Rao and Kupper (1967).

    With d = (r_a - r_b) / temperature and eta = `tie`: P(a) = sigmoid(d - eta), P(b) = sigmoid(-d - eta), the rest is
    a tie. `tie` None is plain Bradley-Terry (eta = 0). Raises ValueError for a temperature that is not positive or a
    negative tie.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    eta = tie or 0.0
    if eta < 0:
        raise ValueError(f"tie must be at least 0, not {tie}")
    d = (r_a - r_b) / temperature
    a, b = _sigmoid(d - eta), _sigmoid(-d - eta)
    return Outcome(a=a, tie=max(0.0, 1.0 - a - b), b=b)


def level_shares(score: float, cuts: tuple[float, float]) -> dict[str, float]:
    """P(bad), P(normal), P(good) of a scalar reward by its two cut points: cumulative logit (McCullagh 1980)."""
    bad, upto_normal = (_sigmoid(cut - score) for cut in cuts)
    return {"bad": bad, "normal": upto_normal - bad, "good": 1.0 - upto_normal}


def _sigmoid(x: float) -> float:
    """Logistic function that does not overflow."""
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)
