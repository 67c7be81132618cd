"""One optimiser step: which parameters learn how fast, and the mean loss over a step's judgements and levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from .. import objectives
from ..config import RunConfig
from ..data.judgements import TrainingData
from ..models.encode import ResponseEncoder
from ..models.predict import expected_rating
from ..models.reward_model import RewardModel
from ..scale import UNKNOWN
from ..text.sections import Encoded
from .batches import Step
from .hardening import ALIKE, alike_terms
from .reliability import Reliability

_T = TypeVar("_T")


class StepLoss:
    """The mean loss of a step: each distinct response is encoded once, judgements are formed from its scores.

    The gradient is that of encoding both sides of every judgement and averaging (tests/rewards/test_batches.py).
    """

    def __init__(
        self,
        model: RewardModel,
        config: RunConfig,
        data: TrainingData,
        rows: Sequence[Encoded],
        features: torch.Tensor | None,
        encoder: ResponseEncoder,
        reliability: Reliability | None = None,
    ) -> None:
        self.model, self.config, self.data = model, config, data
        self.rows, self.features, self.encoder = rows, features, encoder
        device = self.device = encoder.device
        self.reliability = reliability
        self.masks = config.scale.masks().to(device)
        region = config.region if config.method == "rgft" else "none"
        self.regions = objectives.region_table(config.scale, region).to(device)
        # where "both bad" was among the verdicts, the others say that not both were
        self.may_be_bad = config.ordinal and bool((data.outcome == objectives.BOTH_BAD).any())
        self.place = torch.zeros(len(rows), dtype=torch.int64)  # a response's position within the step
        self.reference: torch.Tensor | None = None

    @torch.no_grad()
    def keep_reference(self, tick: Any) -> None:
        """Log-probabilities of all trained responses under the starting weights, once (LoRA: adapters off)."""
        self.model.eval()
        chosen = sorted(self.data.trained_on)
        self.reference = torch.zeros(len(self.rows), device=self.device)
        with self.model.reference():
            _, log_pi = self.encoder.scores([self.rows[r] for r in chosen], log_probs=True, tick=tick)
        self.reference[chosen] = given(log_pi)

    def __call__(self, step: Step) -> torch.Tensor:
        """Mean over the step's judgement and level terms by weight, with its graph.  []"""
        config, data = self.config, self.data
        scores, log_pi = self._scores(step.responses)
        self.place[step.responses] = torch.arange(len(step.responses))
        rows = torch.tensor(step.judgements, dtype=torch.int64)
        a, b = data.first[rows], data.second[rows]
        at_a, at_b = self.place[a].to(self.device), self.place[b].to(self.device)
        alike = (data.outcome[rows] == ALIKE).to(self.device)  # (response, attacked copy): hardening's
        outcome = data.outcome[rows].to(self.device).where(~alike, objectives.WIN)
        judged = data.annotator[rows] >= 0  # by a person; the others are hardening's
        strength = data.strength[rows].to(self.device)
        weight = data.weight[rows].to(self.device)
        total, count = scores.new_zeros(()), weight.sum() + len(step.levels)
        if config.ordinal:
            log_p = objectives.log_ratings(scores)  # [B, 9]
            region = self.regions[data.level[a], data.level[b], data.strength[rows] - 1]  # [P, 9, 9]
            terms = objectives.oprm_terms(
                log_p[at_a], log_p[at_b], outcome, region.to(self.device), self.masks[0]
            )
            if step.levels:
                level_rows = torch.tensor(step.levels)
                where = self.place[data.level_response[level_rows]].to(self.device)
                levels = self.masks[data.level_value[level_rows].to(self.device)]
                total = total + objectives.level_terms(log_p[where], levels).sum()
        elif config.method == "clf":
            terms = objectives.clf_terms(scores[at_a], scores[at_b], outcome)
        else:
            terms = objectives.bt_terms(
                scores[at_a],
                scores[at_b],
                outcome,
                margin=config.margin + config.strength_margin * (strength - 1),
                tie=self.model.tie,
                bad_threshold=self.model.bad_threshold,
                centring=config.centring,
            )
        if log_pi is not None and self.reference is not None:
            start = self.reference[step.responses]
            policy = objectives.dpo_terms(
                log_pi[at_a], log_pi[at_b], start[at_a], start[at_b], beta=config.beta
            )
            # a tie or "both bad" prefers neither text
            terms = terms + config.alpha * policy * (outcome == objectives.WIN)
        if bool(alike.any()):
            rating = expected_rating(log_p.exp()) if config.ordinal else scores
            terms = torch.where(alike, alike_terms(rating[at_a], rating[at_b]), terms)
        if self.reliability is not None and bool(judged.any()):
            attention = torch.ones(len(rows))
            if config.ordinal:
                log_side, log_sided = self._log_side(log_p[at_a], log_p[at_b])
                log_verdict = torch.where(outcome == objectives.WIN, log_side, torch.nan)
            else:
                log_verdict = self._log_verdict(scores.detach(), at_a, at_b, outcome)
            attention[judged] = self.reliability.attention(rows[judged], log_verdict.detach().cpu()[judged])
            attention = attention.to(self.device)
            terms = attention * terms
            if config.ordinal:  # that one was preferred is the model's to explain, whoever looked
                terms = terms - (1 - attention) * log_sided
        if self.may_be_bad:
            compared = judged.to(self.device) & (outcome != objectives.BOTH_BAD)
            terms = terms - compared * objectives.log_not_both_bad(log_p[at_a], log_p[at_b], self.masks[0])
        return (total + (weight * terms).sum()) / count

    def _log_side(self, log_a: torch.Tensor, log_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log P(a preferred | one is) and log P(one is), both without regions.  [P, 9] x 2 -> [P] x 2

        Annotators of ordinal models are judged by the sides they take: P(tie) starts at a ninth and follows from the
        spread of the ratings, so it made honest people look careless.
        """
        below = objectives.region_mask(self.config.scale, "none", UNKNOWN, UNKNOWN).to(self.device)
        win, loss = objectives.log_mass(log_a, log_b, below), objectives.log_mass(log_a, log_b, below.T)
        one = torch.logaddexp(win, loss)
        return win - one, one

    @torch.no_grad()
    def _log_verdict(
        self, scores: torch.Tensor, at_a: torch.Tensor, at_b: torch.Tensor, outcome: torch.Tensor
    ) -> torch.Tensor:
        """log P_model(v) of judgements by a scalar reward, without margin or policy; NaN where it has none.  [P]"""
        score_a, score_b = scores[at_a], scores[at_b]
        if self.config.method == "clf":
            log_a = torch.nn.functional.logsigmoid(score_a - score_b)
            return torch.where(outcome == objectives.WIN, log_a, torch.nan)
        tie, bad_threshold = self.model.tie, self.model.bad_threshold
        return -objectives.bt_terms(score_a, score_b, outcome, tie=tie, bad_threshold=bad_threshold)

    def _scores(self, responses: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores, and with HaF log pi(response), in the order of `responses`.  [B] or [B, 9], [B] or None"""
        if self.features is not None:
            return self.model.score(self.features[responses]), None
        return self.encoder.scores([self.rows[r] for r in responses], log_probs=self.config.method == "haf")


def given(value: _T | None) -> _T:
    """The value of a setting that RunConfig.resolved has filled."""
    assert value is not None, "RunConfig.resolved fills every default"
    return value
