"""Which groups are held out or watched, and what evaluation may see of a snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..config import Refused, RunConfig
from .messages import first_turn, whole_prompt
from .snapshot import Snapshot, of_people

MIN_GROUPS = 5  # below, one held-out group would be most of a fifth, and its accuracy an anecdote
WATCHED = 0.1  # share of the training groups that early stopping watches


@dataclass(frozen=True)
class Split:
    """Which groups are kept for measuring; `unit` is "group", "prompt" or "none"; `note` says why not "group".

    `joined` names, for groups that hold the same prompt, the one that stands for all of them.
    """

    held_out: frozenset[str]
    unit: str
    note: str | None = None
    joined: Mapping[str, str] = field(default_factory=dict)

    def is_held_out(self, response: dict[str, Any]) -> bool:
        key = {"group": "group", "prompt": "prompt_id"}.get(self.unit)
        return key is not None and response[key] in self.held_out

    def joined_with(self, watched: Split) -> Split:
        """What either of two splits by the same unit keeps out of training."""
        return Split(self.held_out | watched.held_out, self.unit if self.unit != "none" else watched.unit)


NOTHING = Split(frozenset(), "none")


class Unit(NamedTuple):
    """What may be divided only as a whole: names of groups, or of prompts, that have labels.

    `first` is the smallest name of all that were joined, labelled or not, so that labels don't move a unit.
    """

    names: frozenset[str]
    first: str


@dataclass(frozen=True)
class Folds:
    """The training side dealt to `count` folds, for predictions that have not seen their labels; 0: `note` says why."""

    of: Mapping[str, int]  # by group or prompt
    unit: str
    count: int
    note: str | None = None

    def fold(self, response: Mapping[str, Any]) -> int | None:
        name: str = response["group" if self.unit == "group" else "prompt_id"]
        return self.of.get(name)


def split_groups(snapshot: Snapshot, config: RunConfig) -> Split:
    """Choose the held-out groups among those that have labels, by hash of salt and name.

    Groups that hold the same prompt are held out together or not at all: first those whose prompts begin with the same
    user turn (white space, case and forms of letters aside), else, where that leaves fewer than
    five, those with a prompt that is the same but for white space. So no prompt stands on both sides.

    With split_salt a unit is held out if the hash of its first name lies below the share. That depends on nothing
    else, so a unit stays on its side whatever is imported or labelled later, and whatever the seed: a project has one
    test set. Without a salt exactly the share is drawn by the seed, and a group that is added later moves few others.

    Fewer than five labelled groups are split by prompt; fewer than five prompts not at all. Raises Refused for a
    held_out_groups entry that no response has, or if it leaves nothing to train on.
    """
    units = _units(snapshot)
    groups, same, prompts = units
    if config.held_out_groups is not None:
        wanted = frozenset(config.held_out_groups)
        unknown = wanted - {row["group"] for row in snapshot.responses}
        if unknown:
            raise Refused(f"config.json: held_out_groups names {sorted(unknown)[0]!r}, which no response has")
        kept = [unit.names for unit in same if unit.names & wanted]
        if len(kept) == len(same):
            raise Refused("config.json: held_out_groups leaves no labelled group to train on")
        wanted = wanted.union(*kept)
        return Split(wanted, "group" if wanted else "none", joined=_joined(same))
    if config.holdout == 0:
        note = "nothing is held out, as configured: there are no metrics"
        return Split(frozenset(), "none", note, _joined(same))
    for unit, sets, doubt in _choices(units):
        if len(sets) >= MIN_GROUPS:
            joined = _joined(groups if sets is groups else same)
            if config.split_salt is None:
                held_out = _draw(sets, str(config.seed), config.holdout)
            else:
                held_out = _below(sets, config.split_salt, config.holdout)
            return Split(held_out, unit, doubt, joined)
    note = (
        f"{_few(same)} and {len(prompts)} prompt{'s' if len(prompts) != 1 else ''}: too few to hold any out"
    )
    return Split(frozenset(), "none", note, _joined(same))


def split_again(
    snapshot: Snapshot, unit: str, held_out: Iterable[str], learnt: Collection[str]
) -> tuple[Split, int]:
    """What of a split's held-out units (`unit` "group" or "prompt") a model may be measured on, and how many not.

    `learnt`: ids of responses whose labels the model has seen. A unit that holds one of them is left out as a whole, as
    its other responses answer the same prompts.
    """
    groups, same, prompts = _units(snapshot)
    key, units = ("prompt_id", prompts) if unit == "prompt" else ("group", groups)
    seen = {row[key] for row in snapshot.responses if row["response_id"] in learnt}
    wanted = frozenset(held_out)
    asked = [one.names for one in units if one.names & wanted]
    fair = [names for names in asked if not names & seen]
    joined = _joined(groups if len(groups) >= MIN_GROUPS else same)
    return Split(frozenset().union(*fair) & wanted, unit, joined=joined), len(asked) - len(fair)


def split_watched(snapshot: Snapshot, split: Split, config: RunConfig) -> Split:
    """The groups to watch for early stopping: drawn from the labelled training groups, never from the held-out ones.

    By the same unit as `split` (by group, or else prompt, where nothing is held out). Fewer than five such units
    could not spare one: none is watched, and the note says so.
    """
    left: list[Unit] = []
    for unit, sets, _ in _choices(_units(snapshot)):
        if split.unit in (unit, "none"):
            left = [one for one in sets if not one.names & split.held_out]
            if len(left) >= MIN_GROUPS:
                watched = _draw(left, f"{config.seed}:watched", WATCHED)
                assert watched.isdisjoint(split.held_out), "a held-out group would choose the weights"
                return Split(watched, unit, joined=split.joined)
    named = "group" if split.unit == "group" else "prompt"
    return Split(frozenset(), "none", f"no early stopping: only {len(left)} labelled {named}s to train on")


def deal_folds(snapshot: Snapshot, split: Split, salt: str, count: int) -> Folds:
    """The labelled units that are not held out, dealt to `count` folds in the order of their hashes.

    By the same unit as `split` (by group, or else prompt, where nothing is held out), the first choice that gives five,
    else the one that gives most. Fewer units than `count` make as many folds; a single one none.
    """
    best: tuple[str, list[Unit]] = (split.unit, [])
    for unit, sets, _ in _choices(_units(snapshot)):
        left = [one for one in sets if split.unit in (unit, "none") and not one.names & split.held_out]
        if len(best[1]) < min(len(left), MIN_GROUPS):
            best = (unit, left)
    unit, left = best
    if len(left) < 2:
        return Folds({}, unit, 0, f"no cross-fitting: only {len(left)} labelled {unit} to train on")
    order = sorted(left, key=lambda one: _place(f"{salt}:fold", one.first))
    dealt = {name: number % count for number, one in enumerate(order) for name in one.names}
    return Folds(dealt, unit, min(count, len(left)))


def _units(snapshot: Snapshot) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """What may be divided only as a whole, among what has labels: groups that begin alike, groups that hold the same
    prompt, and prompts that are the same."""
    labelled = _labelled(snapshot)
    prompts: dict[str, dict[str, Any]] = {}  # a row of each prompt
    with_labels: set[str] = set()
    for row in snapshot.responses:
        prompts.setdefault(row["prompt_id"], row)
        if row["response_id"] in labelled:
            with_labels.add(row["prompt_id"])
    whole = {name: whole_prompt(row["messages"], row["tools"]) for name, row in prompts.items()}
    first = {name: first_turn(row["messages"]) for name, row in prompts.items()}
    groups = {prompts[name]["group"] for name in with_labels}

    def joined(name_of: Callable[[str], str], *keys: Mapping[str, str]) -> list[frozenset[str]]:
        """Sets of names (of the prompts' groups, or their own), joined where two prompts share a key."""
        found = _Joined()
        for prompt in prompts:
            found.join(
                ("name", name_of(prompt)),
                *((number, key[prompt]) for number, key in enumerate(keys) if key[prompt]),
            )
        return found.sets()

    def group_of(prompt: str) -> str:
        return str(prompts[prompt]["group"])

    def labelled_among(sets: list[frozenset[str]], known: set[str]) -> list[Unit]:
        return [Unit(names & known, min(names)) for names in sets if names & known]

    return (
        labelled_among(joined(group_of, whole, first), groups),
        labelled_among(joined(group_of, whole), groups),
        labelled_among(joined(str, whole), with_labels),
    )


class _Joined:
    """Sets of things that were joined, directly or through others (union-find)."""

    def __init__(self) -> None:
        self.above: dict[Any, Any] = {}

    def join(self, first: Any, *others: Any) -> None:
        for other in (first, *others):
            self.above[self._top(other)] = self._top(first)

    def _top(self, item: Any) -> Any:
        above = self.above.setdefault(item, item)
        while above != self.above[above]:
            self.above[above] = above = self.above[self.above[above]]
        return above

    def sets(self) -> list[frozenset[str]]:
        """The names among them, by set."""
        members: dict[Any, set[str]] = {}
        for item in list(self.above):
            if item[0] == "name":
                members.setdefault(self._top(item), set()).add(item[1])
        return [frozenset(names) for names in members.values()]


def _choices(
    units: tuple[list[Unit], list[Unit], list[Unit]],
) -> list[tuple[str, list[Unit], str | None]]:
    """Ways to split, the best first: the unit, its sets of names, and what speaks against it."""
    groups, same, prompts = units
    alike = "nearly all groups begin with the same turn, so the metrics may flatter"
    flattered = f"{_few(same)}: held out by prompt instead, so the metrics may flatter"
    return [("group", groups, None), ("group", same, alike), ("prompt", prompts, flattered)]


def _few(groups: list[Unit]) -> str:
    return f"only {len(groups)} labelled group{'s' if len(groups) != 1 else ''}"


def _joined(units: Iterable[Unit]) -> dict[str, str]:
    return {name: min(names) for names, _ in units if len(names) > 1 for name in names}


def held_out_rows(snapshot: Snapshot, split: Split) -> Snapshot:
    """The rows that evaluation may see: responses of held-out groups and people's labels wholly among them.

    Groups that were joined have one name here: they are one cluster of intervals, one fold of the calibration.
    """
    responses = [
        {**row, "group": split.joined.get(row["group"], row["group"])}
        for row in snapshot.responses
        if split.is_held_out(row)
    ]
    inside = {row["response_id"] for row in responses}
    return Snapshot(
        responses,
        [
            row
            for row in of_people(snapshot.judgements)
            if row["response_a"] in inside and row["response_b"] in inside
        ],
        [row for row in snapshot.levels if row["response_id"] in inside],
    )


def _labelled(snapshot: Snapshot) -> set[str]:
    """Ids of the responses that somebody compared or levelled."""
    return {
        response for row in snapshot.judgements for response in (row["response_a"], row["response_b"])
    } | {row["response_id"] for row in snapshot.levels}


def _place(salt: str, name: str) -> float:
    """Where a name stands for good, within 0..1."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:8]) / 2**64


def _below(units: Sequence[Unit], salt: str, share: float) -> frozenset[str]:
    """The names in the units whose place is below the share: at least the lowest one, never the highest."""
    order = sorted(units, key=lambda unit: _place(salt, unit.first))
    below = sum(_place(salt, unit.first) < share for unit in units)
    return _names(order[: min(max(1, below), len(order) - 1)])


def _draw(units: Sequence[Unit], seed: str, share: float) -> frozenset[str]:
    """The names in `share` of the units; a unit's place is that of its first name, so it stays when another joins."""
    order = sorted(units, key=lambda unit: min(_place(seed, name) for name in unit.names))
    return _names(order[: max(1, round(share * len(order)))])


def _names(units: Iterable[Unit]) -> frozenset[str]:
    return frozenset().union(*(unit.names for unit in units))
