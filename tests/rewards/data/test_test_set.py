"""A project's salt gives it one test set for life."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards.config import RunConfig
from workers.rewards.data.messages import whole_prompt
from workers.rewards.data.snapshot import Snapshot
from workers.rewards.data.split import split_again, split_groups, split_watched

from .test_same_prompt import GROUP, TURNS, sides, snapshot_of


def questions(first: int, stop: int) -> list[tuple[str, list[str]]]:
    return [(f"g{number:03}", [f"Question {number}?"]) for number in range(first, stop)]


def salted(salt: str = "salt", **given: object) -> RunConfig:
    return RunConfig(split_salt=salt, **given)  # type: ignore[arg-type]


def test_what_is_imported_later_moves_nobody() -> None:
    """Forty groups come in ten lots: who stands on a side stays there."""
    order = questions(0, 40)
    random.Random(0).shuffle(order)
    known: dict[str, bool] = {}
    for stop in range(16, 41, 4):
        snapshot = snapshot_of(*order[:stop])
        split = split_groups(snapshot, salted())
        now = {row["group"]: split.is_held_out(row) for row in snapshot.responses}
        assert {group: now[group] for group in known} == known
        known = now
    assert any(known.values())


def test_labels_that_come_later_move_nobody() -> None:
    """A group that is joined with an unlabelled one keeps its place when that gets its first label."""
    rows = snapshot_of(("b", ["Hello"]), ("a", ["hello"]), *questions(0, 30))
    for salt in map(str, range(20)):
        before = Snapshot(rows.responses, [r for r in rows.judgements if r["response_a"] != "1a"], [])
        assert (
            sides(rows, split_groups(rows, salted(salt)))["p0"]
            == sides(before, split_groups(before, salted(salt)))["p0"]
        )


def test_an_older_version_is_measured_on_whole_groups_that_it_has_learnt_nothing_of() -> None:
    """b and a begin with the same turn: what is learnt of one is learnt of the other's prompt."""
    rows = snapshot_of(("b", ["Hello"]), ("a", ["hello"]), *questions(0, 12))
    held_out = ["a", "b", "g003", "g007"]
    of = {row["group"]: row["response_id"] for row in rows.responses}
    split, left_out = split_again(rows, "group", held_out, [])
    assert (split.held_out, split.unit, left_out) == (frozenset(held_out), "group", 0)
    assert split.joined == {"a": "a", "b": "a"}
    split, left_out = split_again(rows, "group", held_out, [of["b"], of["g001"]])
    assert (split.held_out, left_out) == ({"g003", "g007"}, 1)
    split, left_out = split_again(rows, "group", held_out, list(of.values()))
    assert (split.held_out, left_out) == (frozenset(), 3)
    prompts = {row["group"]: row["prompt_id"] for row in rows.responses}
    split, left_out = split_again(rows, "prompt", [prompts["g003"], prompts["g007"]], [of["g003"]])
    assert (split.held_out, split.unit, left_out) == ({prompts["g007"]}, "prompt", 1)


def test_the_seed_says_nothing_and_the_salt_all() -> None:
    snapshot = snapshot_of(*questions(0, 40))
    splits = [split_groups(snapshot, salted(seed=seed)) for seed in (0, 1, 2)]
    assert splits[0] == splits[1] == splits[2]
    assert split_groups(snapshot, salted("other")) != splits[0]
    assert split_groups(snapshot, RunConfig(seed=1)) != split_groups(snapshot, RunConfig(seed=2))
    watched = [split_watched(snapshot, splits[0], salted(seed=seed, patience=1)) for seed in (0, 1)]
    assert watched[0] != watched[1]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_is_near_the_asked_one(share: float) -> None:
    snapshot = snapshot_of(*questions(0, 400))
    for salt in map(str, range(5)):
        held = len(split_groups(snapshot, salted(salt, holdout=share)).held_out)
        assert abs(held - 400 * share) <= 4 * (400 * share * (1 - share)) ** 0.5


def test_a_larger_share_holds_out_more_of_the_same() -> None:
    snapshot = snapshot_of(*questions(0, 60))
    small, large = (split_groups(snapshot, salted(holdout=share)).held_out for share in (0.2, 0.4))
    assert small < large


@pytest.mark.parametrize("salt", [str(number) for number in range(12)])
def test_five_groups_leave_something_on_either_side(salt: str) -> None:
    for share in (0.01, 0.9):
        split = split_groups(snapshot_of(*questions(0, 5)), salted(salt, holdout=share))
        assert split.unit == "group"
        assert 1 <= len(split.held_out) <= 4


def test_fewer_than_five_are_not_held_out_and_it_is_said() -> None:
    split = split_groups(snapshot_of(*questions(0, 4)), salted())
    assert (split.unit, split.held_out) == ("none", frozenset())
    assert split.note == "only 4 labelled groups and 4 prompts: too few to hold any out"


@given(st.lists(st.tuples(GROUP, TURNS), min_size=1, max_size=30), st.text(max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_prompt_stands_on_both_sides(prompts: list[tuple[str, list[str]]], salt: str) -> None:
    snapshot = snapshot_of(*prompts)
    split = split_groups(snapshot, salted(salt, holdout=0.4))
    side: dict[str, set[bool]] = {}
    for row in snapshot.responses:
        if key := whole_prompt(row["messages"]):
            side.setdefault(key, set()).add(split.is_held_out(row))
    assert all(len(found) == 1 for found in side.values())
    turned = Snapshot(snapshot.responses[::-1], snapshot.judgements[::-1], [])
    assert split == split_groups(turned, salted(salt, holdout=0.4, seed=7))
