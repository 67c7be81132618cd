"""Krippendorff's alpha: published worked examples, brute force, crowd-kit, real votes, degenerate data."""

import itertools
import json
import random
import time
import warnings
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crowdkit.metrics.data import alpha_krippendorff

from tests.conftest import shared_data
from webapp.labels import agreement
from webapp.labels.agreement import Agreement, Rating
from webapp.labels.models import LEVELS, VERDICTS, Level, Verdict

# Krippendorff (2011), section C: four observers, twelve units, missing data.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def alpha(ratings: Sequence[Rating], **options: Any) -> Agreement:
    """Alpha over the categories in use, in their order, where the test names none."""
    used = sorted({value for _, _, value in ratings}, key=lambda value: (str(type(value)), str(value)))
    return agreement.krippendorff_alpha(ratings, **{"categories": used, **options})


def triples(rows: Sequence[Sequence[Hashable]]) -> list[Rating]:
    """Ratings from one row of values per rater, None where missing."""
    return [
        (unit, rater, value)
        for rater, values in enumerate(rows)
        for unit, value in enumerate(values)
        if value is not None
    ]


def random_ratings(seed: int, *, units: int = 60, raters: int = 5, missing: float = 0.3) -> list[Rating]:
    """Raters who see a unit's true category more often than not, some ratings missing."""
    rng = random.Random(seed)
    found: list[Rating] = []
    for unit in range(units):
        truth = rng.randrange(4)
        for rater in range(raters):
            if rng.random() >= missing:
                found.append((f"u{unit}", f"r{rater}", truth if rng.random() < 0.6 else rng.randrange(4)))
    return found


def by_unit(ratings: Sequence[Rating]) -> Iterator[list[Any]]:
    for _, group in itertools.groupby(sorted(ratings, key=str), key=lambda row: row[0]):
        yield [value for _, _, value in group]


class TestPublishedExamples:
    def test_krippendorff(self) -> None:
        ratings = triples(KRIPPENDORFF)
        nominal = alpha(ratings)
        assert nominal.value == pytest.approx(0.743, abs=0.0005)
        assert (nominal.units, nominal.raters, nominal.ratings) == (11, 4, 41)
        assert alpha(ratings, metric="ordinal").value == pytest.approx(0.815, abs=0.0005)

    def test_two_raters_of_gwets_overview(self) -> None:
        """cont3x3abstractors, with the coefficient printed in the overview of Gwet's irrCAC."""
        names = ("Ectopic", "AIU", "NIU")
        cells = {(0, 0): 13, (1, 1): 20, (1, 2): 7, (2, 1): 4, (2, 2): 56}
        rated = [(names[i], names[j]) for (i, j), n in cells.items() for _ in range(n)]
        assert alpha(triples(list(zip(*rated, strict=True)))).value == pytest.approx(0.7972585, abs=5e-8)


class TestOracles:
    @pytest.mark.parametrize("seed", range(3))
    def test_alpha_is_the_definition(self, seed: int) -> None:
        """Disagreement of ordered pairs within units, over that of ordered pairs of all pairable values."""
        ratings = random_ratings(seed)
        units = [values for values in by_unit(ratings) if len(values) > 1]
        pooled = [value for values in units for value in values]
        within = sum(
            (a != b) / (len(values) - 1) for values in units for a, b in itertools.permutations(values, 2)
        ) / len(pooled)
        overall = np.mean([a != b for a, b in itertools.permutations(pooled, 2)])
        assert alpha(ratings).value == pytest.approx(1 - within / overall)

    @pytest.mark.parametrize("seed", range(3))
    def test_alpha_is_crowd_kits(self, seed: int) -> None:
        """crowd-kit (by way of NLTK) keeps units with one rating; it gets none here, so that both mean the same."""
        ratings = random_ratings(seed, raters=6)
        pairable = {unit for unit in {u for u, _, _ in ratings} if sum(u == unit for u, _, _ in ratings) > 1}
        kept = [row for row in ratings if row[0] in pairable]
        table = pd.DataFrame(kept, columns=["task", "worker", "label"])
        assert alpha(kept).value == pytest.approx(alpha_krippendorff(table))

    def test_intervals_are_those_of_drawing_units_one_by_one(self) -> None:
        ratings = random_ratings(6)
        values = list(by_unit(ratings))
        rng = random.Random(0)
        drawn = []
        for _ in range(600):
            sample = [
                (unit, rater, value)
                for unit in range(len(values))
                for rater, value in enumerate(rng.choice(values))
            ]
            drawn.append(alpha(sample, replicates=0).value)
        found = alpha(ratings, replicates=4000)
        assert found.low < found.value < found.high
        assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.025)


