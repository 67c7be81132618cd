"""The training side of a snapshot as index tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import Refused, RunConfig
from ..objectives.outcomes import BOTH_BAD, TIE, WIN
from ..scale import LEVEL_INDEX, UNKNOWN
from .messages import whole_prompt
from .snapshot import ANONYMOUS, Snapshot
from .split import Split


@dataclass
class TrainingData:
    """Judgements as index tensors, `first` preferred in a WIN; levels that teach on their own.

    first, second, outcome: [P] int64. strength: 1 to 3, or 0 where nobody said it and the thresholds are learned, [P]
    int64. level: level index per response (3 = unknown), [N] int64.
    level_response, level_value: one row per absolute label that is a term of its own, [L] int64.
    annotator: index into `annotators`, [P] int64. first_left: 1 where `first` stood left, 0 where `second` did, -1
    where nobody knows, [P] int64. weight: votes that the row stands for, [P] fp32.
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


def check_labels(snapshot: Snapshot, config: RunConfig) -> None:
    """Refuse what cannot be trained, before a model is loaded. Raises Refused."""
    if config.method == "rgft" and not snapshot.levels:
        raise Refused(
            "method rgft learns from levels, and this snapshot has none; "
            "ask for levels (bad, normal, good) in the project, or train oprm"
        )
    if snapshot.judgements:
        return
    if not snapshot.levels:
        raise Refused("the snapshot has no label; judge some pairs or give levels, and snapshot again")
    if config.levels_taught == "none":
        raise Refused(
            f"this snapshot has levels alone, and {config.method} with level_terms 'none' learns from judgements of "
            "pairs; judge some pairs, set level_terms to 'all', or train bt"
        )


def training_data(snapshot: Snapshot, split: Split, config: RunConfig) -> TrainingData:
    """Judgements and levels of the training side as tensors; what cannot be used is dropped and counted.

    A judgement across the split would show the model a held-out response, so it is dropped ("crosses_split").
    Levels are terms of their own as config.levels_taught says.
    For rgft a response's level is the majority of its people's levels (unknown if they are split evenly), and
    judgements that contradict the levels are dropped, as in the paper ("contradicts_levels"): a preference for
    the lower level, a tie of two different ones, "both bad" about one that is not. With votes "majority" the
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

    unsaid = 0 if config.strength_taught == "thresholds" else 1
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
        strength = int(row["strength"] or unsaid) if config.strength_taught != "none" else 1
        first_left = -1 if row.get("left") is None else int(row["left"] == first_side)
        person = people.setdefault(row["annotator"] or ANONYMOUS, len(people))
        rows.append((a, b, outcome, strength, person, first_left))
        weights.append(row.get("weight") or 1.0)

    paired = {response for row in rows for response in row[:2]}
    own_levels: list[tuple[int, int]] = []
    if config.levels_taught != "none":
        own_levels = [
            (response, value)
            for response, counted in sorted(votes.items())
            if config.levels_taught == "all" or response not in paired
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

    What annotators' disagreement would have taught is lost, so this is for comparison only (config.votes). The
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


def _counted(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items()) or "none was given"


def assert_apart(snapshot: Snapshot, data: TrainingData, measured: Snapshot) -> None:
    """No prompt is trained on and measured, under whatever id, white space aside."""
    trained = [snapshot.responses[number] for number in data.trained_on]
    both = {row["prompt_id"] for row in trained} & {row["prompt_id"] for row in measured.responses}
    assert not both, f"prompt {min(both)} is trained on and measured"
    texts = _prompt_texts(trained) - {""}
    assert not texts & _prompt_texts(measured.responses), "the text of a prompt is trained on and measured"


def _prompt_texts(responses: Iterable[dict[str, Any]]) -> set[str]:
    """The responses' prompts, white space aside; each is looked at once."""
    prompts = {row["prompt_id"]: row for row in responses}
    return {whole_prompt(row["messages"], row["tools"]) for row in prompts.values()}
