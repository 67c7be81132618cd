"""Numbers into coordinates."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.ratings.charts import (
    TOPS,
    Rated,
    axis_top,
    day_bars,
    mirrored_strip,
    outcome_bar,
    percentile_track,
    rating_strip,
    score_bins,
    score_histogram,
    sparkline,
)

BOUNDS = {"bad": (1, 3), "normal": (4, 6), "good": (7, 9)}
P = [0.0, 0.05, 0.1, 0.3, 0.3, 0.1, 0.1, 0.05, 0.0]


def test_a_strip_has_nine_bars_three_bands_and_one_scale() -> None:
    strip = rating_strip(Rated(p=P, expected=4.75, spread=1.5, people={"bad": 2, "good": 1}), BOUNDS)
    half = strip.halves[0]
    assert [bar.value for bar in half.bars] == P
    assert [bar.kind for bar in half.bars] == ["bad"] * 3 + ["normal"] * 3 + ["good"] * 3
    assert [band.name for band in half.bands] == ["bad", "normal", "good"]
    assert [len(band.dots) for band in half.bands] == [2, 0, 1]
    # Half the scale is half the height, wherever the strip stands.
    full = half.baseline - half.edge
    assert strip.top == 0.5
    assert [line.label for line in half.grid] == ["10 %", "20 %", "30 %", "40 %", "50 %"]
    assert half.grid[-1].position == half.edge
    assert half.bars[3].height == pytest.approx(full * 0.3 / strip.top, abs=0.1)
    small = sparkline(Rated(p=P), BOUNDS, top=1.0).halves[0]
    assert small.bars[3].height == pytest.approx((small.baseline - small.edge) * 0.3, abs=0.1)
    # Bands and bars fill the same columns, side by side.
    assert half.bands[0].x == strip.left
    assert half.bands[2].x + half.bands[2].width == pytest.approx(strip.right)
    for band, bars in zip(half.bands, (half.bars[:3], half.bars[3:6], half.bars[6:]), strict=True):
        assert all(band.x < bar.x and bar.x + bar.width < band.x + band.width for bar in bars)
        assert all(band.x < x < band.x + band.width for x, _ in band.dots)


def test_the_mark_stands_at_the_mean_and_its_spread_stays_on_the_axis() -> None:
    strip = rating_strip(Rated(p=P, expected=5.0, spread=1.0), BOUNDS)
    marker, fifth = strip.halves[0].marker, strip.halves[0].bars[4]
    assert marker is not None
    assert marker.x == fifth.middle
    assert (marker.low, marker.high) == (strip.halves[0].bars[3].middle, strip.halves[0].bars[5].middle)
    edge = rating_strip(Rated(p=P, expected=8.9, spread=3.0), BOUNDS).halves[0].marker
    assert edge is not None
    assert edge.high == strip.right


def distributions() -> st.SearchStrategy[list[float]]:
    """Nine probabilities of every shape: flat, peaked, with zeros."""
    weights = st.lists(st.floats(0, 1e6), min_size=9, max_size=9).filter(lambda found: sum(found) > 1e-6)
    return weights.map(lambda found: [weight / sum(found) for weight in found])


@settings(deadline=None)
@given(a=distributions(), b=distributions(), bounds=st.sampled_from([BOUNDS, None]))
def test_no_bar_is_cut_and_the_axis_ends_at_the_next_round_number(
    a: list[float], b: list[float], bounds: dict[str, tuple[int, int]] | None
) -> None:
    pair, one = mirrored_strip(Rated(p=a), Rated(p=b), bounds), rating_strip(Rated(p=a), bounds)
    for strip, highest in ((pair, max(*a, *b)), (one, max(a))):
        assert strip.top in TOPS
        assert highest <= strip.top + 1e-6
        assert all(top < highest for top in TOPS if top < strip.top), (
            "the first round number that is high enough"
        )
        for half in strip.halves:
            unit = abs(half.baseline - half.edge)
            for bar in half.bars:
                assert bar.height == pytest.approx(unit * bar.value / strip.top, abs=0.1)
                assert 0 <= bar.height <= unit
                assert 0 < bar.label_y < strip.height
            assert half.grid[-1].label == f"{100 * strip.top:.0f} %"


def test_strips_that_stand_together_share_an_axis_and_nothing_taller_is_drawn_on_it() -> None:
    flat, sure = Rated(p=[1 / 9] * 9), Rated(p=[0.0] * 8 + [1.0])
    assert [axis_top(rated) for rated in ([flat], [sure], [flat, sure], [Rated()])] == [0.2, 1.0, 1.0, 0.05]
    assert mirrored_strip(flat, sure, BOUNDS).top == 1.0
    with pytest.raises(ValueError, match="does not fit under"):
        rating_strip(sure, BOUNDS, top=0.5)
    half = rating_strip(sure, BOUNDS).halves[0]
    assert half.bars[8].inside
    assert half.edge < half.bars[8].label_y < half.baseline  # its number stands inside
    assert not any(bar.inside for bar in half.bars[:8])


def test_a_model_that_saw_no_level_is_drawn_without_bands() -> None:
    said = Rated(p=P, expected=4.75, spread=1.5, people={"bad": 2})
    for strip in (rating_strip(said, None), mirrored_strip(said, said, None), sparkline(said, None, top=0.5)):
        for half in strip.halves:
            assert half.bands == ()
            assert {bar.kind for bar in half.bars} == {""}
            assert half.marker is not None
    assert "People: 2 bad." in rating_strip(said, None).title


def test_bands_follow_the_projects_partition() -> None:
    half = rating_strip(Rated(p=P), {"bad": (1, 2), "normal": (3, 7), "good": (8, 9)}).halves[0]
    assert [bar.kind for bar in half.bars] == ["bad"] * 2 + ["normal"] * 5 + ["good"] * 2
    assert half.bands[1].width == pytest.approx(2.5 * half.bands[0].width)


def test_many_people_do_not_spill_over() -> None:
    narrow = {"bad": (1, 1), "normal": (2, 8), "good": (9, 9)}
    half = rating_strip(Rated(people={"bad": 500, "normal": 3}), narrow).halves[0]
    bad = half.bands[0]
    assert bad.people == 500
    assert bad.more == 500 - len(bad.dots) > 0
    assert all(bad.x < x < bad.x + bad.width and bad.y < y < half.edge for x, y in bad.dots)
    assert half.bars == ()
    assert half.marker is None


def test_a_pair_is_mirrored_on_one_scale() -> None:
    strip = mirrored_strip(Rated(p=P, people={"bad": 1}), Rated(p=P, people={"bad": 1}), BOUNDS)
    a, b = strip.halves
    assert (a.name, b.name) == ("A", "B")
    assert [bar.height for bar in a.bars] == [bar.height for bar in b.bars]
    assert [bar.x for bar in a.bars] == [bar.x for bar in b.bars]
    assert a.bars[3].y + a.bars[3].height == pytest.approx(a.baseline)  # grows upwards
    assert b.bars[3].y == b.baseline  # hangs
    assert a.edge < a.baseline < strip.ratings_y < b.baseline < b.edge < strip.height
    assert b.bands[0].dots[0][1] > b.edge


def test_a_title_says_what_the_picture_shows() -> None:
    title = rating_strip(Rated(p=P, expected=4.75, spread=1.5, people={"bad": 2, "normal": 0}), BOUNDS).title
    assert title == "Predicted ratings: most likely 4 (30 %), mean 4.8 ± 1.5. People: 2 bad."
    assert rating_strip(Rated(), BOUNDS).title == "No predicted ratings. No levels from people."


def test_a_distribution_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="9 values, not 5"):
        rating_strip(Rated(p=[0.2] * 5), BOUNDS)


def test_scores_are_binned_once_each() -> None:
    assert score_bins([0.0, 0.1, 0.5, 1.0], bins=2) == (0.0, 1.0, [2, 2])
    assert score_bins([3.0, 3.0]) == (3.0, 3.0, [2])
    with pytest.raises(ValueError, match="no scores"):
        score_bins([])


def test_a_histogram_marks_scores_within_the_picture() -> None:
    picture = score_histogram(-2.0, 2.0, [1, 4, 0, 2], {"A": 0.0, "B": 99.0})
    assert [place.x for place in picture.places] == [240.0, picture.right]
    assert [place.anchor for place in picture.places] == ["middle", "end"]
    assert max(bar.height for bar in picture.bars) == picture.baseline - picture.edge
    assert picture.title == "Scores of 7 responses from -2.00 to 2.00; A 0.00, B 99.00."
    assert score_histogram(3.0, 3.0, [2], {"": 3.0}).places[0].x == 240.0
    assert percentile_track(50.0, 1.0).x == 54


def test_an_outcome_bar_is_a_whole() -> None:
    bar = outcome_bar({"a": 3, "tie": 1, "both_bad": 0, "b": 1}, title="t")
    assert [(part.kind, part.width) for part in bar.parts] == [("a", 60), ("tie", 20), ("b", 20)]
    assert [part.x for part in bar.parts] == [0, 60, 80]
    assert outcome_bar({"a": 0, "b": 0}, title="t").parts == ()


def test_days_are_stacked_under_a_round_top() -> None:
    first = date(2026, 2, 1)
    picture = day_bars([(first + timedelta(days=day), day, 2 * day) for day in range(30)])
    last = picture.bars[-1]
    assert last.total == 87
    assert last.levels.y + last.levels.height == pytest.approx(last.judgements.y, abs=0.11)
    assert last.judgements.y + last.judgements.height == pytest.approx(picture.baseline, abs=0.11)
    assert [line.label for line in picture.grid] == ["0", "50", "100"]
    assert [label for _, label, _ in picture.labels] == ["1 Feb", "16 Feb", "2 Mar"]
    assert picture.title == "Labels per day over 30 days: 435 judgements and 870 levels."
    assert [line.label for line in day_bars([(first, 0, 0)]).grid] == ["0", "1", "2"]
