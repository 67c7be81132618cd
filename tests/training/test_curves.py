"""Accuracy by number of samples: where its points stand, and what is left out."""

import pytest
from django.template.loader import render_to_string

from tests.ratings.votes import CURVE
from webapp.training.curves import vote_curve


def test_a_doubling_is_a_step_and_intervals_stand_beside_each_other() -> None:
    curve = vote_curve({"generative": {"curve": CURVE}})
    assert curve is not None
    votes, meta = curve.lines
    assert [tick.label for tick in curve.x_ticks] == ["1", "2", "4", "8"]
    steps = [second.x - first.x for first, second in zip(votes.spots, votes.spots[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    assert all(spot.high < spot.y < spot.low for spot in votes.spots), "y runs downwards"
    assert votes.spots[0].y > votes.spots[-1].y
    assert meta.spots[0].x > votes.spots[0].x
    assert curve.rows[3][0] == 8
    assert curve.rows[3][1][1].value == CURVE[3]["meta"]["value"]  # type: ignore[union-attr]
    assert "all votes 60.0 % right with 1 sample; all votes 75.0 % right with 8 samples" in curve.title
    html = render_to_string("training/curve.html", {"curve": curve})
    assert html.count("<circle") == 8
    assert "60.0 %" in html


@pytest.mark.parametrize(
    "generative", [None, {}, {"curve": []}, {"curve": [{"samples": 1, "votes": {"value": None}}]}]
)
def test_without_numbers_there_is_no_chart(generative: object) -> None:
    assert vote_curve({"generative": generative}) is None


def test_one_sample_without_an_interval_is_a_point() -> None:
    row = {"samples": 1, "votes": {"value": 1.0, "low": None, "high": None, "n": 3}, "meta": None}
    curve = vote_curve({"generative": {"curve": [row]}})
    assert curve is not None
    (line,) = curve.lines
    assert (line.spots[0].low, line.spots[0].high) == (line.spots[0].y, line.spots[0].y)
    assert "1 sample: 100.0 % of 3 judgements" in line.spots[0].title
    assert len({tick.position for tick in curve.y_ticks}) > 2, "an axis, however flat the line"
