"""Agreement coefficients: published worked examples, brute force, scikit-learn, real votes, degenerate data."""

import gzip
import itertools
import json
import random
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crowdkit.metrics.data import alpha_krippendorff
from sklearn.metrics import cohen_kappa_score

from tests.conftest import shared_data
from webapp.labels import agreement
from webapp.labels.agreement import Agreement, Rating
from webapp.labels.models import Level, Verdict

# Krippendorff (2011), section C: four observers, twelve units, missing data. Gwet's irrCAC carries the same
# table as cac.raw4raters; what its vignettes leave out was computed with the package irrCAC 0.4.4.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]

# The worked example of Wikipedia's article on Fleiss' kappa: ten units, fourteen raters, five categories.
FLEISS_COUNTS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]

ALL: dict[str, Callable[..., Agreement]] = {
    "percent": agreement.percent_agreement,
    "fleiss": agreement.fleiss_kappa,
    "gwet": agreement.gwet_ac,
    "alpha": agreement.krippendorff_alpha,
    "cohen": agreement.cohen_kappa,
}


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
        nominal = agreement.krippendorff_alpha(ratings)
        assert nominal.value == pytest.approx(0.743, abs=0.0005)
        assert (nominal.units, nominal.raters, nominal.ratings) == (11, 4, 41)
        ordinal = agreement.krippendorff_alpha(ratings, metric="ordinal")
        assert ordinal.value == pytest.approx(0.815, abs=0.0005)

    @pytest.mark.parametrize(
        ("weights", "published"),
        [("identity", 0.77544), ("linear", 0.85874), ("ordinal", 0.89894), ("quadratic", 0.91400)],
    )
    def test_gwet(self, weights: agreement.Weights, published: float) -> None:
        found = agreement.gwet_ac(triples(KRIPPENDORFF), weights=weights)
        assert found.value == pytest.approx(published, abs=5e-6)

    def test_percent_and_fleiss_with_missing_ratings_as_gwet_has_them(self) -> None:
        ratings = triples(KRIPPENDORFF)
        assert agreement.percent_agreement(ratings).value == pytest.approx(0.81818, abs=5e-6)
        assert agreement.fleiss_kappa(ratings).value == pytest.approx(0.76117, abs=5e-6)

    def test_fleiss(self) -> None:
        ratings = [
            (unit, rater, category)
            for unit, counts in enumerate(FLEISS_COUNTS)
            for rater, category in enumerate(np.repeat(np.arange(5), counts).tolist())
        ]
        assert agreement.fleiss_kappa(ratings).value == pytest.approx(0.210, abs=0.0005)
        assert agreement.percent_agreement(ratings).value == pytest.approx(0.378, abs=0.0005)

    def test_two_raters_of_gwets_overview(self) -> None:
        """cont3x3abstractors, with the coefficients printed in the overview of Gwet's irrCAC."""
        names = ("Ectopic", "AIU", "NIU")
        cells = {(0, 0): 13, (1, 1): 20, (1, 2): 7, (2, 1): 4, (2, 2): 56}
        rated = [(names[i], names[j]) for (i, j), n in cells.items() for _ in range(n)]
        ratings = triples(list(zip(*rated, strict=True)))
        assert agreement.cohen_kappa(ratings).value == pytest.approx(0.7964094, abs=5e-8)
        assert agreement.gwet_ac(ratings).value == pytest.approx(0.8493305, abs=5e-8)
        assert agreement.krippendorff_alpha(ratings).value == pytest.approx(0.7972585, abs=5e-8)
        assert agreement.fleiss_kappa(ratings).value == pytest.approx(0.7962397, abs=5e-8)  # Scott's pi
        assert agreement.percent_agreement(ratings).value == pytest.approx(0.89)

    def test_gwets_paradox(self) -> None:
        """Gwet (2008): 118 + 5 + 2 + 0 units, agreement .944: kappa falls below 0 and AC1 stays with it."""
        cells = [("+", "+")] * 118 + [("+", "-")] * 5 + [("-", "+")] * 2
        ratings = triples(list(zip(*cells, strict=True)))
        kappa, ac1 = agreement.cohen_kappa(ratings).value, agreement.gwet_ac(ratings).value
        assert kappa == pytest.approx(-0.0234, abs=0.0005)
        assert ac1 == pytest.approx(0.9408, abs=0.0005)


