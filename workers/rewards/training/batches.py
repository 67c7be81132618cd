"""Which responses stand together in a step, so that each is encoded once and used in all its pairs.

A step is a block of the pair graph: a set of responses under a token budget, and every judgement among them that
no earlier step of the epoch has used. Prompt by prompt, since pairs are formed inside prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A connected set of responses up to this many budgets stays one step: to split it would encode many of them again
# (UKPConvArg1: 1.5 times the tokens per epoch), while activations grow with the budget and no further.
WHOLE = 2


@dataclass(frozen=True)
class Step:
    """Rows of one optimiser step: distinct responses, judgement rows and level rows."""

    responses: list[int]
    judgements: list[int]
    levels: list[int]


class Blocks:
    """Covers every judgement and every level row exactly once per epoch.

    `pairs` are judgement rows (first, second) [P]; `level_rows` the response of each level row [L];
    `lengths` tokens per response. A connected set of up to WHOLE budgets makes a step; so does a pair, however long.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        level_rows: Sequence[int],
        lengths: Sequence[int],
        token_budget: int,
    ) -> None:
        self.lengths = lengths
        self.budget = token_budget
        self.by_pair: dict[tuple[int, int], list[int]] = {}
        self.neighbours: dict[int, set[int]] = {}
        for row, (a, b) in enumerate(pairs):
            self.by_pair.setdefault((min(a, b), max(a, b)), []).append(row)
            self.neighbours.setdefault(a, set()).add(b)
            self.neighbours.setdefault(b, set()).add(a)
        self.levels_of: dict[int, list[int]] = {}
        for row, response in enumerate(level_rows):
            self.levels_of.setdefault(response, []).append(row)
        self.components = self._components()

    def epoch(self, seed: int, epoch: int) -> list[Step]:
        """The steps of one epoch, in an order drawn from seed and epoch alone."""
        order = random.Random(f"{seed}:{epoch}")
        components = list(self.components)
        order.shuffle(components)
        steps: list[Step] = []
        waiting: list[int] = []  # whole components that still fit into one step together
        used = 0
        levels_done: set[int] = set()

        def flush() -> None:
            nonlocal used
            if waiting:
                steps.append(self._step(waiting, self._rows_among(waiting), levels_done))
                waiting.clear()
                used = 0

        for component in components:
            size = sum(self.lengths[response] for response in component)
            if size > WHOLE * self.budget and len(component) > 1:
                for block, rows in self._cover(component, order):
                    steps.append(self._step(block, rows, levels_done))
                continue
            if used + size > self.budget:
                flush()
            waiting.extend(component)
            used += size
        flush()
        order.shuffle(steps)
        return steps

    def _step(self, responses: Sequence[int], judgements: list[int], levels_done: set[int]) -> Step:
        levels = [
            row
            for response in responses
            if response not in levels_done
            for row in self.levels_of.get(response, [])
        ]
        levels_done.update(responses)
        return Step(sorted(responses), sorted(judgements), sorted(levels))

    def _rows_among(self, responses: Sequence[int]) -> list[int]:
        inside = set(responses)
        return [
            row
            for a in responses
            for b in self.neighbours.get(a, ())
            if a < b and b in inside
            for row in self.by_pair[a, b]
        ]

    def _cover(self, component: list[int], order: random.Random) -> Iterator[tuple[list[int], list[int]]]:
        """Greedy blocks: start anywhere, keep adding the response with most unused pairs into the block.

        In a dense topic this puts about budget / length responses and all their pairs into a step; the number of
        encodings per epoch falls by that factor against pair-by-pair training.
        """
        left = {response: set(self.neighbours[response]) for response in component}
        drawn = order.sample(component, len(component))
        rank = {response: number for number, response in enumerate(drawn)}
        for start in drawn:
            while left[start]:
                block = [start]
                inside = {start}
                used = self.lengths[start]
                gain = dict.fromkeys(left[start], 1)  # unused pairs between a candidate and the block
                while gain:
                    best = min(gain, key=lambda candidate: (-gain[candidate], rank[candidate]))
                    del gain[best]
                    if used + self.lengths[best] > self.budget and len(block) > 1:
                        continue
                    block.append(best)
                    inside.add(best)
                    used += self.lengths[best]
                    for other in left[best] - inside:
                        gain[other] = gain.get(other, 0) + 1
                rows: list[int] = []
                for a in block:
                    for b in sorted(left[a] & inside):
                        if a < b:
                            rows.extend(self.by_pair[a, b])
                for a in block:
                    left[a] -= inside
                yield block, rows

    def _components(self) -> list[list[int]]:
        seen: set[int] = set()
        components: list[list[int]] = []
        for start in [*self.neighbours, *self.levels_of]:
            if start in seen:
                continue
            seen.add(start)
            component, stack = [], [start]
            while stack:
                response = stack.pop()
                component.append(response)
                for other in sorted(self.neighbours.get(response, ())):
                    if other not in seen:
                        seen.add(other)
                        stack.append(other)
            components.append(sorted(component))
        return components
