"""No prompt stands on both sides of a split, whatever ids and groups a file gave it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.messages import whole_prompt
from workers.rewards.data.snapshot import Snapshot
from workers.rewards.data.split import Split, held_out_rows, split_groups, split_watched
from workers.rewards.training.loop import train


def snapshot_of(*prompts: tuple[str, list[str]]) -> Snapshot:
    """A pair for each prompt: its group (its own where empty), and its turns from the user's first on."""
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for number, (group, turns) in enumerate(prompts):
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)
        ]
        for side in "ab":
            responses.append(
                {
                    "response_id": f"{number}{side}",
                    "prompt_id": f"p{number}",
                    "group": group or f"p{number}",
                    "messages": messages,
                    "tools": [],
                    "text": side,
                }
            )
        judgements.append({"response_a": f"{number}a", "response_b": f"{number}b", "verdict": "a"})
    return Snapshot(responses, judgements, [])


OTHERS = [(f"g{number}", [f"Question {number}?"]) for number in range(10)]


def sides(snapshot: Snapshot, split: Split) -> dict[str, bool]:
    return {row["prompt_id"]: split.is_held_out(row) for row in snapshot.responses}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "other",
    [
        "Name a colour. ",
        " Name a\tcolour.",
        "Name a colour.\n",
        "Name\u00a0a colour.",
        "\ufeffName a  colour.\u2028",
    ],
)
def test_white_space_makes_no_other_prompt(other: str, seed: int) -> None:
    snapshot = snapshot_of(("x", ["Name a colour."]), ("y", [other]), *OTHERS)
    split = split_groups(snapshot, RunConfig(seed=seed, holdout=0.5))
    assert split.unit == "group"
    assert sides(snapshot, split)["p0"] == sides(snapshot, split)["p1"]
    assert {split.joined["x"], split.joined["y"]} == {"x"}
    assert set(split.joined) == {"x", "y"}


def test_depths_of_one_dialogue_and_whoever_shares_a_group_with_them_stay_together() -> None:
    snapshot = snapshot_of(
        ("", ["Hello there"]),
        ("", ["hello  THERE", "Hi.", "How are you?"]),
        ("z", ["Hello there", "Hi.", "Who are you?"]),
        ("z", ["Something else"]),
        ("", ["something ELSE", "Yes?", "Well"]),
        *OTHERS,
    )
    for seed in range(8):
        split = split_groups(snapshot, RunConfig(seed=seed, holdout=0.5))
        assert len({sides(snapshot, split)[f"p{number}"] for number in range(5)}) == 1
    assert len(set(split.joined.values())) == 1


def test_groups_that_all_begin_alike_are_still_groups() -> None:
    """The same first turn everywhere ("Continue.") would leave nothing to hold out."""
    turns = [(f"g{number // 2}", ["Go on.", f"Part {number}", "And?"]) for number in range(20)]
    turns.append(("new", ["Go on. ", "Part 0", "And?"]))
    snapshot = snapshot_of(*turns)
    split = split_groups(snapshot, RunConfig())
    assert split.unit == "group"
    assert split.note == "nearly all groups begin with the same turn, so the metrics may flatter"
    held = sides(snapshot, split)
    assert held["p0"] == held["p1"] == held["p20"]
    assert 0 < sum(held.values()) < len(held)


def test_prompts_of_few_groups_are_joined_as_well() -> None:
    """Two groups, split by prompt: the same prompt under two ids is held out twice or not at all."""
    texts = [f"Question {number}{' ' * copy}" for number in range(6) for copy in (0, 1)]
    snapshot = snapshot_of(*[(f"g{number % 2}", [text]) for number, text in enumerate(texts)])
    for seed in range(8):
        split = split_groups(snapshot, RunConfig(seed=seed, holdout=0.5))
        assert split.unit == "prompt"
        held = sides(snapshot, split)
        assert all(held[f"p{number}"] == held[f"p{number + 1}"] for number in range(0, 12, 2))
        assert sum(held.values()) == 6


def test_named_groups_take_their_twins_along() -> None:
    snapshot = snapshot_of(("x", ["Name a colour."]), ("y", ["Name a colour. "]), *OTHERS)
    split = split_groups(snapshot, RunConfig(held_out_groups=("y", "g1")))
    assert split.held_out == {"x", "y", "g1"}
    alike = snapshot_of(("x", ["Name a colour."]), ("y", ["Name a colour. "]))
    with pytest.raises(Refused, match="leaves no labelled group"):
        split_groups(alike, RunConfig(held_out_groups=("y",)))


def test_prompts_that_say_nothing_are_not_the_same() -> None:
    snapshot = snapshot_of(*[(f"g{number}", []) for number in range(10)])
    split = split_groups(snapshot, RunConfig(holdout=0.5))
    assert (split.unit, len(split.held_out), split.joined) == ("group", 5, {})


def test_joined_groups_are_one_cluster_of_what_is_measured() -> None:
    snapshot = snapshot_of(("x", ["Name a colour."]), ("y", ["Name a colour. "]), *OTHERS)
    split = split_groups(snapshot, RunConfig(held_out_groups=("x",)))
    assert {row["group"] for row in held_out_rows(snapshot, split).responses} == {"x"}
    assert {row["group"] for row in snapshot.responses} >= {"x", "y"}  # the snapshot's rows stay as they are


GROUP = st.sampled_from(["", "", "a", "b", "c", "d", "e", "f", "g"])
TURNS = st.lists(
    st.sampled_from(["Hi", "hi ", " H i", "Go", "Go\n", "Why?", "Who", "Where", "X", "Y"]), max_size=3
)


@given(st.lists(st.tuples(GROUP, TURNS), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_no_prompt_stands_on_both_sides(prompts: list[tuple[str, list[str]]], seed: int) -> None:
    snapshot = snapshot_of(*prompts)
    config = RunConfig(seed=seed, holdout=0.4, patience=1)
    split = split_groups(snapshot, config)
    watched = split_watched(snapshot, split, config)
    assert watched.held_out.isdisjoint(split.held_out) or watched.unit != split.unit
    side: dict[str, set[str]] = {}
    for row in snapshot.responses:
        if key := whole_prompt(row["messages"]):
            where = (
                "measured" if split.is_held_out(row) else "watched" if watched.is_held_out(row) else "trained"
            )
            side.setdefault(key, set()).add(where)
    assert all(len(found) == 1 for found in side.values())
    assert split == split_groups(Snapshot(snapshot.responses[::-1], snapshot.judgements[::-1], []), config)


def test_a_run_says_on_which_side_the_twins_are(
    make_run: Callable[..., Path], tiny_encoder: Path, rows: Any
) -> None:
    """Every second prompt asks what the one before asks, with a space more."""
    responses = [
        {**row, "messages": [{"role": "user", "content": f"plant {number // 2}" + " " * (number % 2)}]}
        for row in rows[0]
        for number in [int(row["prompt_id"][1:])]
    ]
    metrics = train(make_run(tiny_encoder, "bt", responses=responses, epochs=1))
    held = set(metrics["split"]["held_out"])
    assert len(held) == 2
    first, second = sorted(int(name[1:]) for name in held)
    assert (first % 2, second) == (0, first + 1)
    assert metrics["held_out"]["pairs"]["groups"] == 1
