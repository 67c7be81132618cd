"""Numbers into coordinates, and into words."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.ratings.services import percentiles
from webapp.training.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    MAX_ROWS,
    RIGHT,
    TOP,
    WIDTH,
    loss_chart,
    nice_ticks,
)
from webapp.training.metrics import metric_rows
from webapp.training.templatetags.training import duration


def coordinates(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_a_curve_lies_where_its_axes_say() -> None:
    chart = loss_chart([(0, 1.0), (50, 0.5), (100, 0.0)])
    assert chart is not None
    assert coordinates(chart.points) == [
        (LEFT, TOP),
        ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2),
        (WIDTH - RIGHT, HEIGHT - BOTTOM),
    ]
    assert [tick.label for tick in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert (chart.y_ticks[0].label, chart.y_ticks[0].position) == ("0", HEIGHT - BOTTOM)
    assert chart.title == "Training loss: 1.000 at step 0, 0.000 at step 100, lowest 0.000 at step 100."
    assert chart.rows == [(0, 1.0), (50, 0.5), (100, 0.0)]


def test_too_little_for_a_curve() -> None:
    assert loss_chart([]) is None
    assert loss_chart([(1, 0.5)]) is None
    assert loss_chart([(1, 0.5), (2, float("nan")), (3, float("inf"))]) is None


def test_a_long_curve_is_thinned_but_ends_where_it_ends() -> None:
    chart = loss_chart([(step, 1.0) for step in range(1, 10_001)])
    assert chart is not None
    assert len(coordinates(chart.points)) == MAX_POINTS
    assert len(chart.rows) == MAX_ROWS
    assert chart.rows[-1][0] == 10_000


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(-1e6, 1e6)),
        min_size=2,
        max_size=400,
        unique_by=lambda point: point[0],
    ).map(sorted)
)
def test_every_curve_stays_in_its_box(points: list[tuple[int, float]]) -> None:
    chart = loss_chart(points)
    assert chart is not None
    for x, y in coordinates(chart.points):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_enclose_the_values(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 8
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7322, "2 h 2 min"), (-5, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_percentiles_count_ties_half() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == [100.0, 0.0, 50.0]
    assert percentiles([1.0, 1.0, 2.0]) == [25.0, 25.0, 100.0]
    assert percentiles([7.0]) == [50.0]
    assert percentiles([]) == []


def test_a_metric_that_could_not_be_computed_is_absent_not_zero() -> None:
    metrics = {
        "held_out": {
            "pairs": {
                "n": 5,
                "accuracy": {"value": 0.0, "low": 0.0, "high": 0.4, "n": 5},
                "nll": {"value": None, "n": 0},
            },
            "levels": {"n": 8, "accuracy": 0.75, "quadratic_kappa": None},
            "auroc_good_bad": {"value": 0.9, "n": 4},
        },
        "crossfit": {"folds": 5, "pairs": {"n": 9, "accuracy": {"value": 0.6, "n": 7}}, "levels": None},
        "training": {"levels": 8},
        "spread": {"value": 1.2, "n": 36, "ratings": 5, "peaks": {"value": 1.5, "n": 36}},
    }
    rows = {row.name: row.new for row in metric_rows(metrics, {"held_out": None})}
    assert rows["Pair accuracy"].value == 0.0
    assert (rows["Level accuracy"].value, rows["Level accuracy"].n) == (0.75, 8)
    assert rows["AUROC good against bad"].n == 4
    crossed = rows["Pair accuracy, cross-fitted on the other groups"]
    assert (crossed.value, crossed.n) == (0.6, 7)
    assert (rows["Peaks of a rating distribution (mean)"].value, len(rows)) == (1.5, 5)
    # A version that saw no level agrees with none: where its bad ends is chance. The old one keeps its number.
    told = {**metrics, "training": {"levels": 0, "levelled": 0}}
    rows_of = {row.name: row for row in metric_rows(told, metrics)}
    assert rows_of["Level accuracy"].new.value is None
    assert rows_of["Level accuracy"].old is not None
    assert rows_of["Level accuracy"].old.value == 0.75
    assert "Level accuracy" not in {row.name for row in metric_rows(told)}
