"""From what a judge wrote to votes: distributions of responses, outcomes of pairs, and what more samples would bring.

A *sample* (0..k-1) shows every response of a prompt once, in one trajectory or, where there are many, in several. So
each response has k votes, less those that could not be read. A prompt's samples count whole: where a meta model
chooses, the best k / 2 of them vote (arXiv 2504.02495, section 3.3).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..evaluation.metrics import Row, clustered_mean, pair_votes
from ..models.predict import expected_rating, rating_spread
from ..scale import RATINGS
from .judge import Joint, Parsed, median_vote, vote_distribution

PRIOR_MEAN = (1 + RATINGS) / 2  # E[s] of a response that nobody rated
CURVE = (1, 2, 4, 8, 16, 32)  # numbers of samples that the chart shows
DRAWS = 20  # subsets of that many samples, whose accuracy is averaged

Pair = tuple[str, str]


@dataclass(frozen=True)
class Trajectory:
    """One answer of the judge about the responses it was shown, in that order."""

    stage: str  # rft | score
    prompt_id: str
    group: str
    responses: tuple[str, ...]  # ids, in the order shown
    sample: int
    text: str
    parsed: Parsed
    split: str
    correct: float | None = None
    outcome: str | None = None  # rft: kept | wrong | too_easy
    hinted: bool = False
    meta: float | None = None  # the meta model's logit
    counted: bool = False
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def ratings(self) -> dict[str, int]:
        """Each response's vote; empty where the answer could not be read."""
        return dict(zip(self.responses, self.parsed.scores or (), strict=False))


@dataclass
class Tally:
    """wins, ties and losses of a pair's first response; of them those in which it was shown before the other."""

    wins: int = 0
    ties: int = 0
    losses: int = 0
    first_wins: int = 0
    first_ties: int = 0
    first_losses: int = 0

    def add(self, difference: int, shown_first: bool) -> None:
        for counted in ("", "first_")[: 1 + shown_first]:
            name = counted + ("wins" if difference > 0 else "losses" if difference < 0 else "ties")
            setattr(self, name, getattr(self, name) + 1)

    @property
    def joint(self) -> Joint:
        return Joint(self.wins, self.ties, self.losses)

    @property
    def order_decided(self) -> bool | None:
        """Whether the winner changed with the order; None where one order was never shown."""
        first = self.first_wins - self.first_losses
        second = (self.wins - self.first_wins) - (self.losses - self.first_losses)
        n, n_first = (
            self.wins + self.ties + self.losses,
            self.first_wins + self.first_ties + self.first_losses,
        )
        return first * second < 0 if 0 < n_first < n else None


@dataclass
class Votes:
    """What the counted trajectories say: ratings of each response with their samples, and tallies of pairs (ids in
    ascending order) that stood in one trajectory."""

    ratings: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    pairs: dict[Pair, Tally] = field(default_factory=lambda: defaultdict(Tally))

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> Votes:
        """Votes of the trajectories that count and could be read."""
        votes = cls()
        for trajectory in trajectories:
            if not trajectory.counted:
                continue
            rated = trajectory.ratings
            for name, rating in rated.items():
                votes.ratings[name].append((trajectory.sample, rating))
            for before, after in itertools.combinations(rated, 2):
                first, second = (before, after) if before <= after else (after, before)
                votes.pairs[first, second].add(rated[first] - rated[second], first == before)
        return votes

    def together(self) -> dict[Pair, tuple[float, float]]:
        """P(first) and P(tie) of each pair, from the joint votes: what evaluate_run takes."""
        joints = {pair: tally.joint for pair, tally in self.pairs.items()}
        return {pair: (one.preferred - one.tie / 2, one.tie) for pair, one in joints.items()}

    def predictions(
        self,
        responses: Sequence[Row],
        sides: Sequence[str] | None = None,
        truncated: frozenset[str] = frozenset(),
    ) -> list[dict[str, Any]]:
        """Rows of predictions.parquet: p is the votes; of a response without any it is uniform."""
        rated = [[rating for _, rating in self.ratings.get(row["response_id"], ())] for row in responses]
        p = torch.tensor([vote_distribution(each) for each in rated], dtype=torch.float64)
        p = p.reshape(-1, RATINGS)
        expected, spread = expected_rating(p).tolist(), rating_spread(p).tolist()
        return [
            {
                "response_id": row["response_id"],
                "score": expected[number],
                "expected": expected[number],
                "spread": spread[number],
                "p": p[number].tolist(),
                "split": "unlabelled" if sides is None else sides[number],
                "truncated": row["response_id"] in truncated,
            }
            for number, row in enumerate(responses)
        ]


