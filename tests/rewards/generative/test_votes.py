"""Votes of trajectories: distributions, joint outcomes, the median, orders, and accuracy by number of samples."""

from typing import Any

import numpy as np
import pytest

from workers.rewards.generative.judge import Parsed
from workers.rewards.generative.votes import (
    Trajectory,
    Votes,
    counting,
    critiques,
    curve,
    joint_rows,
    order_report,
)


def trajectory(
    responses: tuple[str, ...], scores: tuple[int, ...] | None, sample: int, **more: Any
) -> Trajectory:
    texts = tuple(f"about {name}" for name in responses)
    parsed = Parsed(scores, "" if scores else "it has no scores", f"principles {sample}", texts)
    given = {
        "stage": "score",
        "prompt_id": "p",
        "group": "p",
        "text": "t",
        "split": "held_out",
        "counted": True,
    }
    return Trajectory(**{**given, **more}, responses=responses, sample=sample, parsed=parsed)


FOUR = [
    trajectory(("a", "b"), (7, 3), 0),
    trajectory(("b", "a"), (3, 7), 1),
    trajectory(("b", "a"), (6, 5), 2),  # b wins where it stands first
    trajectory(("a", "b"), None, 3),
]


def test_votes_are_the_distribution_and_pairs_have_their_own_outcome() -> None:
    votes = Votes.of(FOUR)
    row = votes.predictions([{"response_id": "a"}, {"response_id": "c"}])
    assert row[0]["p"] == pytest.approx(np.array([1, 1, 1, 1, 10, 1, 19, 1, 1]) / 36)  # votes 7 7 5
    assert row[0]["score"] == row[0]["expected"] == pytest.approx((19 + 5) / 4)
    assert row[1]["p"] == pytest.approx([1 / 9] * 9)  # nobody rated it: the prior
    assert votes.together() == {("a", "b"): (2.5 / 4, 0.0)}
    assert joint_rows(votes) == [
        {
            "response_a": "a",
            "response_b": "b",
            "wins": 2,
            "ties": 0,
            "losses": 1,
            "order_a_first_wins": 1,
            "order_a_first_ties": 0,
            "order_a_first_losses": 0,
        }
    ]


def test_the_order_decided_where_the_winner_changes_with_it() -> None:
    by_place = [trajectory(("a", "b"), (7, 3), 0), trajectory(("b", "a"), (7, 3), 1)]
    assert order_report(Votes.of(by_place)) == {"pairs": 1, "decided": 1.0}
    assert order_report(Votes.of(FOUR)) == {"pairs": 1, "decided": 0.0}  # one of two each way
    assert order_report(Votes.of(FOUR[:1])) == {"pairs": 0, "decided": None}


def test_critiques_are_one_a_vote_with_the_median_of_those_that_count() -> None:
    rows = [row for row in critiques(FOUR) if row["response_id"] == "a"]
    assert [(row["sample"], row["position"], row["rating"], row["median"]) for row in rows] == [
        (0, 0, 7, True),
        (1, 1, 7, False),
        (2, 1, 5, False),
    ]
    assert rows[0]["critique"] == "about a"
    assert rows[0]["principles"] == "principles 0"


def test_the_meta_models_best_half_of_the_samples_votes() -> None:
    worth = (0.1, 3.0, 2.0, 9.0)
    valued = [
        trajectory(one.responses, one.parsed.scores, one.sample, meta=worth[one.sample]) for one in FOUR
    ]
    counted = counting(valued)
    assert [one.sample for one in counted if one.counted] == [
        1,
        2,
    ]  # the fourth can't be read, whatever it is worth
    assert [rating for _, rating in Votes.of(counted).ratings["a"]] == [7, 5]


def test_the_curve_counts_subsets_of_the_stored_samples() -> None:
    # of each pair, a is better; three samples of four say so by two, one says the contrary by five
    said = [(6, 4), (6, 4), (6, 4), (2, 7)]
    trajectories = [
        trajectory(
            (f"{pair}a", f"{pair}b"),
            scores,
            sample,
            prompt_id=f"p{pair}",
            group=f"p{pair}",
            meta=-float(sample),
        )
        for pair in range(6)
        for sample, scores in enumerate(said)
    ]
    rows = [{"response_id": f"{pair}{side}", "group": f"p{pair}"} for pair in range(6) for side in "ab"]
    judged = [{"response_a": f"{pair}a", "response_b": f"{pair}b", "verdict": "a"} for pair in range(6)]
    found = curve(trajectories, rows, judged, 4, seed=0)
    assert [entry["samples"] for entry in found] == [1, 2, 4]
    assert found[0]["votes"]["value"] == pytest.approx(0.75)
    assert found[2]["votes"]["value"] == 1.0  # sums 20 and 19
    assert found[1]["meta"]["value"] == 1.0  # of two the earlier one, never the last
    assert found[0]["votes"]["n"] == 6
    assert curve(trajectories, rows, [], 4, seed=0) == []
