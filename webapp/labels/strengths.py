"""How strong authors are by the judgements of their responses: Bradley-Terry with ties, and intervals.

Davidson (1970): with the strengths θ of two authors and d = θ_i - θ_j + γ z, the log weights of the outcomes "i wins",
"tie" and "j wins" are d/2, τ and -d/2, so that the odds of winning are exp(d) whatever the share of ties. γ and z are
there only for what is controlled for length: z is a length difference (see `standardised`), as in LMArena's style
control. The model is log-linear and concave; Newton's steps find its maximum, for all bootstrap resamples at once.

Every author (and γ) also gets half a win and half a loss against the average, one made-up judgement, so that who won
everything is not infinitely strong; τ gets half a tie and half a decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 200
# Of fewer prompts no interval is told: resamples of them are nearly the same.
FEWEST_PROMPTS = 5
# Lengths are rounded to a tenth of their standard deviation: judgements fall into cells, and a resample costs as much
# as there are cells. The rounding adds .0008 to a variance of 1.
_ROUNDED = 10
# Cells of so many resamples are dealt with at a time: their numbers stay in the processor's cache.
_AT_ONCE = 32_768
_ELO = 400 / np.log(10)


@dataclass(frozen=True)
class Battles:
    """Pairs of responses with their votes, one row each.

    a, b: numbers of the two authors, 0..A-1, never equal; prompt: number of the prompt, 0..C-1, by which resamples are
    drawn; wins, ties, losses: votes from a's side, or what a model gives them; length_a, length_b: characters.
    """

    a: Ints  # [N]
    b: Ints  # [N]
    prompt: Ints  # [N]
    wins: Floats  # [N]
    ties: Floats  # [N]
    losses: Floats  # [N]
    length_a: Floats  # [N]
    length_b: Floats  # [N]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval by bootstrap over prompts; None where there are too few prompts."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Strengths:
    """What `strengths` returns: by author, in the order of their numbers.

    elo: 1000 + 400 / ln 10 * θ, where the mean θ is 0, so 400 more are ten times the odds; against_average: P(win) +
    P(tie) / 2 against an author of mean strength and a response of the same length; length: exp(γ), by which one
    standard deviation more in length multiplies the odds of winning; None where lengths are not looked at, or equal.
    """

    elo: list[Estimate]
    against_average: list[Estimate]
    length: Estimate | None


def standardised(battles: Battles) -> Floats:
    """z = l / sd(l), with l = (length_a - length_b) / (length_a + length_b) and sd over the votes, [N]; 0 where all
    are of one length.
    """
    sums = battles.length_a + battles.length_b
    share = np.divide(battles.length_a - battles.length_b, sums, out=np.zeros_like(sums), where=sums > 0)
    votes = battles.wins + battles.ties + battles.losses
    spread = np.sqrt(np.average(share**2, weights=votes)) if votes.sum() > 0 else 0.0
    return share / spread if spread > 0 else share


def strengths(
    battles: Battles, authors: int, *, for_length: bool, resamples: int = RESAMPLES, seed: int = 0
) -> Strengths:
    """Strengths of `authors` authors who are all compared with each other, directly or by way of others.

    Resamples draw prompts with replacement. The interval is from the 2.5th to the 97.5th percentile.
    """
    z = np.round(standardised(battles) * _ROUNDED) / _ROUNDED if for_length else np.zeros(len(battles.a))
    cells, first, cell = np.unique(
        np.stack([battles.a, battles.b, z * _ROUNDED]), axis=1, return_index=True, return_inverse=True
    )
    counts = np.stack([battles.wins, battles.ties, battles.losses])  # [3, N]
    model = _Model(cells[0].astype(np.int64), cells[1].astype(np.int64), z[first], authors)
    cell = cell.reshape(-1)

    def summed(weights: Floats) -> Floats:
        """[3, M]: the counts of the cells, each row weighted."""
        return np.stack([np.bincount(cell, weights=row * weights, minlength=len(first)) for row in counts])

    fitted = model.fit(summed(np.ones(len(cell)))[None], np.zeros((1, authors + 2)))
    prompts = int(battles.prompt.max()) + 1
    drawn = np.empty((0, authors + 2))
    if prompts >= FEWEST_PROMPTS:
        draw = np.random.default_rng(seed)
        weights = draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
        size = max(1, _AT_ONCE // len(first))
        drawn = np.concatenate(
            [
                model.fit(
                    np.stack([summed(row[battles.prompt]) for row in weights[at : at + size]]),  # [B, 3, M]
                    np.repeat(fitted, len(weights[at : at + size]), axis=0),
                )
                for at in range(0, resamples, size)
            ]
        )
    every = np.concatenate([fitted, drawn])  # [1 + B, A + 2]
    theta = every[:, :authors] - every[:, :authors].mean(axis=1, keepdims=True)
    half, tie = np.exp(theta / 2), np.exp(every[:, -1:])
    average = (half + tie / 2) / (half + 1 / half + tie)
    has_length = for_length and bool(np.any(z))
    return Strengths(
        elo=_estimates(1000 + _ELO * theta),
        against_average=_estimates(average),
        length=_estimates(np.exp(every[:, authors : authors + 1]))[0] if has_length else None,
    )


class _Model:
    """The likelihood over cells: author i against author j at the length difference z."""

    def __init__(self, i: Ints, j: Ints, z: Floats, authors: int) -> None:
        # Cells of the same two authors stand together, since they come sorted: sums over them are sums of slices.
        self.i, self.j, self.z, self.authors = i, j, z, authors
        self.starts = np.flatnonzero(np.r_[True, (np.diff(i) != 0) | (np.diff(j) != 0)])
        self.pair_i, self.pair_j = i[self.starts], j[self.starts]
        self.signed = np.zeros((len(self.starts), authors))  # [P, A]
        rows = np.arange(len(self.starts))
        self.signed[rows, self.pair_i], self.signed[rows, self.pair_j] = 1.0, -1.0

    def by_pair(self, values: Floats) -> Floats:
        """Sums over the cells of each two authors, [B, M] -> [B, P]."""
        return np.add.reduceat(values, self.starts, axis=1)

    def fit(self, counts: Floats, start: Floats) -> Floats:
        """The maximum for each of B resamples: counts [B, 3, M], start and result [B, A + 2] (θ, γ, τ)."""
        found = start.copy()
        going = np.arange(len(found))
        for _ in range(50):
            gradient, hessian = self.slopes(counts[going], found[going])
            step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
            largest = np.abs(step).max(axis=1)
            found[going] += step / np.maximum(1.0, largest / 2)[:, None]
            # Newton's error after a step is about its square.
            going = going[largest > 1e-4]
            if not len(going):
                break
        return found

    def slopes(self, counts: Floats, at: Floats) -> tuple[Floats, Floats]:
        """Gradient [B, A + 2] of the log likelihood, and minus its Hessian [B, A + 2, A + 2]."""
        authors = self.authors
        theta, gamma, tau = at[:, :authors], at[:, authors, None], at[:, authors + 1, None]
        d = theta[:, self.i] - theta[:, self.j] + gamma * self.z  # [B, M]
        win, tie, lose = np.exp(d / 2), np.exp(tau), np.exp(-d / 2)
        total = win + tie + lose
        win, tie, lose = win / total, tie / total, lose / total
        wins, ties, losses = counts[:, 0], counts[:, 1], counts[:, 2]
        n = wins + ties + losses
        lead = win - lose
        slope = (wins - losses - n * lead) / 2
        curve = n * (win + lose - lead**2) / 4
        cross = -n * tie * lead / 2

        gradient = np.empty((len(at), authors + 2))
        gradient[:, :authors] = self.by_pair(slope) @ self.signed
        gradient[:, authors] = slope @ self.z
        gradient[:, authors + 1] = (ties - n * tie).sum(axis=1)
        hessian = np.zeros((len(at), authors + 2, authors + 2))
        pairs = self.by_pair(curve)
        hessian[:, self.pair_i, self.pair_j] -= pairs
        hessian[:, self.pair_j, self.pair_i] -= pairs
        own = np.arange(authors)
        hessian[:, own, own] += pairs @ np.abs(self.signed)
        hessian[:, authors, authors] = curve @ self.z**2
        hessian[:, -1, -1] = (n * tie * (1 - tie)).sum(axis=1)
        for column, values in (
            (authors, self.by_pair(curve * self.z) @ self.signed),
            (authors + 1, self.by_pair(cross) @ self.signed),
        ):
            hessian[:, :authors, column] = hessian[:, column, :authors] = values
        hessian[:, authors, -1] = hessian[:, -1, authors] = cross @ self.z

        # The made-up judgements: half won, half lost, and half a tie between equals.
        prior = 1 / (1 + np.exp(-at[:, : authors + 1]))
        made_up = np.exp(at[:, -1]) / (2 + np.exp(at[:, -1]))
        gradient[:, : authors + 1] += 0.5 - prior
        gradient[:, -1] += 0.5 - made_up
        every = np.arange(authors + 2)
        hessian[:, every[:-1], every[:-1]] += prior * (1 - prior)
        hessian[:, -1, -1] += made_up * (1 - made_up)
        return gradient, hessian


def _estimates(values: Floats) -> list[Estimate]:
    """Of [1 + B, K] values, the fitted ones first: K estimates."""
    if len(values) == 1:
        return [Estimate(float(value), None, None) for value in values[0]]
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(values[0], low, high, strict=True)]


def connected(a: Ints, b: Ints, authors: int) -> list[list[int]]:
    """Groups of authors that rows compare with each other, directly or by way of others; the largest group first."""
    group = list(range(authors))

    def root(author: int) -> int:
        while group[author] != author:
            group[author] = group[group[author]]
            author = group[author]
        return author

    for first, second in set(zip(a.tolist(), b.tolist(), strict=True)):
        group[root(first)] = root(second)
    groups: dict[int, list[int]] = {}
    for author in range(authors):
        groups.setdefault(root(author), []).append(author)
    return sorted(groups.values(), key=len, reverse=True)


def rank_range(estimates: Sequence[Estimate]) -> list[tuple[int, int]]:
    """The best and the worst rank that intervals leave open: 1 + those wholly above, A - those wholly below."""
    found = []
    for each in estimates:
        low, high = (each.value if bound is None else bound for bound in (each.low, each.high))
        above = sum((other.value if other.low is None else other.low) > high for other in estimates)
        below = sum((other.value if other.high is None else other.high) < low for other in estimates)
        found.append((1 + above, len(estimates) - below))
    return found
