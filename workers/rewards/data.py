"""The snapshot as training sees it: read, checked, split by group, and turned into index arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .config import Refused, RunConfig
from .messages import checked, first_turn, whole_prompt
from .objectives.outcomes import BOTH_BAD, MAX_STRENGTH, TIE, WIN
from .scale import LEVEL_INDEX, UNKNOWN

VERDICTS = ("a", "b", "tie", "both_bad")
ANONYMOUS = "anonymous"
MIN_GROUPS = 5  # below, one held-out group would be most of a fifth, and its accuracy an anecdote

_COLUMNS = {
    "responses": ("response_id", "prompt_id", "group", "messages", "text"),
    "judgements": ("judgement_id", "response_a", "response_b", "verdict", "strength", "annotator"),
    "levels": ("label_id", "response_id", "level", "annotator"),
}
# The tools of a prompt, and the messages of a response with several turns or tool calls (its text is their transcript);
# which response stood left ("a" or "b"), and how many votes a row stands for.  Older snapshots lack them.
_OPTIONAL = {"responses": ("tools", "answer"), "judgements": ("left", "weight")}
_JSON = ("messages", "tools", "answer")
_TYPES = {"strength": pa.int8(), "weight": pa.float64()}


@dataclass(frozen=True)
class Snapshot:
    """Rows of the three tables as plain dicts; `messages`, `tools` and `answer` already parsed."""

    responses: list[dict[str, Any]]
    judgements: list[dict[str, Any]]
    levels: list[dict[str, Any]]

    @property
    def index(self) -> dict[str, int]:
        """Row of each response id."""
        return {row["response_id"]: number for number, row in enumerate(self.responses)}


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


@dataclass
class TrainingData:
    """Judgements as index tensors, `first` preferred in a WIN; levels that teach on their own.

    first, second, outcome, strength: [P] int64.  level: level index per response (3 = unknown), [N] int64.
    level_response, level_value: one row per absolute label that is a term of its own, [L] int64.
    annotator: index into `annotators`, [P] int64.  first_left: 1 where `first` stood left, 0 where `second` did, -1
    where nobody knows, [P] int64.  weight: votes that the row stands for, [P] fp32.
    """

    first: torch.Tensor
    second: torch.Tensor
    outcome: torch.Tensor
    strength: torch.Tensor
    level: torch.Tensor
    level_response: torch.Tensor
    level_value: torch.Tensor
    annotator: torch.Tensor
    annotators: list[str]
    first_left: torch.Tensor
    weight: torch.Tensor
    trained_on: set[int] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)


def write_snapshot(
    folder: Path,
    responses: list[dict[str, Any]],
    judgements: list[dict[str, Any]],
    levels: list[dict[str, Any]] | None = None,
) -> None:
    """The three tables of a snapshot from plain rows, for use without the web application.

    Missing columns become null; `messages` may be a list; absent group means prompt, absent annotator "anonymous".
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in (("responses", responses), ("judgements", judgements), ("levels", levels or [])):
        filled = []
        for number, row in enumerate(rows):
            row = {"annotator": ANONYMOUS, **row}
            if table == "responses":
                row = {"messages": [], **row}
                row |= {k: json.dumps(row[k]) for k in _JSON if not isinstance(row.get(k, ""), str)}
                row.setdefault("group", row["prompt_id"])
            else:
                row.setdefault("judgement_id" if table == "judgements" else "label_id", str(number))
            filled.append({name: row.get(name) for name in _columns(table)})
        schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _columns(table)])
        pq.write_table(pa.Table.from_pylist(filled, schema), folder / f"{table}.parquet")


