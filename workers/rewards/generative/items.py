"""What is judged together: the responses of one prompt, one to four at a time, with what people said of them.

arXiv 2504.02495 judges n responses of a query in one text. Items to learn from are chosen by their labels, items to
score by what has to be scored: every response once a sample.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import RunConfig
from ..data.judgements import majority_judgements
from ..data.snapshot import Snapshot, of_people
from ..data.split import Split
from ..scale import LEVEL_INDEX, LEVELS
from .judge import BOTH_BAD, PREFERRED_A, PREFERRED_B, TIE, Target, level_shares

MOST = 4  # responses in one text

Row = dict[str, Any]
Pair = tuple[str, str]  # of response ids, the smaller one first


@dataclass(frozen=True)
class Item:
    """Responses of one prompt in the order shown. split: train, held_out or unlabelled."""

    prompt_id: str
    group: str
    rows: tuple[Row, ...]
    target: Target | None
    split: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The response ids in the order shown."""
        return tuple(row["response_id"] for row in self.rows)

    def shown(self, order: Sequence[int]) -> Item:
        """The same in another order: `order[place]` is the response that stands there."""
        target = self.target and self.target.shown(order)
        return replace(self, rows=tuple(self.rows[response] for response in order), target=target)

    def drawn(self, seed: int, sample: int) -> Item:
        """The same in the order of this sample: drawn anew for each, but that every second one turns the last around.

        So each order is as likely as any other, and of k samples half show a before b.
        """
        order = list(range(len(self.rows)))
        random.Random(seed_of(seed, "order", self.prompt_id, *sorted(self.ids), sample // 2)).shuffle(order)
        return self.shown(order[::-1] if sample % 2 else order)


def seed_of(*parts: object) -> int:
    """A seed that depends on these alone, within 0..2^31 - 1."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1


# --- What people said ---


class _Labels:
    """Votes of a snapshot by pair, by response and by prompt; `peoples`: what machine annotators said is no vote."""

    def __init__(self, snapshot: Snapshot, config: RunConfig, *, peoples: bool = False) -> None:
        self.rows = {row["response_id"]: row for row in snapshot.responses}
        self.left_out: Counter[str] = Counter()
        self.pairs: dict[Pair, list[float]] = {}
        self.pairs_of: dict[str, list[Pair]] = {}
        self.levels: dict[str, list[float]] = {}
        self.labelled: set[str] = set()
        for row in snapshot.judgements:
            self.labelled.update((row["response_a"], row["response_b"]))
        judgements = list(of_people(snapshot.judgements)) if peoples else snapshot.judgements
        for row in majority_judgements(judgements) if config.votes == "majority" else judgements:
            a, b = row["response_a"], row["response_b"]
            if self.rows[a]["prompt_id"] != self.rows[b]["prompt_id"]:
                self.left_out["cross_prompt"] += 1
                continue
            verdict = {"a": PREFERRED_A, "b": PREFERRED_B, "tie": TIE, "both_bad": BOTH_BAD}[row["verdict"]]
            if a > b:
                a, b = b, a
                verdict = {PREFERRED_A: PREFERRED_B, PREFERRED_B: PREFERRED_A}.get(verdict, verdict)
            if (a, b) not in self.pairs:
                self.pairs[a, b] = [0.0] * 4
                self.pairs_of.setdefault(self.rows[a]["prompt_id"], []).append((a, b))
            self.pairs[a, b][verdict] += row.get("weight") or 1.0
        for row in snapshot.levels:
            self.labelled.add(row["response_id"])
            votes = self.levels.setdefault(row["response_id"], [0.0] * len(LEVELS))
            votes[LEVEL_INDEX[row["level"]]] += 1.0

    def pair(self, a: str, b: str) -> Target | None:
        votes = self.pairs.get((a, b) if a < b else (b, a))
        if votes is None:
            return None
        if a > b:
            votes = [votes[PREFERRED_B], votes[PREFERRED_A], *votes[TIE:]]
        return Target("pair", tuple(vote / sum(votes) for vote in votes))

    def best(self, ids: Sequence[str]) -> Target | None:
        """The response that by the votes beats each of the others; there is at most one."""
        for name in ids:
            if all(self._beats(name, other) for other in ids if other != name):
                return Target("best", tuple(float(other == name) for other in ids))
        return None

    def _beats(self, name: str, other: str) -> bool:
        votes = self.pairs.get((name, other) if name < other else (other, name), (0.0, 0.0))
        return votes[name > other] > votes[name < other]

    def target(self, ids: Sequence[str]) -> Target | None:
        """What people said of these responses, shown in this order."""
        if len(ids) == 1:
            return Target("level", level_shares(self.levels[ids[0]])) if ids[0] in self.levels else None
        return self.pair(ids[0], ids[1]) if len(ids) == 2 else self.best(ids)

    def item(self, ids: Sequence[str], split: str) -> Item:
        rows = tuple(self.rows[name] for name in ids)
        return Item(rows[0]["prompt_id"], rows[0]["group"], rows, self.target(ids), split)


# --- To learn from ---


def training_items(snapshot: Snapshot, split: Split, config: RunConfig) -> tuple[list[Item], Counter[str]]:
    """The items of the training side, and how many judgements and items were left out, by cause.

    Judged pairs (n = 2, all annotators' votes together), levelled responses (n = 1), and prompts of three or four
    responses of which one beats all others (n = 3, 4). Left out: judgements across prompts ("cross_prompt"), since one
    text judges responses of one prompt; items about which people are so divided that no scores would be right by most
    of them ("undecided").
    """
    labels = _Labels(snapshot, config)
    held_out = {name for name, row in labels.rows.items() if split.is_held_out(row)}
    wanted: list[tuple[str, ...]] = [pair for pair in labels.pairs if pair[0] not in held_out]
    wanted += [(name,) for name in labels.levels if name not in held_out]
    for ids in _by_prompt(snapshot.responses).values():
        if 3 <= len(ids) <= MOST and ids[0] not in held_out and labels.best(ids) is not None:
            wanted.append(tuple(ids))
    items = [labels.item(ids, "train") for ids in wanted]
    decided = [item for item in items if item.target is not None and item.target.decided]
    if len(decided) < len(items):
        labels.left_out["undecided"] = len(items) - len(decided)
    assert not any(name in held_out for item in decided for name in item.ids), (
        "a held-out label is trained on"
    )
    return decided, labels.left_out


# --- To score ---


def scoring_items(snapshot: Snapshot, split: Split, config: RunConfig) -> list[list[Item]]:
    """For each of config.samples samples the items, in the order shown, that together hold every response once.

    A prompt of up to four responses is one item. A larger one is dealt anew for each sample into groups of up to four;
    judged pairs stand together where possible, first those that did so least. A judge learnt no label, so all that is
    labelled is held out for it.
    """
    labels = _Labels(snapshot, config, peoples=True)
    by_prompt = _by_prompt(snapshot.responses)
    sides = {prompt: _side(ids, labels, split, config) for prompt, ids in by_prompt.items()}
    whole = {prompt: labels.item(ids, sides[prompt]) for prompt, ids in by_prompt.items() if len(ids) <= MOST}
    met: Counter[Pair] = Counter()
    samples: list[list[Item]] = []
    for sample in range(config.samples):
        items: list[Item] = []
        for prompt, ids in by_prompt.items():
            if prompt in whole:
                items.append(whole[prompt].drawn(config.seed, sample))
                continue
            draw = random.Random(seed_of(config.seed, "deal", prompt, sample))
            for names in _dealt(ids, labels.pairs_of.get(prompt, []), met, draw):
                items.append(labels.item(names, sides[prompt]))
        samples.append(items)
    return samples


def _side(ids: Iterable[str], labels: _Labels, split: Split, config: RunConfig) -> str:
    ids = list(ids)
    if labels.labelled.isdisjoint(ids):
        return "unlabelled"
    held_out = config.method == "judge" or split.is_held_out(labels.rows[ids[0]])
    return "held_out" if held_out else "train"


def _dealt(
    ids: Sequence[str], pairs: Sequence[Pair], met: Counter[Pair], draw: random.Random
) -> list[list[str]]:
    """Groups of up to four responses, in a drawn order; counts in `met` the judged pairs that stand together."""
    group = {name: [name] for name in ids}
    for a, b in sorted(pairs, key=lambda pair: (met[pair], draw.random())):
        one, other = group[a], group[b]
        if one is not other and len(one) + len(other) <= MOST:
            one += other
            group |= dict.fromkeys(other, one)
    parts = list({id(members): members for members in group.values()}.values())
    draw.shuffle(parts)
    parts.sort(key=len, reverse=True)
    with_room: dict[int, list[list[str]]] = {room: [] for room in range(MOST + 1)}
    dealt: list[list[str]] = []
    for part in parts:  # the largest first, into the group that it fills best
        room = next((room for room in range(len(part), MOST + 1) if with_room[room]), None)
        if room is None:
            home: list[str] = []
            dealt.append(home)
            room = MOST
        else:
            home = with_room[room].pop()
        home += part
        with_room[room - len(part)].append(home)
    together = {name: number for number, names in enumerate(dealt) for name in names}
    met.update(pair for pair in pairs if together[pair[0]] == together[pair[1]])
    for names in dealt:
        draw.shuffle(names)
    return dealt


def _by_prompt(responses: Iterable[Row]) -> dict[str, list[str]]:
    """Response ids by prompt, in the snapshot's order."""
    ids: dict[str, list[str]] = {}
    for row in responses:
        ids.setdefault(row["prompt_id"], []).append(row["response_id"])
    return ids