def counting(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectories of stage score with those marked that vote: all, or by `meta` the best half of a prompt's
    samples."""
    meta = any(one.meta is not None for one in trajectories)
    if not meta:
        return [replace(one, counted=True) for one in trajectories]
    of: dict[str, list[Trajectory]] = defaultdict(list)
    for one in trajectories:
        of[one.prompt_id].append(one)
    best = {prompt: _best_half(_worth(own)) for prompt, own in of.items()}
    return [replace(one, counted=one.sample in best[one.prompt_id]) for one in trajectories]


def _worth(own: Sequence[Trajectory]) -> dict[int, float]:
    """The mean meta score of each sample of one prompt; one that can't be read is worth nothing."""
    found: dict[int, list[float]] = defaultdict(list)
    for one in own:
        found[one.sample].append(
            one.meta if one.meta is not None and one.parsed.scores is not None else -math.inf
        )
    return {sample: sum(values) / len(values) for sample, values in found.items()}


def _best_half(worth: Mapping[int, float]) -> set[int]:
    """The samples with the most worth, half of them; of equals the earlier ones."""
    order = sorted(worth, key=lambda sample: (-worth[sample], sample))
    return set(order[: max(1, len(order) // 2)])


def critiques(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """Rows of critiques.parquet: a vote each, `median` marking the one that a response's page shows first.

    The median is that of the counted votes. An answer that could not be read is no vote, and stands in
    trajectories.parquet alone.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    counted: dict[str, list[bool]] = defaultdict(list)
    for one in trajectories:
        if one.parsed.scores is None:
            continue
        texts = [*one.parsed.critiques, *[""] * len(one.responses)]
        for place, name in enumerate(one.responses):
            counted[name].append(one.counted)
            rows[name].append(
                {
                    "response_id": name,
                    "sample": one.sample,
                    "position": place,
                    "rating": one.parsed.scores[place],
                    "principles": one.parsed.principles,
                    "critique": texts[place],
                    "median": False,
                }
            )
    for name, own in rows.items():
        chosen = [row for row, votes in zip(own, counted[name], strict=True) if votes]
        if chosen:
            chosen[median_vote([row["rating"] for row in chosen])]["median"] = True
    return [row for own in rows.values() for row in own]


def joint_rows(votes: Votes) -> list[dict[str, Any]]:
    """Rows of joint.parquet, response_a < response_b."""
    return [
        {
            "response_a": first,
            "response_b": second,
            "wins": tally.wins,
            "ties": tally.ties,
            "losses": tally.losses,
            "order_a_first_wins": tally.first_wins,
            "order_a_first_ties": tally.first_ties,
            "order_a_first_losses": tally.first_losses,
        }
        for (first, second), tally in sorted(votes.pairs.items())
    ]


def order_report(votes: Votes, pairs: Iterable[Pair] | None = None) -> dict[str, Any]:
    """{"pairs": those shown in both orders, "decided": the share whose winner changed with the order, or None}."""
    names = votes.pairs if pairs is None else [pair for pair in pairs if pair in votes.pairs]
    said = [found for pair in names if (found := votes.pairs[pair].order_decided) is not None]
    return {"pairs": len(said), "decided": sum(said) / len(said) if said else None}


# --- Accuracy by number of samples ---


def curve(
    trajectories: Sequence[Trajectory],
    responses: Sequence[Row],
    judgements: Sequence[Row],
    samples: int,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Pair accuracy by the number of samples that vote, from the stored ones: no text is sampled anew.

    Each entry is {"samples", "votes", "meta"}: accuracies {"value", "low", "high", "n"} over decisive judgements with
    an interval clustered by group, equal scores counting half. A number below `samples` is the mean over DRAWS subsets
    of that many. "meta": by the best half of the subset; None without a meta model. `responses`, `judgements`: those to
    measure on.
    """
    pairs = pair_votes(judgements)
    decisive = pairs.vote != 0.5
    if not decisive.any():
        return []
    place = {name: number for number, name in enumerate(pairs.ids)}
    rated = np.full((len(place), samples), np.nan)  # [R, k]
    where = np.full((len(place), samples), -1)  # the trajectory in which a response stood
    worth = np.full((len(place), samples), -np.inf)
    of_prompt: dict[str, list[Trajectory]] = defaultdict(list)
    for number, one in enumerate(trajectories):
        of_prompt[one.prompt_id].append(one)
        for name, rating in one.ratings.items():
            if name in place:
                rated[place[name], one.sample] = rating
                where[place[name], one.sample] = number
    for own in of_prompt.values():
        values = _worth(own)
        for name in {name for one in own for name in one.responses if name in place}:
            worth[place[name], list(values)] = list(values.values())
    with_meta = any(one.meta is not None for one in trajectories)
    groups = {row["response_id"]: row["group"] for row in responses}
    names = np.array(
        [
            min(groups[pairs.ids[a]], groups[pairs.ids[b]])
            for a, b in zip(pairs.first, pairs.second, strict=True)
        ]
    )
    _, cluster = np.unique(names, return_inverse=True)
    pair_of, sign = pairs.pair_of[decisive], 2.0 * pairs.vote[decisive] - 1.0

    def accuracy(
        counted: Callable[[np.ndarray], np.ndarray], subsets: Sequence[np.ndarray]
    ) -> dict[str, Any]:
        right = np.zeros(len(pair_of))
        for subset in subsets:
            chosen = counted(subset)  # [R, k] which samples vote
            ratings = np.where(chosen, rated, np.nan)
            n = np.isfinite(ratings).sum(axis=1)
            expected = (np.nansum(ratings, axis=1) + PRIOR_MEAN) / (n + 1)
            first, second = ratings[pairs.first], ratings[pairs.second]
            together = where[pairs.first] == where[pairs.second]
            wins = np.nansum(np.where(together, np.sign(first - second), 0.0), axis=1)
            difference = expected[pairs.first] - expected[pairs.second]
            winner = np.where(difference != 0, np.sign(difference), np.sign(wins))  # [P]
            right += 0.5 + 0.5 * sign * winner[pair_of]
        return clustered_mean(right / len(subsets), cluster[pair_of], seed=seed)

    def of_subset(subset: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.isin(np.arange(samples), subset), rated.shape)

    def best_half(subset: np.ndarray) -> np.ndarray:
        chosen = np.zeros(rated.shape, dtype=bool)
        order = np.argsort(-worth[:, subset], axis=1, kind="stable")[:, : max(1, len(subset) // 2)]
        np.put_along_axis(chosen, subset[order], True, axis=1)
        return chosen

    found = []
    for size in [m for m in CURVE if m < samples] + [samples]:
        subsets = _subsets(samples, size, seed)
        found.append(
            {
                "samples": size,
                "votes": accuracy(of_subset, subsets),
                "meta": accuracy(best_half, subsets) if with_meta else None,
            }
        )
    return found


def _subsets(samples: int, size: int, seed: int) -> list[np.ndarray]:
    """All subsets of one sample, the whole, or DRAWS drawn ones; in ascending order."""
    if size == samples:
        return [np.arange(samples)]
    if size == 1:
        return [np.array([number]) for number in range(samples)]
    rng = np.random.default_rng([seed, size])
    return [np.sort(rng.choice(samples, size, replace=False)) for _ in range(DRAWS)]