def read_snapshot(folder: Path) -> Snapshot:
    """Read and check responses, judgements and levels.  Raises Refused naming the file, row and field."""
    responses = _read(folder, "responses")
    judgements = _read(folder, "judgements")
    levels = _read(folder, "levels")
    if not responses:
        raise Refused(f"{folder / 'responses.parquet'} holds no response; import some, then snapshot again")
    known: set[str] = set()
    group_of: dict[str, str] = {}
    for number, row in enumerate(responses):
        where = f"responses.parquet row {number}"
        for name in ("response_id", "prompt_id", "group", "text"):
            if not isinstance(row[name], str):
                raise Refused(f"{where}: {name} must be a string, not {row[name]!r:.60}")
        if row["response_id"] in known:
            raise Refused(f"{where}: response_id {row['response_id']!r} stands twice")
        known.add(row["response_id"])
        if (first := group_of.setdefault(row["prompt_id"], row["group"])) != row["group"]:
            # the split by group would put one prompt on both of its sides
            raise Refused(
                f"{where}: prompt_id {row['prompt_id']!r} stands in the groups {first!r} and {row['group']!r}"
            )
        try:
            row["messages"] = checked(_parsed(row["messages"]))
            row["tools"] = _parsed(row["tools"]) or []
            answer = _parsed(row["answer"])
            row["answer"] = None if answer is None else checked(answer, "answer")
        except ValueError as error:
            raise Refused(f"{where}: {error}") from None
        if not isinstance(row["tools"], list):
            raise Refused(f"{where}: tools must be a JSON list")
    for number, row in enumerate(judgements):
        where = f"judgements.parquet row {number}"
        for name in ("response_a", "response_b"):
            if row[name] not in known:
                raise Refused(f"{where}: {name} {row[name]!r} is not in responses.parquet")
        if row["verdict"] not in VERDICTS:
            raise Refused(f"{where}: verdict {row['verdict']!r} is none of {', '.join(VERDICTS)}")
        if row["strength"] is not None and not 1 <= row["strength"] <= MAX_STRENGTH:
            raise Refused(f"{where}: strength {row['strength']} is outside 1..{MAX_STRENGTH}")
        if row["response_a"] == row["response_b"]:
            raise Refused(f"{where}: response {row['response_a']!r} is compared with itself")
        if row["left"] not in (None, "a", "b"):
            raise Refused(f"{where}: left {row['left']!r} is neither a nor b")
        if row["weight"] is not None and not (row["weight"] > 0 and math.isfinite(row["weight"])):
            raise Refused(f"{where}: weight {row['weight']} must be a positive number")
    for number, row in enumerate(levels):
        where = f"levels.parquet row {number}"
        if row["response_id"] not in known:
            raise Refused(f"{where}: response_id {row['response_id']!r} is not in responses.parquet")
        if row["level"] not in LEVEL_INDEX:
            raise Refused(f"{where}: level {row['level']!r} is none of {', '.join(LEVEL_INDEX)}")
    return Snapshot(responses, judgements, levels)


def check_labels(snapshot: Snapshot, config: RunConfig) -> None:
    """Refuse what cannot be trained, before a model is loaded.  Raises Refused."""
    if config.method == "rgft" and not snapshot.levels:
        raise Refused(
            "method rgft learns from levels, and this snapshot has none; "
            "ask for levels (bad, normal, good) in the project, or train oprm"
        )
    if not snapshot.judgements and config.method != "rgft":
        raise Refused(
            "the snapshot has no judgement; judge some pairs and snapshot again"
            + (", or train rgft, which learns from levels as well" if snapshot.levels else "")
        )


def split_groups(snapshot: Snapshot, config: RunConfig) -> Split:
    """Choose the held-out groups among those that have labels, by hash of seed and name.

    Groups that hold the same prompt are held out together or not at all: first those whose prompts begin with the same
    user turn (METHODS.md section 5; white space, case and forms of letters aside), else, where that leaves fewer than
    five, those with a prompt that is the same but for white space.  So no prompt stands on both sides.  The same names
    and seed give the same split whatever the order of rows, and a group that is added later moves few others.  Fewer
    than five labelled groups are split by prompt; fewer than five prompts not at all.  Raises Refused for a
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

    By the same unit as `split` (by group, or else prompt, where nothing is held out).  Fewer than five such units
    could not spare one: none is watched, and the note says so.
    """
    left: list[frozenset[str]] = []
    for unit, sets, _ in _choices(_units(snapshot)):
        if split.unit in (unit, "none"):
            left = [names for names in sets if not names & split.held_out]
            if len(left) >= MIN_GROUPS:
                watched = _draw(left, f"{config.seed}:watched", config.validation)
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


