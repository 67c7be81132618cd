"""The probability that one response is preferred, from two rewards or two rating distributions.

Plain numpy: it can be recomputed wherever predictions.parquet can be read.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def sigmoid(x: ArrayLike) -> Floats:
    """Logistic function without overflow, elementwise."""
    x = np.asarray(x, dtype=np.float64)
    small = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result


def scalar_probabilities(
    difference: ArrayLike, *, tie: float | Floats | None = None, temperature: float | Floats = 1.0
) -> tuple[Floats, Floats, Floats]:
    """P(a), P(b) and P(tie) of scalar rewards, by Rao and Kupper (1967): three arrays like `difference`.

    With d = (r_a - r_b) / temperature and eta = `tie` >= 0: P(a) = sigmoid(d - eta), P(b) = sigmoid(-d -
    eta). `tie` None is the plain Bradley-Terry model, which knows no ties (eta = 0). Both may be arrays like
    `difference`. Raises ValueError for a temperature that is not positive or a negative tie.
    """
    scale = np.asarray(temperature, dtype=np.float64)
    if not np.all(scale > 0):
        raise ValueError(f"temperature must be positive, not {temperature}")
    eta = np.asarray(0.0 if tie is None else tie, dtype=np.float64)
    if np.any(eta < 0):
        raise ValueError(f"tie must be at least 0 or None, not {tie}")
    d = np.asarray(difference, dtype=np.float64) / scale
    p_a, p_b = sigmoid(d - eta), sigmoid(-d - eta)
    # 1 - p_a - p_b, in the form that keeps its digits when one side is nearly certain.
    return p_a, p_b, np.expm1(2 * eta) * p_a * p_b


def scalar_p_preferred(
    difference: ArrayLike, *, tie: float | None = None, temperature: float = 1.0
) -> Floats:
    """P(a preferred) = P(a) + P(tie)/2 of scalar rewards; see `scalar_probabilities`."""
    p_a, _, p_tie = scalar_probabilities(difference, tie=tie, temperature=temperature)
    return p_a + p_tie / 2


def cut_masses(rewards: ArrayLike, cuts: Sequence[float]) -> Floats:
    """P(bad), P(normal), P(good) of rewards [N] by the two cut points learned with them: an array [N, 3].

    P(bad) = sigmoid(c1 - r), P(bad or normal) = sigmoid(c2 - r): cumulative logit (McCullagh 1980).
    """
    reached = sigmoid(
        np.asarray(cuts, dtype=np.float64) - np.asarray(rewards, dtype=np.float64)[:, None]
    )  # [N, 2]
    return np.diff(reached, axis=1, prepend=0.0, append=1.0)


def ordinal_probabilities(p_a: ArrayLike, p_b: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """W = P(s_a > s_b), W' = P(s_b > s_a) and T = P(s_a = s_b) of independent ratings: three arrays [N].

    `p_a`, `p_b`: [N, 9] rating distributions, renormalised here (float32 soft-max rows miss 1 by some 1e-7),
    so that W + W' + T = 1. OPRM, arXiv 2602.12660, whose objective is -log W.
    """
    first, second = normalised(p_a), normalised(p_b)
    below = np.cumsum(second, axis=-1) - second  # [N, 9]: P(s_b < i)
    wins = np.sum(first * below, axis=-1)
    ties = np.sum(first * second, axis=-1)
    return wins, 1.0 - wins - ties, ties


def ordinal_p_preferred(p_a: ArrayLike, p_b: ArrayLike) -> Floats:
    """P(a preferred) = W + T/2 of rating distributions [N, 9]; an array [N]."""
    wins, _, ties = ordinal_probabilities(p_a, p_b)
    return wins + ties / 2


# --- Arithmetic ---


def normalised(p: ArrayLike) -> Floats:
    """Rating distributions whose rows sum to 1."""
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # a row of nothing, or of NaN: a diverged model, NaN here
        result: Floats = p / np.sum(p, axis=-1, keepdims=True)
    return result
