"""Training examples against injected text and empty answers: changed copies of responses, with known verdicts.

Two kinds, both built from the training side of the split and used in training alone:

- an *attacked copy* of a response has text added that says nothing (additions.py). Its score is drawn to that of its
  response, minus DROP: a score that moves up and down by nothing on average still passes its nearest neighbours half
  of the time. The epochs take turns with SETS copies of each response: more wordings for no more work.
- a *degenerate answer* (empty, punctuation, an opener, the prompt again, one word repeated) to a prompt loses to a
  real response at full strength, and for an ordinal model is labelled bad.

A copy joins the step of its response, so what people judged makes the same steps with and without hardening. No
verdict of a person is repeated, so what is said about annotators stays theirs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from ..data.judgements import TrainingData
from ..objectives.outcomes import MAX_STRENGTH, WIN
from ..text.sections import Encoded
from .additions import attacked, degenerate, words_of
from .batches import Step

ALIKE = 3  # the outcome of a row (response, attacked copy), beside WIN, TIE and BOTH_BAD
NOBODY = -1  # the annotator of a row that nobody judged
DROP = 0.2  # ratings (scalar: nats) that a copy should lie below its response
BEND = 0.5  # beyond this distance the pull stays as it is
MOST = 0.3  # of the judgements' weight: what attacked copies may weigh together
SETS = 3  # of attacked copies
EVERY = -1  # the set of a term that all epochs have
DEGENERATE_SHARE = 0.5  # degenerate answers for an attacked copy
MIN_DEGENERATE = 32  # a small project needs each kind a few times; these are short

Row = dict[str, Any]


@dataclass(frozen=True)
class Hardened:
    """Copies of responses, and the training data with their terms.

    copies: response rows; the first has index `responses`. data: what people judged (its first `judged` rows), then
    the copies' terms (`first` a response, `second` its copy) and levels. sets: the set of each of the copies' terms.
    alike: the terms whose copy reads like its response (what was added was cut off, say): they teach nothing.
    """

    copies: list[Row]
    data: TrainingData
    responses: int
    judged: int
    sets: list[int]
    alike: frozenset[int] = frozenset()

    def without_alike(self, rows: Sequence[Encoded]) -> Hardened:
        """The same, knowing how responses and copies are read."""
        sides = zip(self.data.first.tolist(), self.data.second.tolist(), strict=True)
        return replace(
            self,
            alike=frozenset(
                row
                for row, (first, second) in enumerate(sides)
                if row >= self.judged and rows[first].ids == rows[second].ids
            ),
        )

    def joined(self, steps: Sequence[Step], epoch: int) -> list[Step]:
        """The steps of one epoch, each response's copies in the first that holds it."""
        terms: dict[int, list[int]] = {}
        now = epoch % (1 + max([0, *self.sets]))
        for row, of in enumerate(self.sets, start=self.judged):
            if of in (EVERY, now) and row not in self.alike:
                terms.setdefault(int(self.data.first[row]), []).append(row)
        levels = self._levels
        whole: list[Step] = []
        for step in steps:
            added = [row for response in step.responses for row in terms.pop(response, [])]
            copies = [int(self.data.second[row]) for row in added]
            whole.append(
                Step(
                    step.responses + copies,
                    step.judgements + added,
                    step.levels + [row for copy in copies for row in levels.get(copy, [])],
                )
            )
        return whole

    @cached_property
    def _levels(self) -> dict[int, list[int]]:
        """The level rows of each copy; the same in every epoch."""
        rows: dict[int, list[int]] = {}
        for row, response in enumerate(self.data.level_response.tolist()):
            if response >= self.responses:
                rows.setdefault(response, []).append(row)
        return rows


def harden(
    responses: Sequence[Row],
    data: TrainingData,
    *,
    share: float,
    seed: int,
    ordinal: bool,
    sets: int = SETS,
) -> Hardened:
    """Copies for `share` of the trained responses, in as many sets.

    What is drawn for a response depends on seed, response_id and the words of the trained texts.
    """
    rng = {number: random.Random(_hash(seed, responses[number]["response_id"])) for number in data.trained_on}
    order = sorted(data.trained_on, key=lambda number: _hash(seed, "order", responses[number]["response_id"]))
    copies: list[Row] = []
    level: list[int] = []  # of each copy
    terms: list[tuple[int, int, int, int]] = []  # (outcome, first, second, set)
    words = words_of([responses[number]["text"] for number in order])

    def add(number: int, kind: str, text: str, known: int) -> int:
        row = responses[number]
        copies.append({**row, "response_id": f"{row['response_id']}#{kind}", "text": text})
        level.append(known)
        return len(responses) + len(copies) - 1

    for number in order[: round(share * len(order))]:
        clean = responses[number]["text"]
        for of in range(sets):
            text = attacked(clean, rng[number], words)
            copy = add(number, f"attacked-{of}", text, int(data.level[number]))
            terms.append((ALIKE, number, copy, of))

    wanted = max(round(DEGENERATE_SHARE * share * len(order)), MIN_DEGENERATE)
    bad = []
    for number in [number for number in order if responses[number]["text"].strip()][:wanted]:
        text = degenerate(responses[number]["messages"], rng[number])
        if text.strip() != responses[number]["text"].strip():
            bad.append(add(number, "degenerate", text, 0))
            terms.append((WIN, number, bad[-1], EVERY))

    # as much as a response has through its judgements; were every response copied so, they would drown what people said
    weight = max(1.0, float(data.weight.sum()) / len(order)) * min(1.0, MOST / share)
    outcome, first, second, of_set = torch.tensor(terms, dtype=torch.int64).reshape(-1, 4).T
    levels = torch.tensor(bad * max(1, round(weight)) if ordinal else [], dtype=torch.int64)
    added = replace(
        data,
        first=torch.cat([data.first, first]),
        second=torch.cat([data.second, second]),
        outcome=torch.cat([data.outcome, outcome]),
        strength=torch.cat([data.strength, torch.where(outcome == WIN, MAX_STRENGTH, 1)]),
        annotator=torch.cat([data.annotator, torch.full_like(outcome, NOBODY)]),
        first_left=torch.cat([data.first_left, torch.full_like(outcome, -1)]),
        weight=torch.cat([data.weight, torch.full([len(terms)], weight)]),
        level=torch.cat([data.level, torch.tensor(level, dtype=torch.int64)]),
        level_response=torch.cat([data.level_response, levels]),
        level_value=torch.cat([data.level_value, torch.zeros_like(levels)]),
        trained_on=data.trained_on | set(range(len(responses), len(responses) + len(copies))),
    )
    return Hardened(copies, added, len(responses), len(data.first), of_set.tolist())


def alike_terms(response: torch.Tensor, copy: torch.Tensor) -> torch.Tensor:
    """How far each attacked copy is from DROP below its response, in E[s] or r; the response stays put. [P] -> [P]"""
    return F.smooth_l1_loss(copy, response.detach() - DROP, reduction="none", beta=BEND)


def _hash(seed: int, *names: str) -> str:
    return hashlib.sha256(repr((seed, *names)).encode()).hexdigest()
