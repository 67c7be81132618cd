"""How far each annotator can be relied on, fitted together with the model (METHODS.md 2).

Annotator u gives verdict v with

    P(v | u) = (1 - e_u) P_model(v) + e_u base_u(v)

where base_u is what a person clicks who does not look: this project's shares of ties and "both bad", and else the
left response with u's own share.  The gradient of -log P(v | u) is (1 - gamma) times that of -log P_model(v), with

    gamma = e_u base_u(v) / ((1 - e_u) P_model(v) + e_u base_u(v)),

the probability that u did not look.  So every term, whatever its objective adds, is weighted with 1 - gamma, and
the e_u and base_u follow from the gammas in closed form: incremental EM (Neal & Hinton 1998), whose E-step is
partial because a step of training sees a part of the judgements.  There is no learning rate to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .data import TrainingData
from .objectives import BOTH_BAD, TIE, WIN

SIDE_PRIOR = 10.0  # pseudo-clicks at the project's left share, beside those that u made without looking
SHARE_PRIOR = 10.0  # pseudo-verdicts at the project's shares of ties and "both bad"
SWEEPS = 10  # EM sweeps over everything seen, at every refit
REFITS = 100  # refits per epoch at most: a refit touches every judgement, a step only its own
REPORTED = 200


class Reliability:
    """e_u and base_u of every annotator, from the model's latest probability of each training judgement.

    A judgement counts from the first time that a step has seen it; until the model knows something, gamma stays
    e_u and e_u the prior's mean, so an unbiased start needs no warm-up.  All on the CPU in float64: [P] numbers.
    """

    def __init__(self, data: TrainingData, prior: tuple[float, float]) -> None:
        """`prior`: Beta(failures, successes) on e_u."""
        self.names = data.annotators
        self.annotator = data.annotator  # [P]
        self.outcome = data.outcome  # [P]
        self.weight = data.weight.double()  # [P]
        self.failures, self.successes = prior
        decided = self.outcome == WIN
        self.sided = decided & (data.first_left >= 0)  # [P] a click on a side, and the side is known
        self.clicked_left = self.sided & (data.first_left == 1)
        self.project_left = (1.0 + self._sum(self.clicked_left)) / (2.0 + self._sum(self.sided))
        counts = torch.stack([self._sum(self.outcome == kind) for kind in (WIN, TIE, BOTH_BAD)])
        self.project_shares = counts / counts.sum()

        people = len(self.names)
        self.error = torch.full(
            (people,), self.failures / (self.failures + self.successes), dtype=torch.float64
        )
        self.left = torch.full((people,), float(self.project_left), dtype=torch.float64)
        self.shares = self.project_shares.clone()
        self.log_p = torch.full((len(self.outcome),), torch.nan, dtype=torch.float64)
        self.fresh = 0

    def attention(self, rows: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        """1 - gamma of some judgements, the weight of their terms, given log P_model(v) of now.  [B], [B] -> [B] fp32

        NaN stands for a verdict of which the model says nothing (a tie under clf): there gamma is e_u, and the
        verdict teaches nothing about u.
        """
        self.log_p[rows] = log_p.detach().double().cpu()
        self.fresh += len(rows)
        if self.fresh * REFITS >= len(self.outcome):
            self.refit()
        return (1 - self._gamma(rows)).float()

    def refit(self) -> None:
        """EM on all judgements seen so far, from where it stands."""
        self.fresh = 0
        every = torch.arange(len(self.outcome))
        seen = ~self.log_p.isnan()
        judged = self._by_person(self.weight * seen)
        for _ in range(SWEEPS):
            missed = torch.where(seen, self._gamma(every) * self.weight, 0.0)  # [P]
            careless = self._by_person(missed)
            self.error = (self.failures + careless) / (self.failures + self.successes + judged)
            left, sided = self._by_person(missed * self.clicked_left), self._by_person(missed * self.sided)
            self.left = (SIDE_PRIOR * self.project_left + left) / (SIDE_PRIOR + sided)
            shares = torch.zeros(3, dtype=torch.float64).index_add(0, self.outcome, missed)
            self.shares = (SHARE_PRIOR * self.project_shares + shares) / (SHARE_PRIOR + shares.sum())

    def base(self, rows: torch.Tensor) -> torch.Tensor:
        """base_u(v) of judgements; without a known side it says nothing between a and b.  [B] -> [B]"""
        left, decided = self.left[self.annotator[rows]], self.outcome[rows] == WIN
        side = torch.where(self.clicked_left[rows], left, torch.where(self.sided[rows], 1 - left, 0.5))
        return self.shares[self.outcome[rows]] * torch.where(decided, side, 1.0)

    def _gamma(self, rows: torch.Tensor) -> torch.Tensor:
        error, log_p = self.error[self.annotator[rows]], self.log_p[rows]
        gamma = torch.sigmoid(error.logit() + self.base(rows).log() - log_p)
        return torch.where(log_p.isnan(), error, gamma)

    def _sum(self, chosen: torch.Tensor) -> torch.Tensor:
        return self.weight[chosen].sum()

    def _by_person(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(self.names), dtype=torch.float64).index_add(0, self.annotator, values)

    # -- checkpoint and report --

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
        sided = self._by_person(self.weight * self.sided)
        order = sorted(range(len(self.names)), key=lambda u: (-judgements[u], self.names[u]))
        decided, tie, both_bad = self.shares.tolist()
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
                "tie": round(tie, 4),
                "both_bad": round(both_bad, 4),
            },
        }
