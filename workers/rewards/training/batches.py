"""Which responses stand together in a step, so that each is encoded once and used in all its pairs.

Blocks, where weights of the base model learn: a step is a part of the pair graph, a set of responses under a token
budget, and every judgement among them that no earlier step of the epoch has used. Prompt by prompt, since pairs are
formed inside prompts. Draws, where embeddings are at hand: a step is a random share of all judgements and levels.

Steps differ in how many judgements they hold. The loop divides all of an epoch by one number (step.py), so that each
judgement weighs the same.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

# A connected set of responses up to this many budgets stays one step: to split it would encode many of them again
# (UKPConvArg1: 1.5 times the tokens per epoch), while activations grow with the budget and no further.
WHOLE = 2
PER_STEP = 2048  # judgements and levels of a drawn step
AT_LEAST = 4  # drawn steps an epoch, so that a small project is not one step


@dataclass(frozen=True)
class Step:
    """Rows of one optimiser step: distinct responses, judgement rows and level rows."""

    responses: list[int]
    judgements: list[int]
    levels: list[int]


class Blocks:
    """Covers every judgement and every level row exactly once per epoch.

    `pairs` are judgement rows (first, second) [P]; `level_rows` the response of each level row [L];
    `lengths` tokens per response. A connected set of up to WHOLE budgets stays in one step; so does a pair, however
    long. Small sets, and what is left over of large ones, are joined up to the budget.
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
        waiting: set[int] = set()  # responses of the blocks that still fit into one step together
        rows: list[int] = []
        used = 0
        levels_done: set[int] = set()
        for block, block_rows in self._blocks(components, order):
            size = sum(self.lengths[response] for response in block if response not in waiting)
            if waiting and used + size > self.budget:
                steps.append(self._step(waiting, rows, levels_done))
                waiting, rows, used = set(), [], 0
                size = sum(self.lengths[response] for response in block)
            waiting.update(block)
            rows += block_rows
            used += size
        if waiting:
            steps.append(self._step(waiting, rows, levels_done))
        order.shuffle(steps)
        return steps

    def _blocks(
        self, components: Sequence[list[int]], order: random.Random
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Responses and judgement rows that stay together: a component, or a part of one that is too large."""
        for component in components:
            size = sum(self.lengths[response] for response in component)
            if size > WHOLE * self.budget and len(component) > 1:
                yield from self._cover(component, order)
            else:
                yield component, self._rows_among(component)

    def _step(self, responses: set[int], judgements: list[int], levels_done: set[int]) -> Step:
        levels = [row for response in responses - levels_done for row in self.levels_of.get(response, [])]
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
        shortest = min(self.lengths[response] for response in component)
        for start in drawn:
            while left[start]:
                block, newest = [start], start
                inside = {start}
                used = self.lengths[start]
                passed: set[int] = set()  # too long for what is left of the budget
                gain: dict[int, int] = {}  # unused pairs between a candidate and the block
                heap: list[tuple[int, int, int]] = []  # (-gain, rank, candidate), old gains too
                while len(block) == 1 or used + shortest <= self.budget:
                    for other in left[newest] - inside - passed:
                        gain[other] = gain.get(other, 0) + 1
                        heapq.heappush(heap, (-gain[other], rank[other], other))
                    while heap:
                        more, _, best = heapq.heappop(heap)
                        if best in inside or best in passed or -more != gain[best]:
                            continue
                        if used + self.lengths[best] <= self.budget or len(block) == 1:
                            break
                        passed.add(best)
                    else:
                        break  # no candidate is left
                    newest = best
                    block.append(best)
                    inside.add(best)
                    used += self.lengths[best]
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


class Draws:
    """Covers every judgement and every level row exactly once per epoch, equally many of them in each step.

    `first` and `second` are the sides of each judgement [P], `level_rows` the response of each level row [L].
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor, level_rows: torch.Tensor) -> None:
        self.first, self.second, self.level_rows = first, second, level_rows
        terms = len(first) + len(level_rows)
        self.count = max(1, min(terms, max(AT_LEAST, math.ceil(terms / PER_STEP))))

    def epoch(self, seed: int, epoch: int) -> list[Step]:
        """The steps of one epoch, drawn from seed and epoch alone."""
        judgements = len(self.first)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(judgements + len(self.level_rows), generator=draw)
        steps = []
        for rows in order.tensor_split(self.count):
            judged, levels = rows[rows < judgements], rows[rows >= judgements] - judgements
            responses = torch.cat([self.first[judged], self.second[judged], self.level_rows[levels]]).unique()
            steps.append(Step(responses.tolist(), judged.tolist(), levels.tolist()))
        return steps


def parts(
    step: Step,
    first: torch.Tensor,
    second: torch.Tensor,
    level_rows: torch.Tensor,
    cost: Callable[[Sequence[int]], int],
    most: int,
) -> list[Step]:
    """A step's connected sets of responses in parts of at most `most` tokens by `cost` (a larger set stays whole).

    The loss is a sum over judgements and levels, so the parts' gradients add up to the step's, while only one part's
    activations are held at a time.
    """
    if cost(step.responses) <= most:
        return [step]
    root = {response: response for response in step.responses}

    def top(response: int) -> int:
        while root[response] != response:
            root[response] = response = root[root[response]]
        return response

    for row in step.judgements:
        a, b = sorted((top(int(first[row])), top(int(second[row]))))
        root[b] = a
    sets: dict[int, list[int]] = {}
    for response in step.responses:
        sets.setdefault(top(response), []).append(response)
    joined: list[list[int]] = []
    for members in sets.values():
        if joined and cost(joined[-1] + members) <= most:
            joined[-1] += members
        else:
            joined.append(list(members))
    if len(joined) == 1:
        return [step]
    place = {response: number for number, members in enumerate(joined) for response in members}
    found = [Step(sorted(members), [], []) for members in joined]
    for row in step.judgements:
        found[place[int(first[row])]].judgements.append(row)
    for row in step.levels:
        found[place[int(level_rows[row])]].levels.append(row)
    return found
