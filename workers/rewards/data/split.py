"""Which groups are held out or watched, and what evaluation may see of a snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import Refused, RunConfig
from .messages import first_turn, whole_prompt
from .snapshot import Snapshot

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


def split_groups(snapshot: Snapshot, config: RunConfig) -> Split:
    """Choose the held-out groups among those that have labels, by hash of seed and name.

    Groups that hold the same prompt are held out together or not at all: first those whose prompts begin with the same
    user turn (white space, case and forms of letters aside), else, where that leaves fewer than
    five, those with a prompt that is the same but for white space. So no prompt stands on both sides. The same names
    and seed give the same split whatever the order of rows, and a group that is added later moves few others. Fewer
    than five labelled groups are split by prompt; fewer than five prompts not at all. Raises Refused for a
    held_out_groups entry that no response has, or if it leaves nothing to train on.
    """
    units = _units(snapshot)
    groups, same, prompts = units
    if config.held_out_groups is not None:
        wanted = frozenset(config.held_out_groups)
        unknown = wanted - {row["group"] for row in snapshot.responses}
        if unknown:
            raise Refused(f"config.json: held_out_groups names {sorted(unknown)[0]!r}, which no response has")
        kept = [unit for unit in same if unit & wanted]
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
            return Split(_draw(sets, str(config.seed), config.holdout), unit, doubt, joined)
    note = (
        f"{_few(same)} and {len(prompts)} prompt{'s' if len(prompts) != 1 else ''}: too few to hold any out"
    )
    return Split(frozenset(), "none", note, _joined(same))


def split_watched(snapshot: Snapshot, split: Split, config: RunConfig) -> Split:
    """The groups to watch for early stopping: drawn from the labelled training groups, never from the held-out ones.

    By the same unit as `split` (by group, or else prompt, where nothing is held out). Fewer than five such units
    could not spare one: none is watched, and the note says so.
    """
    left: list[frozenset[str]] = []
    for unit, sets, _ in _choices(_units(snapshot)):
        if split.unit in (unit, "none"):
            left = [names for names in sets if not names & split.held_out]
            if len(left) >= MIN_GROUPS:
                watched = _draw(left, f"{config.seed}:watched", WATCHED)
                assert watched.isdisjoint(split.held_out), "a held-out group would choose the weights"
                return Split(watched, unit, joined=split.joined)
    named = "group" if split.unit == "group" else "prompt"
    return Split(frozenset(), "none", f"no early stopping: only {len(left)} labelled {named}s to train on")


def _units(snapshot: Snapshot) -> tuple[list[frozenset[str]], list[frozenset[str]], list[frozenset[str]]]:
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

    return (
        [names & groups for names in joined(group_of, whole, first) if names & groups],
        [names & groups for names in joined(group_of, whole) if names & groups],
        [names & with_labels for names in joined(str, whole) if names & with_labels],
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
    units: tuple[list[frozenset[str]], list[frozenset[str]], list[frozenset[str]]],
) -> list[tuple[str, list[frozenset[str]], str | None]]:
    """Ways to split, the best first: the unit, its sets of names, and what speaks against it."""
    groups, same, prompts = units
    alike = "nearly all groups begin with the same turn, so the metrics may flatter"
    flattered = f"{_few(same)}: held out by prompt instead, so the metrics may flatter"
    return [("group", groups, None), ("group", same, alike), ("prompt", prompts, flattered)]


def _few(groups: list[frozenset[str]]) -> str:
    return f"only {len(groups)} labelled group{'s' if len(groups) != 1 else ''}"


def _joined(sets: Iterable[frozenset[str]]) -> dict[str, str]:
    return {name: min(names) for names in sets if len(names) > 1 for name in names}


def held_out_rows(snapshot: Snapshot, split: Split) -> Snapshot:
    """The rows that evaluation may see: responses of held-out groups and labels wholly among them.

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
        [row for row in snapshot.judgements if row["response_a"] in inside and row["response_b"] in inside],
        [row for row in snapshot.levels if row["response_id"] in inside],
    )


def _labelled(snapshot: Snapshot) -> set[str]:
    """Ids of the responses that somebody compared or levelled."""
    return {
        response for row in snapshot.judgements for response in (row["response_a"], row["response_b"])
    } | {row["response_id"] for row in snapshot.levels}


def _draw(sets: Iterable[frozenset[str]], seed: str, share: float) -> frozenset[str]:
    """The names in `share` of the sets; a set's place is that of its first name, so it stays when another joins."""

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    order = sorted(sets, key=lambda names: min(map(place, names)))
    return frozenset().union(*order[: max(1, round(share * len(order)))])