def training_data(snapshot: Snapshot, split: Split, config: RunConfig) -> TrainingData:
    """Judgements and levels of the training side as tensors; what cannot be used is dropped and counted.

    A judgement across the split would show the model a held-out response, so it is dropped ("crosses_split").
    For rgft a response's level is the majority of its people's levels (unknown if they are split evenly), and
    judgements that contradict the levels are dropped, as in the paper ("contradicts_levels"): a preference for
    the lower level, a tie of two different ones, "both bad" about one that is not.  With votes "majority" the
    judgements of a pair are first made one.
    """
    index = snapshot.index
    held_out = [split.is_held_out(row) for row in snapshot.responses]
    with_levels = config.method == "rgft"
    votes: dict[int, Counter[int]] = {}
    for row in snapshot.levels:
        response = index[row["response_id"]]
        if not held_out[response]:
            votes.setdefault(response, Counter())[LEVEL_INDEX[row["level"]]] += 1
    level = torch.full((len(snapshot.responses),), UNKNOWN, dtype=torch.int64)
    if with_levels:
        for response, counted in votes.items():
            level[response] = _majority(counted)

    dropped: Counter[str] = Counter()
    rows: list[tuple[int, int, int, int, int, int]] = []
    weights: list[float] = []
    people: dict[str, int] = {}
    for row in (
        majority_judgements(snapshot.judgements) if config.votes == "majority" else snapshot.judgements
    ):
        a, b = index[row["response_a"]], index[row["response_b"]]
        if held_out[a] and held_out[b]:
            continue
        if held_out[a] or held_out[b]:
            dropped["crosses_split"] += 1
            continue
        first_side = "a"
        if row["verdict"] == "b":
            a, b, first_side = b, a, "b"
        outcome = {"tie": TIE, "both_bad": BOTH_BAD}.get(row["verdict"], WIN)
        if with_levels and _contradicts(outcome, int(level[a]), int(level[b])):
            dropped["contradicts_levels"] += 1
            continue
        strength = int(row["strength"] or 1) if config.uses_strength else 1
        first_left = -1 if row.get("left") is None else int(row["left"] == first_side)
        person = people.setdefault(row["annotator"] or ANONYMOUS, len(people))
        rows.append((a, b, outcome, strength, person, first_left))
        weights.append(row.get("weight") or 1.0)

    paired = {response for row in rows for response in row[:2]}
    own_levels: list[tuple[int, int]] = []
    if with_levels and config.level_terms != "none":
        own_levels = [
            (response, value)
            for response, counted in sorted(votes.items())
            if config.level_terms == "all" or response not in paired
            for value in counted.elements()
        ]
    if not rows and not own_levels:
        raise Refused(
            f"no label is left to train on ({_counted(dropped)}); judge more pairs, or set holdout to 0"
        )
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 6).T
    levels = torch.tensor(own_levels, dtype=torch.int64).reshape(-1, 2).T
    levelled = {response for response in votes if int(level[response]) != UNKNOWN} if with_levels else set()
    trained_on = paired | {response for response, _ in own_levels}
    assert not any(held_out[response] for response in trained_on | levelled), "a held-out label is trained on"
    return TrainingData(
        first=columns[0],
        second=columns[1],
        outcome=columns[2],
        strength=columns[3],
        level=level,
        level_response=levels[0],
        level_value=levels[1],
        annotator=columns[4],
        annotators=list(people),
        first_left=columns[5],
        weight=torch.tensor(weights),
        trained_on=trained_on,
        dropped=dropped,
    )


