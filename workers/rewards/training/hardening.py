"""Training rows against injected text and empty answers, made before the loop: ordinary rows on changed responses.

- An *attacked copy* of a response has text added that says nothing, drawn from a grammar of tens of thousands of
  sentences (hardening.json), since a model that saw a few dozen knows those and no others. It takes its response's
  place in what people judged, verdict and level kept.
- A *degenerate answer* (empty, punctuation, an opener, the prompt again, one word repeated) loses to a real response
  at full strength, and is "bad" for an ordinal model and where people gave levels.

All come from the training side; the rows have no annotator. No text of evaluation/attacks.py is in the grammar.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import ResolvedConfig
from ..data.judgements import TrainingData
from ..data.messages import Message, spoken
from ..evaluation.metrics import Row
from ..objectives.outcomes import MAX_STRENGTH, WIN
from ..text.sections import Encoded
from .batches import Step

MOST = 0.3  # of the judgements' weight: what attacked copies may weigh together
WINNER = 2 / 3  # weight of a row whose winner is the copy: what says nothing should cost a little
SETS = 3  # of attacked copies; epochs take turns, so that there are more wordings for no more work
EVERY = -1  # the set of a copy that all epochs have
DEGENERATE_SHARE = 0.5  # degenerate answers for an attacked copy
MIN_DEGENERATE = 32  # a small project needs each kind a few times; these are short
SALAD_SHARE = 0.1  # of additions: words of the project's own texts, in an order that says nothing

# "{name}" stands for one of that name's alternatives, drawn anew at each place; "{2-99}" for a number from 2 to 99.
GRAMMAR: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_HOLE = re.compile(r"\{(?:(\w+)|(\d+)-(\d+))\}")


@dataclass(frozen=True)
class Copy:
    """A changed response. of: the response's index; set: which epochs have it, EVERY where it is degenerate."""

    of: int
    set: int
    row: Row


def harden(
    responses: Sequence[Row],
    read: Sequence[Encoded],
    data: TrainingData,
    encode: Callable[..., list[Encoded]],
    config: ResolvedConfig,
) -> tuple[list[Copy], list[Encoded], TrainingData]:
    """Copies of a share of the trained responses, how they are read, and the data with their rows behind the people's.

    `read`: the responses as `encode` gives them; a copy's index is len(responses) plus its place. One that reads like
    its response (what was added was cut off, say) stays out.
    """
    made = copies_of(responses, data.trained_on, config)
    both = zip(made, encode([copy.row for copy in made]), strict=True)
    kept = [(copy, row) for copy, row in both if row.ids != read[copy.of].ids]
    # were every response copied at full weight, copies would drown what people said
    limit = min(1.0, MOST / config.hardening)
    usual = max(1.0, float(data.weight.sum()) / len(data.trained_on)) * limit
    knows_bad = config.ordinal or len(data.level_value) > 0
    terms: list[tuple[float, ...]] = []  # first, second, outcome, strength, weight
    levels: list[tuple[int, int]] = []  # copy, level
    attacked_at: defaultdict[int, list[int]] = defaultdict(list)
    for index, (copy, _) in enumerate(kept, start=len(responses)):
        if copy.set == EVERY:
            terms.append((copy.of, index, WIN, MAX_STRENGTH, usual))
            levels += [(index, 0)] * max(1, round(usual)) * knows_bad
        else:
            attacked_at[copy.of].append(index)
    for response, value in zip(data.level_response.tolist(), data.level_value.tolist(), strict=True):
        levels += [(copy, value) for copy in attacked_at[response]]
    judged = (data.first, data.second, data.outcome, data.strength, data.weight)
    for a, b, *verdict, weight in zip(*(column.tolist() for column in judged), strict=True):
        weight *= limit / 2  # each of a judgement's two sides may be copied
        lower = weight * (WINNER if verdict[0] == WIN else 1)
        terms += [(copy, b, *verdict, lower) for copy in attacked_at[a]]
        terms += [(a, copy, *verdict, weight) for copy in attacked_at[b]]

    level = [0 if copy.set == EVERY else int(data.level[copy.of]) for copy, _ in kept]
    columns = torch.tensor(terms, dtype=torch.float64).reshape(-1, 5).T
    first, second, outcome, strength = columns[:4].long()
    nobody = torch.full_like(first, -1)
    level_response, level_value = torch.tensor(levels, dtype=torch.int64).reshape(-1, 2).T
    added = replace(
        data,
        first=torch.cat([data.first, first]),
        second=torch.cat([data.second, second]),
        outcome=torch.cat([data.outcome, outcome]),
        strength=torch.cat([data.strength, strength]),
        weight=torch.cat([data.weight, columns[4].float()]),
        annotator=torch.cat([data.annotator, nobody]),
        first_left=torch.cat([data.first_left, nobody]),
        level=torch.cat([data.level, torch.tensor(level, dtype=torch.int64)]),
        level_response=torch.cat([data.level_response, level_response]),
        level_value=torch.cat([data.level_value, level_value]),
        trained_on=data.trained_on | set(range(len(responses), len(responses) + len(kept))),
    )
    return [copy for copy, _ in kept], [row for _, row in kept], added


