"""Outcome probabilities: exact values, and the same as those the reward models are measured with."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.ratings.probabilities import Outcome, ordinal_outcome, scalar_outcome
from workers.rewards.models.preference import ordinal_probabilities, scalar_probabilities

UNIFORM = [1 / 9] * 9
weights = st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9).filter(lambda row: sum(row) > 0.1)


def test_uniform_ratings_tie_once_in_nine() -> None:
    outcome = ordinal_outcome(UNIFORM, UNIFORM)
    assert outcome.tie == pytest.approx(1 / 9)
    assert outcome.a == pytest.approx(4 / 9)
    assert outcome.preferred == pytest.approx(0.5)


def test_the_surely_higher_rating_wins() -> None:
    low, high = [1.0] + [0.0] * 8, [0.0] * 8 + [1.0]
    assert ordinal_outcome(high, low) == Outcome(a=1.0, tie=0.0, b=0.0)
    assert ordinal_outcome(low, high).preferred == 0.0
    assert ordinal_outcome(low, low) == Outcome(a=0.0, tie=1.0, b=0.0)


@given(weights, weights)
def test_ordinal_agrees_with_the_evaluation(first: list[float], second: list[float]) -> None:
    outcome = ordinal_outcome(first, second)
    wins, losses, ties = ordinal_probabilities(np.array([first]), np.array([second]))
    assert outcome.a == pytest.approx(float(wins[0]), abs=1e-9)
    assert outcome.b == pytest.approx(float(losses[0]), abs=1e-9)
    assert outcome.tie == pytest.approx(float(ties[0]), abs=1e-9)
    assert outcome.a + outcome.tie + outcome.b == pytest.approx(1.0)
    swapped = ordinal_outcome(second, first)
    assert (swapped.a, swapped.b) == (pytest.approx(outcome.b, abs=1e-9), pytest.approx(outcome.a, abs=1e-9))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.none() | st.floats(0, 5), st.floats(0.05, 20))
def test_scalar_agrees_with_the_evaluation(
    r_a: float, r_b: float, tie: float | None, temperature: float
) -> None:
    outcome = scalar_outcome(r_a, r_b, tie=tie, temperature=temperature)
    a, b, t = scalar_probabilities(r_a - r_b, tie=tie, temperature=temperature)
    assert outcome.a == pytest.approx(float(a), abs=1e-9)
    assert outcome.b == pytest.approx(float(b), abs=1e-9)
    assert outcome.tie == pytest.approx(float(t), abs=1e-9)


def test_scalar_without_ties_is_bradley_terry() -> None:
    outcome = scalar_outcome(math.log(3), 0.0)
    assert outcome.a == pytest.approx(0.75)
    assert outcome.tie == pytest.approx(0.0)
    assert outcome.swapped.a == pytest.approx(0.25)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="different scales"):
        ordinal_outcome(UNIFORM, UNIFORM[:5])
    with pytest.raises(ValueError, match="positive sum"):
        ordinal_outcome(UNIFORM, [0.0] * 9)
    with pytest.raises(ValueError, match="temperature"):
        scalar_outcome(1, 0, temperature=0)
    with pytest.raises(ValueError, match="tie"):
        scalar_outcome(1, 0, tie=-1)
