"""What is judged together: who stands in an item, with which target, and in which order."""

import time
from collections import Counter
from typing import Any

from workers.rewards.config import RunConfig
from workers.rewards.data.snapshot import Snapshot
from workers.rewards.data.split import NOTHING, Split
from workers.rewards.generative.items import MOST, scoring_items, training_items

GRM = RunConfig(method="grm", samples=8)


def responses(**prompts: int) -> list[dict[str, Any]]:
    return [
        {
            "response_id": f"{prompt}{number}",
            "prompt_id": prompt,
            "group": prompt,
            "messages": [],
            "tools": [],
            "text": f"answer {number}",
        }
        for prompt, count in prompts.items()
        for number in range(count)
    ]


def judged(a: str, b: str, verdict: str = "a", **others: Any) -> dict[str, Any]:
    return {
        "response_a": a,
        "response_b": b,
        "verdict": verdict,
        "strength": None,
        "annotator": None,
        **others,
    }


def level(response: str, name: str) -> dict[str, Any]:
    return {"response_id": response, "level": name, "annotator": None}


def test_all_votes_on_a_pair_are_one_item_whichever_side_its_responses_stood_on() -> None:
    snapshot = Snapshot(
        responses(p=2),
        [
            judged("p1", "p0", "a"),
            judged("p0", "p1", "b"),
            judged("p0", "p1", "a"),
            judged("p0", "p1", "tie", weight=5.0),
        ],
        [],
    )
    items, left_out = training_items(snapshot, NOTHING, GRM)
    assert [(item.ids, item.target.kind, item.target.shares) for item in items] == [
        (("p0", "p1"), "pair", (0.125, 0.25, 0.625, 0))
    ]
    assert not left_out


def test_levels_are_items_of_one_and_a_response_that_beats_all_others_makes_an_item_of_all() -> None:
    snapshot = Snapshot(
        responses(p=3, q=3, r=5),
        [
            judged("p2", "p0"),
            judged("p1", "p2", "b"),
            judged("q0", "q1"),  # q0 has not met q2
            *(judged("r0", f"r{other}") for other in range(1, 5)),  # five are more than stand in one text
        ],
        [level("p0", "bad"), level("p0", "normal"), level("p0", "bad")],
    )
    items, _ = training_items(snapshot, NOTHING, GRM)
    by_size = {size: [item for item in items if len(item.rows) == size] for size in range(1, 5)}
    assert [(item.ids, item.target.kind, item.target.shares) for item in by_size[1]] == [
        (("p0",), "level", (2 / 3, 1 / 3, 0))
    ]
    assert [(item.ids, item.target.shares) for item in by_size[3]] == [(("p0", "p1", "p2"), (0, 0, 1))]
    assert (len(by_size[2]), len(by_size[4])) == (7, 0)


def test_held_out_groups_pairs_of_two_prompts_and_even_votes_teach_nothing() -> None:
    snapshot = Snapshot(
        responses(p=2, q=2, h=3),
        [
            judged("p0", "q0"),
            judged("q0", "q1", "a"),
            judged("q0", "q1", "b"),
            judged("h0", "h1"),
            judged("h0", "h2"),
        ],
        [level("h0", "good"), level("p0", "good")],
    )
    items, left_out = training_items(snapshot, Split(frozenset({"h"}), "group"), GRM)
    assert [item.ids for item in items] == [("p0",)]
    assert left_out == {"cross_prompt": 1, "undecided": 1}


def test_votes_can_be_made_one_by_majority() -> None:
    snapshot = Snapshot(responses(p=2), [judged("p0", "p1")] * 2 + [judged("p0", "p1", "b")], [])
    items, _ = training_items(snapshot, NOTHING, RunConfig(method="grm", votes="majority"))
    assert items[0].target.shares == (1, 0, 0, 0)


def test_every_response_stands_in_one_item_a_sample_and_judged_pairs_meet() -> None:
    pairs = [("b0", "b9"), ("b1", "b8"), ("b2", "b7"), ("b3", "b4")]
    snapshot = Snapshot(responses(a=1, b=11, c=4), [judged(*pair) for pair in pairs], [level("a0", "bad")])
    split = Split(frozenset({"b"}), "group")
    samples = scoring_items(snapshot, split, GRM)
    assert len(samples) == 8
    for items in samples:
        assert Counter(name for item in items for name in item.ids) == Counter(
            row["response_id"] for row in snapshot.responses
        )
        assert all(len(item.rows) <= MOST for item in items)
        together = [set(item.ids) for item in items]
        assert all(any({a, b} <= names for names in together) for a, b in pairs)
        sides = {item.prompt_id: item.split for item in items}
        assert sides == {"a": "train", "b": "held_out", "c": "unlabelled"}
        assert len(items) == 5  # 1 + 3 + 1: as few as eleven need
    assert len({item.ids for items in samples for item in items if item.prompt_id == "b"}) > 8
    assert samples == scoring_items(snapshot, split, GRM)
    judge = RunConfig(method="judge", tuning="frozen", samples=1)
    assert {item.prompt_id: item.split for item in scoring_items(snapshot, NOTHING, judge)[0]} == {
        "a": "held_out",
        "b": "held_out",
        "c": "unlabelled",
    }


def test_pairs_that_met_least_meet_first() -> None:
    """Of twelve responses all of whose 66 pairs are judged, a sample shows 18; eight show more than half of them."""
    names = [f"p{number}" for number in range(12)]
    pairs = [(a, b) for a in names for b in names if a < b]
    snapshot = Snapshot(responses(p=12), [judged(*pair) for pair in pairs], [])
    met = {
        (a, b)
        for items in scoring_items(snapshot, NOTHING, GRM)
        for item in items
        for a in item.ids
        for b in item.ids
        if a < b
    }
    assert len(met) > 55


def test_orders_are_drawn_anew_and_every_second_sample_turns_the_last_around() -> None:
    snapshot = Snapshot(responses(p=4), [], [])
    orders = [items[0].ids for items in scoring_items(snapshot, NOTHING, GRM)]
    assert all(orders[number] == orders[number + 1][::-1] for number in range(0, 8, 2))
    assert len(set(orders)) > 4
    pair = Snapshot(responses(p=2), [judged("p0", "p1")], [])
    shown = [items[0] for items in scoring_items(pair, NOTHING, GRM)]
    assert Counter(item.ids for item in shown) == {("p0", "p1"): 4, ("p1", "p0"): 4}
    assert all(item.target.best == item.ids.index("p0") for item in shown)


def test_a_large_project_takes_seconds() -> None:
    """6,000 responses, 30 to a prompt, and 25,000 judgements of their pairs: a quarter of what has to go."""
    prompts = {f"p{number}-": 30 for number in range(200)}
    rows = [
        judged(f"{prompt}{one}", f"{prompt}{other}", "ab"[(one + other) % 2])
        for prompt, count in prompts.items()
        for one in range(count)
        for other in range(one)
        if (one * other) % 3 == 0 or one - other < 2
    ][:25_000]
    snapshot = Snapshot(responses(**prompts), rows, [])
    started = time.process_time()
    items, _ = training_items(snapshot, NOTHING, GRM)
    samples = scoring_items(snapshot, NOTHING, RunConfig(method="grm", samples=2))
    assert time.process_time() - started < 8
    assert len(items) == len(rows)
    assert sum(len(item.rows) for item in samples[-1]) == len(snapshot.responses)