class TestInvariance:
    def test_neither_row_order_nor_names_matter(self) -> None:
        ratings = random_ratings(1)
        renamed = [(f"x{unit}", f"y{rater}", value) for unit, rater, value in ratings]
        random.Random(0).shuffle(renamed)
        assert alpha(ratings) == alpha(renamed)

    def test_an_unused_category_changes_nothing(self) -> None:
        ratings = random_ratings(1)
        wider = alpha(ratings, categories=(0, 1, 2, 3, "never"))
        assert wider.value == pytest.approx(alpha(ratings).value)

    def test_perfect_agreement_is_one(self) -> None:
        ratings = triples([["a", "b", "tie", "a"]] * 3)
        assert alpha(ratings, categories=VERDICTS).value == pytest.approx(1.0)

    def test_ordinal_forgives_a_near_miss(self) -> None:
        near = triples([["bad", "normal", "good", "good"], ["bad", "normal", "good", "normal"]])
        far = triples([["bad", "normal", "good", "good"], ["bad", "normal", "good", "bad"]])
        found = [alpha(ratings, metric="ordinal", categories=LEVELS).value for ratings in (near, far)]
        assert found[0] > found[1]


class TestDegenerate:
    """Whatever the data, a value or a reason: never NaN, never a warning."""

    @pytest.fixture(autouse=True)
    def _no_warning(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    @pytest.mark.parametrize("categories", [("a", "b"), VERDICTS])
    @pytest.mark.parametrize("ratings", [[], [("p", 1, "a")], [("p", 1, "a"), ("q", 2, "b")]])
    def test_no_overlap(self, categories: tuple[str, ...], ratings: list[Rating]) -> None:
        found = alpha(ratings, categories=categories)
        assert (found.value, found.low, found.high, found.units) == (None, None, None, 0)
        assert found.reason == agreement.NO_OVERLAP
        assert found.ratings == len(ratings)

    def test_one_category(self) -> None:
        found = alpha(triples([["a", "a", "a"], ["a", "a", "a"]]), categories=VERDICTS)
        assert (found.value, found.low, found.high, found.units) == (None, None, None, 3)
        assert found.reason == agreement.ONE_CATEGORY

    def test_lone_ratings_in_other_categories_do_not_help(self) -> None:
        ratings = [*triples([["a", "a"], ["a", "a"]]), ("lone", 1, "b")]
        assert alpha(ratings).reason == agreement.ONE_CATEGORY

    def test_one_unit_has_a_value_and_no_interval(self) -> None:
        found = alpha(triples([["a"], ["b"], ["a"]]))
        assert found.value is not None
        assert (found.low, found.high) == (None, None)

    def test_no_interval_where_many_replicates_have_no_coefficient(self) -> None:
        ratings = triples([["a", "a", "b"], ["a", "a", "b"]])  # a third of the draws hold a alone
        found = alpha(ratings)
        assert found.value == pytest.approx(1.0)
        assert (found.low, found.high) == (None, None)

    @pytest.mark.parametrize("seed", range(30))
    def test_small_random_data(self, seed: int) -> None:
        rng = random.Random(seed)
        cells = [(u, r) for u in range(rng.randrange(1, 5)) for r in range(2) if rng.random() < 0.8]
        ratings: list[Rating] = [(u, r, rng.choice(LEVELS[: rng.randrange(1, 4)])) for u, r in cells]
        found = alpha(ratings, categories=LEVELS, replicates=50)
        numbers = [x for x in (found.value, found.low, found.high) if x is not None]
        assert np.all(np.isfinite(numbers))
        assert (found.value is None) == (found.reason is not None)


def test_categories_are_those_people_choose_from() -> None:
    assert set(VERDICTS) == set(Verdict.values) - {"skip"}
    assert set(LEVELS) == set(Level.values)


class TestRefusals:
    def test_a_rating_given_twice(self) -> None:
        with pytest.raises(ValueError, match="rater 'r' rated unit 'u' twice"):
            alpha([("u", "r", "a"), ("u", "r", "b")])

    def test_a_value_out_of_scale(self) -> None:
        with pytest.raises(ValueError, match="'skip', which is none of a, b, tie, both_bad"):
            alpha([("u", "r", "skip")], categories=VERDICTS)

    def test_unknown_metric(self) -> None:
        with pytest.raises(ValueError, match="metric"):
            alpha([], metric="interval")


def test_real_votes_of_pandalm() -> None:
    rows = json.loads(shared_data("pandalm", "testset-v1.json").read_text(encoding="utf-8"))
    ratings = triples([[row[f"annotator{k}"] for row in rows] for k in (1, 2, 3)])
    # The package krippendorff 0.9.0 on the same table.
    assert alpha(ratings).value == pytest.approx(0.864221, abs=5e-7)


def test_a_hundred_thousand_ratings_take_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 20_000)
    values = np.where(rng.random((5, 20_000)) < 0.6, truth, rng.integers(0, 4, (5, 20_000)))
    ratings = triples(values.tolist())
    assert len(ratings) == 100_000
    start = time.perf_counter()
    assert alpha(ratings, metric="ordinal").low is not None
    assert time.perf_counter() - start < 30  # less than 1 s on an idle core
