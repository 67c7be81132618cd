"""The alternative-annotator test and its parts against numbers worked by hand, and against SciPy."""

import random

import pytest
from scipy import special, stats

from webapp.labels.alternative import (
    AlternativeTest,
    alternative_test,
    benjamini_yekutieli,
    error_rate,
    incomplete_beta,
    student_below,
    t_test_below,
    wilson,
)

PEOPLE = ("anna", "ben", "cora")


def unanimous(right: int, items: int = 30, wrong: str = "b") -> AlternativeTest:
    """Three people say “a” of every item; the machine does of `right` of them."""
    machine = {item: "a" if item < right else wrong for item in range(items)}
    return alternative_test(machine, [(item, who, "a") for item in range(items) for who in PEOPLE])


def test_the_machine_that_says_what_all_say_passes() -> None:
    test = unanimous(30)
    assert (test.winning, test.advantage, test.passed) == (1.0, 1.0, True)
    assert [(one.machine, one.person, one.p) for one in test.left] == [(1.0, 1.0, 0.0)] * 3


def test_the_machine_that_says_what_nobody_says_does_not() -> None:
    test = unanimous(0)
    assert (test.winning, test.advantage, test.passed) == (0.0, 0.0, False)
    assert all(one.p == 1.0 for one in test.left)


@pytest.mark.parametrize(
    ("right", "p", "winning"),
    [
        # d is 1 on 6 of 30 items: its mean is epsilon itself, t = 0.
        (24, 0.5, 0.0),
        # mean .1, s² = .1 * .9 * 30 / 29, t = -.1 / sqrt(s² / 30) = -1.795; three p of .0415 exceed .05 * 6 / 11.
        (27, 0.0415, 0.0),
        # mean .0667, t = -2.879: .0037 is below it.
        (28, 0.0037, 1.0),
    ],
)
def test_p_and_the_false_discovery_rule_by_hand(right: int, p: float, winning: float) -> None:
    test = unanimous(right)
    assert [one.p for one in test.left] == pytest.approx([p] * 3, abs=5e-5)
    assert test.winning == winning
    assert test.advantage == pytest.approx(right / 30)


def test_no_verdict_agrees_with_nobody() -> None:
    assert unanimous(24, wrong="") == unanimous(24)


def test_who_is_left_out_does_not_judge_himself() -> None:
    # Anna and Ben say a, Cora and the machine b. Without Anna: of Ben and Cora the machine has one, Anna one. Without
    # Cora: neither the machine nor she agrees with anybody.
    votes = [(item, who, "b" if who == "cora" else "a") for item in range(30) for who in PEOPLE]
    test = alternative_test(dict.fromkeys(range(30), "b"), votes)
    assert {one.annotator: (one.machine, one.person) for one in test.left} == dict.fromkeys(
        PEOPLE, (1.0, 1.0)
    )


def test_too_few_people_or_items_are_said() -> None:
    assert unanimous(29, items=29).reason.endswith("there are 0 so far.")
    two = alternative_test(
        dict.fromkeys(range(40), "a"), [(n, who, "a") for n in range(40) for who in PEOPLE[:2]]
    )
    assert (two.winning, two.passed, two.left) == (None, False, [])
    assert two.reason.endswith("there are 2 so far.")


def test_the_distributions_are_scipys() -> None:
    for a, b, x in ((14.5, 0.5, 0.3), (14.5, 0.5, 0.99), (2, 3, 0.4), (0.5, 14.5, 0.1), (200, 0.5, 0.999)):
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), abs=1e-12)
    for t, freedom in ((-2.0, 29), (1.3, 40), (0.0, 30), (-8.0, 100)):
        assert student_below(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), rel=1e-10)
    rng = random.Random(1)
    for _ in range(20):
        values = [rng.choice((-1, 0, 1)) for _ in range(35)]
        expected = stats.ttest_1samp(values, 0.2, alternative="less").pvalue
        assert t_test_below(values, 0.2) == pytest.approx(expected)
        p = [rng.random() ** 4 for _ in range(6)]
        assert benjamini_yekutieli(p, 0.05) == list(stats.false_discovery_control(p, method="by") <= 0.05)
    assert wilson(3, 10) == pytest.approx(stats.binomtest(3, 10).proportion_ci(method="wilson"), abs=1e-6)


def test_the_error_rate_by_hand() -> None:
    assert error_rate([], []) is None
    # One verdict "a": base is .5. Where people say a and b alike it tells nothing, and the prior's mean stays.
    assert error_rate(["a"], [{"a": 0.5, "b": 0.5}]) == pytest.approx(0.1)
    # Where a quarter of them says a: e = (.5 + 2e / (1 + e)) / 6, so 6e² + 3.5e - .5 = 0.
    assert error_rate(["a"], [{"a": 0.25, "b": 0.75}]) == pytest.approx((24.25**0.5 - 3.5) / 12)


def test_the_error_rate_finds_how_often_a_machine_guesses() -> None:
    rng = random.Random(3)
    people = [{"a": 0.95, "b": 0.05} if rng.random() < 0.5 else {"a": 0.05, "b": 0.95} for _ in range(3000)]
    said = [
        rng.choice("ab") if rng.random() < 0.3 else "a" if rng.random() < share["a"] else "b"
        for share in people
    ]
    assert error_rate(said, people) == pytest.approx(0.3, abs=0.04)