def joined(steps: Sequence[Step], copies: Sequence[Copy], data: TrainingData, turn: int) -> list[Step]:
    """The steps of one epoch, each response's copies of this turn's set in the first that holds it."""
    count = len(data.level) - len(copies)  # of responses
    waiting, rows, levels = defaultdict(list), defaultdict(list), defaultdict(list)
    for index, copy in enumerate(copies, start=count):
        if copy.set in (EVERY, turn):
            waiting[copy.of].append(index)
    sides = list(zip(data.first.tolist(), data.second.tolist(), strict=True))
    for row, pair in enumerate(sides):
        rows[max(pair)].append(row)  # a row has one copy at most
    for row, response in enumerate(data.level_response.tolist()):
        levels[response].append(row)
    whole = []
    for step in steps:
        here = [copy for response in step.responses for copy in waiting.pop(response, ())]
        inside = {*step.responses, *here}
        added = [row for copy in here for row in rows[copy] if inside.issuperset(sides[row])]
        known = [row for copy in here for row in levels[copy]]
        whole.append(Step(step.responses + here, step.judgements + added, step.levels + known))
    return whole


def copies_of(responses: Sequence[Row], trained_on: set[int], config: ResolvedConfig) -> list[Copy]:
    """What is drawn for a response depends on seed, response_id and the words of the trained texts."""

    def draws(*names: str) -> str:
        return hashlib.sha256(repr((config.seed, *names)).encode()).hexdigest()

    order = sorted(trained_on, key=lambda number: draws("order", responses[number]["response_id"]))
    rng = {number: random.Random(draws(responses[number]["response_id"])) for number in order}
    words = sorted({word for number in order for word in re.findall(r"\w+", responses[number]["text"])})
    made = []
    for number in order[: round(config.hardening * len(order))]:
        row = responses[number]
        for of in range(min(config.epochs, SETS)):
            made.append(Copy(number, of, {**row, "text": attacked(row["text"], rng[number], words)}))
    wanted = max(round(DEGENERATE_SHARE * config.hardening * len(order)), MIN_DEGENERATE)
    for number in [number for number in order if responses[number]["text"].strip()][:wanted]:
        row = responses[number]
        text = degenerate(row["messages"], rng[number])
        if text.strip() != row["text"].strip():
            made.append(Copy(number, EVERY, {**row, "text": text}))
    return made


def drawn(name: str, draw: random.Random) -> str:
    """One of the texts that the grammar has for a name."""

    def fill(hole: re.Match[str]) -> str:
        inner, low, high = hole.groups()
        return str(draw.randint(int(low), int(high))) if low else drawn(inner, draw)

    return _HOLE.sub(fill, draw.choice(GRAMMAR[name]))


def attacked(text: str, draw: random.Random, words: Sequence[str] = ()) -> str:
    """The text with an addition (`words`: the project's own) at its end, its start or between two sentences."""
    if words and draw.random() < SALAD_SHARE:
        added = " ".join(draw.choice(words) for _ in range(draw.randint(2, 12)))
    else:
        added = drawn("addition", draw)
    case = draw.random()
    if case < 0.2:
        added = added.upper() if case < 0.1 else added.lower()
    elif case < 0.6:
        added = added[:1].upper() + added[1:]
    gap = draw.choice([" ", "\n", "\n\n"])
    place = draw.random()
    if place < 0.25:
        return f"{added}{gap}{text}"
    breaks = [match.end() for match in re.finditer(r"[.!?]\s", text)]
    at = draw.choice(breaks) if place < 0.35 and breaks else None
    return f"{text}{gap}{added}" if at is None else f"{text[:at]}{added}{gap}{text[at:]}"


def degenerate(messages: Sequence[Message], draw: random.Random) -> str:
    """An answer that says nothing to these messages."""
    asked = spoken(messages[-1]).strip() if messages else ""
    said = [
        "",
        "".join(draw.choice(".,!?-; ") for _ in range(draw.randint(1, 16))),
        drawn("opener", draw),
        drawn("constant", draw),
        " ".join([drawn("word", draw)] * draw.randint(5, 60)),
    ]
    if asked:
        said.append(draw.choice([asked, asked, f"{asked} {asked}", re.split(r"(?<=[.!?])\s", asked)[0]]))
    return draw.choice(said)