def majority_judgements(judgements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a pair, whichever side its responses stood on: the verdict with most weight, a tie if two share it.

    What annotators' disagreement would have taught is lost, so this is for comparison only (config.votes).  The
    strength is the lower median of those who gave that verdict.
    """
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in judgements:
        pairs.setdefault(min(_sides(row), _sides(row)[::-1]), []).append(row)
    made: list[dict[str, Any]] = []
    for (a, b), rows in pairs.items():
        verdicts = [
            row["verdict"]
            if row["response_a"] == a
            else {"a": "b", "b": "a"}.get(row["verdict"], row["verdict"])
            for row in rows
        ]
        votes: dict[str, float] = {}
        for row, verdict in zip(rows, verdicts, strict=True):
            votes[verdict] = votes.get(verdict, 0.0) + (row.get("weight") or 1.0)
        most = [verdict for verdict, count in votes.items() if count == max(votes.values())]
        won = most[0] if len(most) == 1 else "tie"
        strengths = sorted(
            row["strength"] or 1 for row, verdict in zip(rows, verdicts, strict=True) if verdict == won
        )
        made.append(
            {
                "response_a": a,
                "response_b": b,
                "verdict": won,
                "strength": strengths[(len(strengths) - 1) // 2] if strengths else None,
                "annotator": "majority",
            }
        )
    return made


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


def assert_apart(snapshot: Snapshot, data: TrainingData, measured: Snapshot) -> None:
    """No prompt is trained on and measured, under whatever id, white space aside."""
    trained = [snapshot.responses[number] for number in data.trained_on]
    both = {row["prompt_id"] for row in trained} & {row["prompt_id"] for row in measured.responses}
    assert not both, f"prompt {min(both)} is trained on and measured"
    texts = _prompt_texts(trained) - {""}
    assert not texts & _prompt_texts(measured.responses), "the text of a prompt is trained on and measured"


def _labelled(snapshot: Snapshot) -> set[str]:
    """Ids of the responses that somebody compared or levelled."""
    return {
        response for row in snapshot.judgements for response in (row["response_a"], row["response_b"])
    } | {row["response_id"] for row in snapshot.levels}


def _prompt_texts(responses: Iterable[dict[str, Any]]) -> set[str]:
    """The responses' prompts, white space aside; each is looked at once."""
    prompts = {row["prompt_id"]: row for row in responses}
    return {whole_prompt(row["messages"], row["tools"]) for row in prompts.values()}


def _draw(sets: Iterable[frozenset[str]], seed: str, share: float) -> frozenset[str]:
    """The names in `share` of the sets; a set's place is that of its first name, so it stays when another joins."""

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    order = sorted(sets, key=lambda names: min(map(place, names)))
    return frozenset().union(*order[: max(1, round(share * len(order)))])


def _majority(votes: Counter[int]) -> int:
    ranked = votes.most_common()
    return UNKNOWN if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def _contradicts(outcome: int, level_a: int, level_b: int) -> bool:
    if outcome == BOTH_BAD:
        return level_a not in (0, UNKNOWN) or level_b not in (0, UNKNOWN)
    if UNKNOWN in (level_a, level_b):
        return False
    return level_a != level_b if outcome == TIE else level_a < level_b


def _sides(row: dict[str, Any]) -> tuple[str, str]:
    return row["response_a"], row["response_b"]


def _columns(table: str) -> tuple[str, ...]:
    return _COLUMNS[table] + _OPTIONAL.get(table, ())


def _counted(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items()) or "none was given"


def _read(folder: Path, table: str) -> list[dict[str, Any]]:
    path = folder / f"{table}.parquet"
    try:
        names = pq.read_schema(path).names
        missing = [name for name in _COLUMNS[table] if name not in names]
        if missing:
            raise Refused(f"{path} lacks the column {missing[0]!r}; snapshot the project again")
        present = [name for name in _columns(table) if name in names]
        empty = dict.fromkeys(_columns(table))
        return [empty | row for row in pq.read_table(path, columns=present).to_pylist()]
    except FileNotFoundError:
        raise Refused(f"{path} does not exist; snapshot the project again") from None
    except (OSError, pa.ArrowException) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"{path} is damaged ({first_line}); snapshot the project again") from None


def _parsed(value: Any) -> Any:
    """A JSON text's value.  Raises ValueError."""
    return json.loads(value) if isinstance(value, str) else value
