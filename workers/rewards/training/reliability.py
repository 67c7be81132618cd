"""How far each annotator can be relied on, fitted together with the model (docs/methods.md, Objectives).

Annotator u gives verdict v with

    P(v | u) = (1 - e_u) P_model(v) + e_u base_u(v)

where base_u is what a person clicks who does not look: this project's shares of ties and "both bad", and else the
left response with u's own share. The gradient of -log P(v | u) is (1 - gamma) times that of -log P_model(v), with

    gamma = e_u base_u(v) / ((1 - e_u) P_model(v) + e_u base_u(v)),

the probability that u did not look. So every term, whatever its objective adds, is weighted with 1 - gamma, and
the e_u and base_u follow from the gammas in closed form: incremental EM (Neal & Hinton 1998), whose E-step is
partial because a step of training sees a part of the judgements. There is no learning rate to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..data.judgements import TrainingData
from ..objectives.outcomes import BOTH_BAD, TIE

PRIOR = (0.5, 4.5)  # Beta prior on an annotator's error rate: failures and successes
SIDE_PRIOR = 10.0  # pseudo-clicks at the project's left share, beside those that u made without looking
SHARE_PRIOR = 10.0  # pseudo-verdicts at the project's shares of ties and "both bad"
SWEEPS = 4  # EM sweeps at every refit; a sweep touches every judgement, so there are at most
REFITS = 25  # refits in an epoch
REPORTED = 200

LEFT, RIGHT, NO_SIDE, NEITHER, BOTH = range(5)  # what a click was: a side, a side unknown, a tie, "both bad"
CLICKS = 5


class Reliability:
    """e_u and base_u of every annotator, from the model's latest probability of each training judgement.

    A judgement counts from the first time that a step has seen it; until the model knows something, gamma stays
    e_u and e_u the prior's mean, so an unbiased start needs no warm-up. All on the CPU in float64: [P] numbers.
    """

    def __init__(self, data: TrainingData, *, sides_only: bool = False) -> None:
        """`sides_only`: P_model and base_u are those of a against b given that one is preferred, so
        P(a | u) = (1 - T) ((1 - e_u) P(a | not T) + e_u base_u(a)), and ties say nothing of u.
        """
        self.sides_only = sides_only
        self.names = data.annotators
        self.annotator = data.annotator  # [P]
        side = torch.where(data.first_left == 1, LEFT, torch.where(data.first_left == 0, RIGHT, NO_SIDE))
        click = torch.where(data.outcome == TIE, NEITHER, torch.where(data.outcome == BOTH_BAD, BOTH, side))
        self.cell = data.annotator * CLICKS + click  # [P] (annotator, click)
        self.weight = data.weight.double()  # [P]
        self.failures, self.successes = PRIOR
        self.clicks = self._by_cell(self.weight)  # [U, 5]
        total = self.clicks.sum(0)
        self.project_left = (1.0 + total[LEFT]) / (2.0 + total[LEFT] + total[RIGHT])
        self.project_shares = _shares(self.clicks) / total.sum()  # of decided, tie, both bad

        people = len(self.names)
        self.error = torch.full(
            (people,), self.failures / (self.failures + self.successes), dtype=torch.float64
        )
        self.left = self.project_left.repeat(people)
        self.shares = self.project_shares.clone()
        self.log_p = torch.full((len(self.cell),), torch.inf, dtype=torch.float64)  # infinite: not seen yet
        self.fresh = 0

    def trust(self, rows: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        """1 - gamma of some judgements, the weight of their terms, given log P_model(v) of now. [B], [B] -> [B] fp32

        NaN stands for a verdict of which the model says nothing (a tie under clf): it teaches nothing about u, and
        gamma is e_u there, or 0 if base_u says nothing of it either (`sides_only`).
        """
        self.log_p[rows] = log_p.detach().double().cpu().nan_to_num(nan=torch.inf, neginf=-torch.inf)
        self.fresh += len(rows)
        if self.fresh * REFITS >= len(self.cell):
            self.refit()
        told = self.log_p[rows]
        gamma = torch.sigmoid(self._log_odds()[self.cell[rows]] - told)
        unknown = torch.zeros_like(gamma) if self.sides_only else self.error[self.annotator[rows]]
        return (1 - torch.where(told == torch.inf, unknown, gamma)).float()

    def relief(self, rows: torch.Tensor) -> torch.Tensor:
        """log P(v | u) - log P_model(v) of judgements that `trust` has just seen; 0 where it says nothing. [B] fp32

        What turns a term into the one that EM descends: weighted terms can't be compared over time, since the weights
        grow as the model learns.
        """
        told, cell = self.log_p[rows], self.cell[rows]
        looked = torch.log1p(-self.error[self.annotator[rows]])
        gain = looked + torch.nn.functional.softplus(self._log_odds()[cell] - told)
        return torch.where(told == torch.inf, 0.0, gain).float()

    def refit(self) -> None:
        """EM on all judgements seen so far, from where it stands."""
        self.fresh = 0
        judged = self._by_cell(self.weight * (self.log_p != torch.inf)).sum(1)
        for _ in range(SWEEPS):
            missed = self._by_cell(self.weight * torch.sigmoid(self._log_odds()[self.cell] - self.log_p))
            self.error = (self.failures + missed.sum(1)) / (self.failures + self.successes + judged)
            sided = missed[:, LEFT] + missed[:, RIGHT]
            self.left = (SIDE_PRIOR * self.project_left + missed[:, LEFT]) / (SIDE_PRIOR + sided)
            self.shares = (SHARE_PRIOR * self.project_shares + _shares(missed)) / (SHARE_PRIOR + missed.sum())

    def base(self) -> torch.Tensor:
        """base_u(v) of every click; without a known side it says nothing between a and b. [U, 5]"""
        decided, tie, both_bad = self.shares
        if self.sides_only:
            decided = torch.ones_like(decided)
        every = torch.ones_like(self.left)
        columns = [
            decided * self.left,
            decided * (1 - self.left),
            decided / 2 * every,
            tie * every,
            both_bad * every,
        ]
        return torch.stack(columns, dim=1)

    def _log_odds(self) -> torch.Tensor:
        """log e_u base_u(v) / (1 - e_u), so that gamma = sigmoid(this - log P_model(v)). [U * 5]"""
        return (self.error.logit().unsqueeze(1) + self.base().log()).flatten()

    def _by_cell(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over judgements by annotator and click. [P] -> [U, 5]"""
        size = len(self.names) * CLICKS
        return torch.bincount(self.cell, weights=values, minlength=size).reshape(-1, CLICKS)

    # --- Checkpoint and report ---

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        own = {name: getattr(self, name) for name in ("error", "left", "shares", "log_p")}
        return {f"reliability.{name}": value for name, value in own.items()} | {
            "reliability.fresh": torch.tensor(self.fresh)
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name in ("error", "left", "shares", "log_p"):
            setattr(self, name, state[f"reliability.{name}"])
        self.fresh = int(state["reliability.fresh"])

    def report(self) -> dict[str, Any]:
        """The entries of metrics.json: annotators by number of judgements (the first 200), and what base is.

        `left_share` is how often u clicks left when not looking; None if no click of u's has a known side.
        """
        self.refit()
        judgements = torch.bincount(self.annotator, minlength=len(self.names)).tolist()
        sided = self.clicks[:, LEFT] + self.clicks[:, RIGHT]
        order = sorted(range(len(self.names)), key=lambda u: (-judgements[u], self.names[u]))
        decided, tie, both_bad = (1.0, None, None) if self.sides_only else self.shares.tolist()
        return {
            "annotators": [
                {
                    "annotator": self.names[u],
                    "judgements": judgements[u],
                    "error_rate": round(self.error[u].item(), 4),
                    "left_share": round(self.left[u].item(), 4) if sided[u] > 0 else None,
                }
                for u in order[:REPORTED]
            ],
            "annotator_count": len(self.names),
            "base": {
                "a_left": round(decided * float(self.project_left), 4),
                "a_right": round(decided * (1 - float(self.project_left)), 4),
                "tie": None if tie is None else round(tie, 4),
                "both_bad": None if both_bad is None else round(both_bad, 4),
            },
        }


def _shares(clicks: torch.Tensor) -> torch.Tensor:
    """Sums of decided clicks, ties and "both bad". [U, 5] -> [3]"""
    total = clicks.sum(0)
    return torch.stack([total[: NO_SIDE + 1].sum(), total[NEITHER], total[BOTH]])