class TestOracles:
    @pytest.mark.parametrize("weights", ["identity", "linear", "quadratic"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_cohen_is_scikit_learns(self, weights: agreement.Weights, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first = rng.integers(0, 5, 200)
        second = np.where(rng.random(200) < 0.5, first, rng.integers(0, 5, 200))
        found = agreement.cohen_kappa(triples([first.tolist(), second.tolist()]), weights=weights)
        oracle = cohen_kappa_score(first, second, weights=None if weights == "identity" else weights)
        assert found.value == pytest.approx(oracle)
        assert (found.units, found.raters, found.ratings) == (200, 2, 400)

    def test_cohen_takes_the_units_that_both_rated(self) -> None:
        ratings = random_ratings(4)
        values = {(unit, rater): value for unit, rater, value in ratings}
        units = [
            u for u in dict.fromkeys(u for u, _, _ in ratings) if (u, "r1") in values and (u, "r3") in values
        ]
        oracle = cohen_kappa_score([values[u, "r1"] for u in units], [values[u, "r3"] for u in units])
        found = agreement.cohen_kappa(ratings, raters=("r1", "r3"))
        assert found.value == pytest.approx(oracle)
        assert found.units == len(units)

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
        assert agreement.krippendorff_alpha(ratings).value == pytest.approx(1 - within / overall)

    @pytest.mark.parametrize("seed", range(3))
    def test_alpha_is_crowd_kits(self, seed: int) -> None:
        """crowd-kit (by way of NLTK) keeps units with one rating; it gets none here, so that both mean the same."""
        ratings = random_ratings(seed, raters=6)
        pairable = {unit for unit in {u for u, _, _ in ratings} if sum(u == unit for u, _, _ in ratings) > 1}
        kept = [row for row in ratings if row[0] in pairable]
        table = pd.DataFrame(kept, columns=["task", "worker", "label"])
        assert agreement.krippendorff_alpha(kept).value == pytest.approx(alpha_krippendorff(table))

    def test_percent_is_the_definition(self) -> None:
        ratings = random_ratings(9)
        units = [values for values in by_unit(ratings) if len(values) > 1]
        shares = [np.mean([a == b for a, b in itertools.combinations(values, 2)]) for values in units]
        assert agreement.percent_agreement(ratings).value == pytest.approx(np.mean(shares))

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
            drawn.append(agreement.krippendorff_alpha(sample, replicates=0).value)
        found = agreement.krippendorff_alpha(ratings, replicates=4000)
        assert found.low is not None
        assert found.value is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.025)  # type: ignore[arg-type]


class TestInvariance:
    @pytest.mark.parametrize("name", ["percent", "fleiss", "gwet", "alpha"])
    def test_neither_row_order_nor_names_matter(self, name: str) -> None:
        ratings = random_ratings(1)
        renamed = [(f"x{unit}", f"y{rater}", value) for unit, rater, value in ratings]
        random.Random(0).shuffle(renamed)
        assert ALL[name](ratings) == ALL[name](renamed)

    def test_an_unused_category_changes_gwet_alone(self) -> None:
        ratings = random_ratings(1)
        wider = (0, 1, 2, 3, "never")
        for name in ("percent", "fleiss", "alpha"):
            assert ALL[name](ratings, categories=wider).value == pytest.approx(ALL[name](ratings).value)
        assert ALL["gwet"](ratings, categories=wider).value > ALL["gwet"](ratings).value  # type: ignore[operator]

    def test_perfect_agreement_is_one(self) -> None:
        ratings = triples([["a", "b", "tie", "a"]] * 3)
        for name in ("percent", "fleiss", "gwet", "alpha"):
            assert ALL[name](ratings, categories=agreement.VERDICTS).value == pytest.approx(1.0)
        assert agreement.cohen_kappa(ratings, raters=(0, 2)).value == pytest.approx(1.0)

    def test_ordinal_forgives_a_near_miss(self) -> None:
        near = triples([["bad", "normal", "good", "good"], ["bad", "normal", "good", "normal"]])
        far = triples([["bad", "normal", "good", "good"], ["bad", "normal", "good", "bad"]])
        for found in (
            [
                agreement.krippendorff_alpha(r, metric="ordinal", categories=agreement.LEVELS)
                for r in (near, far)
            ],
            [agreement.gwet_ac(r, weights="ordinal", categories=agreement.LEVELS) for r in (near, far)],
            [agreement.cohen_kappa(r, weights="linear", categories=agreement.LEVELS) for r in (near, far)],
        ):
            assert found[0].value > found[1].value  # type: ignore[operator]

    def test_ordered_verdicts_leave_both_bad_out(self) -> None:
        ratings = triples([["a", "tie", "both_bad"], ["a", "b", "b"]])
        ordered = agreement.ordered_verdicts(ratings)
        assert len(ordered) == 5
        found = agreement.krippendorff_alpha(ordered, metric="ordinal", categories=agreement.ORDERED_VERDICTS)
        assert found.units == 2


class TestDegenerate:
    """Whatever the data, a value or a reason: never NaN, never a warning."""

    @pytest.fixture(autouse=True)
    def _no_warning(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("categories", [None, agreement.VERDICTS])
    @pytest.mark.parametrize("ratings", [[], [("p", 1, "a")], [("p", 1, "a"), ("q", 2, "b")]])
    def test_no_overlap(self, name: str, categories: tuple[str, ...] | None, ratings: list[Rating]) -> None:
        found = ALL[name](ratings, categories=categories)
        assert (found.value, found.low, found.high, found.units) == (None, None, None, 0)
        assert found.reason == agreement.NO_OVERLAP
        assert found.ratings == len(ratings)

    @pytest.mark.parametrize("name", ["fleiss", "alpha", "cohen", "gwet"])
    def test_one_category(self, name: str) -> None:
        found = ALL[name](triples([["a", "a", "a"], ["a", "a", "a"]]))
        assert (found.value, found.low, found.high, found.units) == (None, None, None, 3)
        assert found.reason
        assert "one" in found.reason

    def test_one_category_of_several_is_what_ac1_was_made_for(self) -> None:
        ratings = triples([["a", "a", "a"], ["a", "a", "a"]])
        assert agreement.gwet_ac(ratings, categories=agreement.VERDICTS).value == 1.0
        assert agreement.percent_agreement(ratings).value == 1.0

    def test_lone_ratings_in_other_categories_do_not_help_alpha(self) -> None:
        ratings = [*triples([["a", "a"], ["a", "a"]]), ("lone", 1, "b")]
        assert agreement.krippendorff_alpha(ratings).reason == agreement.ONE_CATEGORY
        assert agreement.fleiss_kappa(ratings).value is not None

    def test_each_rater_constant_but_different_is_chance(self) -> None:
        assert agreement.cohen_kappa(triples([["a", "a"], ["b", "b"]])).value == pytest.approx(0.0)

    def test_one_unit_has_a_value_and_no_interval(self) -> None:
        found = agreement.gwet_ac(triples([["a"], ["b"], ["a"]]))
        assert found.value is not None
        assert (found.low, found.high) == (None, None)

    def test_no_interval_where_many_replicates_have_no_coefficient(self) -> None:
        ratings = triples([["a", "a", "b"], ["a", "a", "b"]])  # a third of the draws hold a alone
        found = agreement.krippendorff_alpha(ratings)
        assert found.value == pytest.approx(1.0)
        assert (found.low, found.high) == (None, None)

    @pytest.mark.parametrize("seed", range(30))
    def test_small_random_data(self, seed: int) -> None:
        rng = random.Random(seed)
        cells = [(u, r) for u in range(rng.randrange(1, 5)) for r in range(2) if rng.random() < 0.8]
        ratings: list[Rating] = [
            (u, r, rng.choice(agreement.LEVELS[: rng.randrange(1, 4)])) for u, r in cells
        ]
        for categories in (None, agreement.LEVELS):
            for name, measure in ALL.items():
                found = measure(ratings, categories=categories, replicates=50)
                numbers = [x for x in (found.value, found.low, found.high) if x is not None]
                assert np.all(np.isfinite(numbers)), name
                assert (found.value is None) == (found.reason is not None), name


def test_categories_are_those_people_choose_from() -> None:
    assert set(agreement.VERDICTS) == set(Verdict.values) - {"skip"}
    assert set(agreement.LEVELS) == set(Level.values) - {"skip"}


class TestRefusals:
    def test_a_rating_given_twice(self) -> None:
        with pytest.raises(ValueError, match="rater 'r' rated unit 'u' twice"):
            agreement.percent_agreement([("u", "r", "a"), ("u", "r", "b")])

    def test_a_value_out_of_scale(self) -> None:
        with pytest.raises(ValueError, match="'skip', which is none of a, b, tie, both_bad"):
            agreement.gwet_ac([("u", "r", "skip")], categories=agreement.VERDICTS)

    def test_words_have_no_order_of_their_own(self) -> None:
        ratings = triples([["bad"], ["good"]])
        for measure in (
            lambda: agreement.krippendorff_alpha(ratings, metric="ordinal"),
            lambda: agreement.gwet_ac(ratings, weights="linear"),
            lambda: agreement.cohen_kappa(ratings, weights="quadratic"),
        ):
            with pytest.raises(ValueError, match="categories"):
                measure()

    def test_cohen_needs_two_raters(self) -> None:
        with pytest.raises(ValueError, match="here are 3: name two"):
            agreement.cohen_kappa(triples([["a"], ["a"], ["b"]]))
        with pytest.raises(ValueError, match="is one"):
            agreement.cohen_kappa(triples([["a"], ["a"]]), raters=(1, 1))

    def test_unknown_options(self) -> None:
        with pytest.raises(ValueError, match="metric"):
            agreement.krippendorff_alpha([], metric="interval")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="weights"):
            agreement.gwet_ac([(1, 1, 1)], weights="radical")  # type: ignore[arg-type]


class TestRealVotes:
    def test_ukp_convarg1(self) -> None:
        """Habernal and Gurevych (2016) report Fleiss' kappa .267 on the votes before cleaning."""
        ratings: list[Rating] = []
        with gzip.open(shared_data("ukp_convarg1", "pairs.jsonl.gz"), "rt", encoding="utf-8") as lines:
            for line in lines:
                pair = json.loads(line)
                ratings += [(pair["pair_id"], vote["annotator"], vote["choice"]) for vote in pair["votes"]]
        found = agreement.fleiss_kappa(ratings, categories=("a", "b", "tie"))
        assert found.value == pytest.approx(0.267, abs=0.0005)

    def test_pandalm(self) -> None:
        rows = json.loads(shared_data("pandalm", "testset-v1.json").read_text(encoding="utf-8"))
        columns = [[row[f"annotator{k}"] for row in rows] for k in (1, 2, 3)]
        ratings = triples(columns)
        for first, second in itertools.combinations(range(3), 2):
            found = agreement.cohen_kappa(ratings, raters=(first, second))
            assert found.value == pytest.approx(cohen_kappa_score(columns[first], columns[second]))
        # The packages irrCAC 0.4.4 and krippendorff 0.9.0 on the same table; irrCAC's interval is analytic.
        assert agreement.fleiss_kappa(ratings).value == pytest.approx(0.864175, abs=5e-7)
        assert agreement.krippendorff_alpha(ratings).value == pytest.approx(0.864221, abs=5e-7)
        ac1 = agreement.gwet_ac(ratings)
        assert ac1.value == pytest.approx(0.886445, abs=5e-7)
        assert (ac1.low, ac1.high) == (pytest.approx(0.8672, abs=0.002), pytest.approx(0.9057, abs=0.002))


def test_a_hundred_thousand_ratings_take_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 20_000)
    values = np.where(rng.random((5, 20_000)) < 0.6, truth, rng.integers(0, 4, (5, 20_000)))
    ratings = triples(values.tolist())
    assert len(ratings) == 100_000
    start = time.perf_counter()
    for measure in (agreement.percent_agreement, agreement.fleiss_kappa, agreement.gwet_ac):
        assert measure(ratings).low is not None
    assert agreement.krippendorff_alpha(ratings, metric="ordinal").low is not None
    assert agreement.cohen_kappa(ratings, raters=(0, 1)).low is not None
    assert time.perf_counter() - start < 30  # about 2 s on an idle core
