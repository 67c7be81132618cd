"""The loss of one optimiser step: a term for each of its judgements and levels, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import objectives
from ..config import ResolvedConfig
from ..data.judgements import TrainingData
from ..models.encode import ResponseEncoder
from ..models.reward_model import RewardModel
from ..scale import UNKNOWN
from ..text.sections import Encoded
from .batches import Step, parts
from .reliability import Reliability


@dataclass(frozen=True)
class Rows:
    """A step's judgements. All are [P]; a, b: places among the step's responses, `a` preferred in a WIN."""

    responses: list[int]
    rows: torch.Tensor  # of the training data
    a: torch.Tensor
    b: torch.Tensor
    outcome: torch.Tensor
    strength: torch.Tensor
    weight: torch.Tensor
    levels: tuple[torch.Tensor, torch.Tensor]  # of both sides, 3 = unknown
    by_person: torch.Tensor  # the others have no annotator


class StepLoss:
    """The summed loss of a step: each distinct response is encoded once, judgements are formed from its scores.

    The gradient is that of encoding both sides of every judgement and adding up. The loop divides it by the mean of
    `weight` over the epoch's steps, one number for all: an epoch's steps then add up to the gradient of the pairwise
    mean, times their number, however many judgements each step holds (tests/rewards/training/test_batches.py).
    """

    def __init__(
        self,
        model: RewardModel,
        config: ResolvedConfig,
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
        self.may_be_bad = bool((data.outcome == objectives.BOTH_BAD).any())
        # haf's second term prefers one text to another, so without such a judgement it has nothing to say
        self.with_policy = config.method == "haf" and bool((data.outcome == objectives.WIN).any())
        self.place = torch.zeros(len(rows), dtype=torch.int64)  # a response's position within the step
        self.reference: torch.Tensor | None = None

    @torch.no_grad()
    def keep_reference(self, progress: Any) -> None:
        """Log-probabilities of all trained responses under the starting weights, once and before the first step.

        New adapters are nothing yet; those of a version that the run goes on from are part of its start.
        """
        self.model.eval()
        chosen = sorted(self.data.trained_on)
        self.reference = torch.zeros(len(self.rows), device=self.device)
        _, log_pi = self.encoder.scores([self.rows[r] for r in chosen], log_probs=True, progress=progress)
        assert log_pi is not None
        self.reference[chosen] = log_pi

    def parts(self, step: Step) -> list[Step]:
        """The step itself where the encoder holds all of its activations at once, else in parts that it holds."""
        held = self.encoder.kept_tokens
        if self.features is not None or held is None:
            return [step]

        def cost(responses: Sequence[int]) -> int:
            return self.encoder.tokens([self.rows[response] for response in responses])

        data = self.data
        most = held * self.encoder.group.size
        return parts(step, data.first, data.second, data.level_response, cost, most)

    def __call__(self, step: Step, whole: Step | None = None) -> torch.Tensor:
        """Sum of the step's judgement and level terms by weight, each with the step's roughness, with its graph. []

        `whole`: the step that this one is a part of; the parts' sums add up to its sum.
        """
        whole = whole or step
        scores, log_pi = self._scores(step.responses)
        rows = self._rows(step)
        terms = self._reward_terms(scores, rows)  # [P]
        if log_pi is not None:
            terms = terms + self.config.alpha * self._policy_terms(log_pi, rows)
        if self.reliability is not None and bool(rows.by_person.any()):
            terms = self._trusted(scores, rows, terms)
        if self.may_be_bad and self.config.ordinal:
            log_p = objectives.log_ratings(scores)
            not_both = objectives.log_not_both_bad(log_p[rows.a], log_p[rows.b], self.masks[0])
            terms = terms - (rows.outcome != objectives.BOTH_BAD) * not_both
        total = (rows.weight * terms).sum() + self._level_terms(scores, step.levels).sum()
        if self.config.ordinal and self.config.smoothness:
            # a mean over responses, added to each of the step's terms, as the loop divides by their weight
            rough = objectives.roughness(objectives.log_ratings(scores)).mean()
            share = len(step.responses) / len(whole.responses)
            total = total + self.config.smoothness * self.weight(whole) * rough * share
        return total

    def weight(self, step: Step) -> float:
        """The weight of the step's terms together; a level's is 1."""
        return float(self.data.weight[step.judgements].sum()) + len(step.levels)

    def _rows(self, step: Step) -> Rows:
        """The step's judgements, their sides as places among its responses."""
        data, device = self.data, self.device
        self.place[step.responses] = torch.arange(len(step.responses))
        rows = torch.tensor(step.judgements, dtype=torch.int64)
        first, second = data.first[rows], data.second[rows]
        return Rows(
            responses=step.responses,
            rows=rows,
            a=self.place[first].to(device),
            b=self.place[second].to(device),
            outcome=data.outcome[rows].to(device),
            strength=data.strength[rows].to(device),
            weight=data.weight[rows].to(device),
            levels=(data.level[first], data.level[second]),
            by_person=(data.annotator[rows] >= 0).to(device),
        )

    def _reward_terms(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The objective's own term of each judgement. [B] or [B, 9] -> [P]"""
        config, a, b = self.config, rows.a, rows.b
        if config.ordinal:
            log_p = objectives.log_ratings(scores)  # [B, 9]
            region = self.regions[*rows.levels, rows.strength.cpu() - 1].to(self.device)  # [P, 9, 9]
            return objectives.oprm_terms(log_p[a], log_p[b], rows.outcome, region, self.masks[0])
        if config.method == "clf":
            return objectives.clf_terms(scores[a], scores[b], rows.outcome)
        return objectives.bt_terms(
            scores[a],
            scores[b],
            rows.outcome,
            margin=None
            if config.strength_taught == "thresholds"
            else config.strength_margin * (rows.strength - 1),
            strength=rows.strength,
            steps=self.model.strength_steps,
            tie=self.model.tie,
            bad_threshold=self._bad_threshold,
            centring=config.centring,
        )

    def _policy_terms(self, log_pi: torch.Tensor, rows: Rows) -> torch.Tensor:
        """HaF's second term; a tie or "both bad" prefers neither text. [B] -> [P]"""
        assert self.reference is not None, "keep_reference comes before the first step"
        start, (a, b) = self.reference[rows.responses], (rows.a, rows.b)
        terms = objectives.dpo_terms(log_pi[a], log_pi[b], start[a], start[b], beta=self.config.beta)
        return terms * (rows.outcome == objectives.WIN)

    def _trusted(self, scores: torch.Tensor, rows: Rows, terms: torch.Tensor) -> torch.Tensor:
        """Each term weighed by how far its annotator is trusted here (reliability.py). [P] -> [P]

        The gradient is that of the weighted terms. The value is the one that falls: terms of P(v | u).
        """
        assert self.reliability is not None
        log_sided = None
        if self.config.ordinal:
            log_p = objectives.log_ratings(scores)
            log_side, log_sided = self._log_side(log_p[rows.a], log_p[rows.b])
            log_verdict = torch.where(rows.outcome == objectives.WIN, log_side, torch.nan)
        else:
            log_verdict = self._log_verdict(scores.detach(), rows)
        trust, judged = torch.ones(len(rows.rows)), rows.by_person.cpu()
        trust[judged] = self.reliability.trust(rows.rows[judged], log_verdict.detach().cpu()[judged])
        relief = torch.zeros(len(rows.rows))
        relief[judged] = self.reliability.relief(rows.rows[judged])
        trust = trust.to(self.device)
        weighted = trust * terms
        if log_sided is not None:
            # that one was preferred is the model's to explain, whoever looked
            weighted = weighted - (1 - trust) * log_sided
        return weighted + (terms - relief.to(self.device) - weighted).detach()

    @property
    def _bad_threshold(self) -> torch.Tensor | None:
        """For the likelihood of verdicts: None where nobody could say, or said, "both bad"."""
        return self.model.bad_threshold if self.may_be_bad else None

    def _level_terms(self, scores: torch.Tensor, levels: list[int]) -> torch.Tensor:
        """Levels that teach on their own: -log of the level's mass, of a scalar reward by its cut points. [L]"""
        if not levels:
            return scores.new_zeros(0)
        rows = torch.tensor(levels)
        where = self.place[self.data.level_response[rows]].to(self.device)
        value = self.data.level_value[rows].to(self.device)
        if not self.config.ordinal:
            assert self.model.cuts is not None, "levels need cut points"
            return (
                -objectives.log_levels(scores[where], self.model.cuts)
                .gather(1, value.unsqueeze(1))
                .squeeze(1)
            )
        masks = self.masks[value]
        return objectives.level_terms(objectives.log_ratings(scores)[where], masks)

    def _log_side(self, log_a: torch.Tensor, log_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log P(a preferred | one is) and log P(one is), both without regions. [P, 9] x 2 -> [P] x 2

        Annotators of ordinal models are judged by the sides they take: P(tie) starts at a ninth and follows from the
        spread of the ratings, so it made honest people look careless.
        """
        below = objectives.region_mask(self.config.scale, "none", UNKNOWN, UNKNOWN).to(self.device)
        win, loss = objectives.log_mass(log_a, log_b, below), objectives.log_mass(log_a, log_b, below.T)
        one = torch.logaddexp(win, loss)
        return win - one, one

    @torch.no_grad()
    def _log_verdict(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        """log P_model(v) of judgements by a scalar reward, without margin or policy; NaN where it has none. [P]"""
        score_a, score_b, outcome = scores[rows.a], scores[rows.b], rows.outcome
        if self.config.method == "clf":
            log_a = torch.nn.functional.logsigmoid(score_a - score_b)
            return torch.where(outcome == objectives.WIN, log_a, torch.nan)
        tie, bad_threshold = self.model.tie, self._bad_threshold
        return -objectives.bt_terms(score_a, score_b, outcome, tie=tie, bad_threshold=bad_threshold)

    def _scores(self, responses: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores, and with HaF log pi(response), in the order of `responses`. [B] or [B, 9], [B] or None"""
        if self.features is not None:
            return self.model.score(self.features[responses]), None
        return self.encoder.scores([self.rows[r] for r in responses], log_probs=self.with_policy)
