"""Bradley-Terry with ties: known values, made-up authors that are found again, lengths, intervals by prompt."""

import math
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.strengths import ELO, made_up
from webapp.labels.strengths import Battles, Estimate, connected, rank_range, strengths


def battles(rows: list[tuple[int, int, float, float, float]], **changes: Any) -> Battles:
    """(a, b, wins, ties, losses) each; all of one length, each of a prompt of its own."""
    columns = np.array(rows, dtype=float).T
    made = {
        "a": columns[0].astype(int), "b": columns[1].astype(int), "prompt": np.arange(len(rows)), "wins": columns[2],
        "ties": columns[3], "losses": columns[4], "length_a": np.full(len(rows), 100.0),
        "length_b": np.full(len(rows), 100.0),
    }  # fmt: skip
    return Battles(**(made | changes))


def gaps(estimates: list[Estimate]) -> list[float]:
    return [(each.value - estimates[0].value) / ELO for each in estimates]


@pytest.mark.parametrize("ties", [0.0, 7000.0])
def test_two_authors_are_the_log_of_their_wins(ties: float) -> None:
    # The maximum matches the shares of wins, ties and losses exactly, so that d = log(wins / losses).
    found = strengths(battles([(0, 1, 30_000, ties, 10_000)]), 2, for_length=False)
    assert gaps(found.elo)[1] == pytest.approx(-math.log(3), abs=1e-3)
    assert found.elo[0].value + found.elo[1].value == pytest.approx(2000)
    # Against the average author, half of that gap away, with the tie weight that the shares give.
    half, tie = math.exp(math.log(3) / 4), ties / math.sqrt(30_000 * 10_000)
    expected = (half + tie / 2) / (half + 1 / half + tie)
    assert found.against_average[0].value == pytest.approx(expected, abs=1e-3)
    assert (found.elo[0].low, found.elo[0].high, found.length) == (None, None, None)


def test_three_authors_solve_the_likelihood_equations() -> None:
    rows = [(0, 1, 500, 100, 300), (1, 2, 400, 200, 350), (2, 0, 310, 90, 520)]
    found = strengths(battles(rows), 3, for_length=False)
    theta = np.array([each.value for each in found.elo]) / ELO
    # At the maximum expected wins minus losses of each author are what was seen, the made-up judgement apart.
    tie_weight = None
    seen, told = np.zeros(3), np.zeros(3)
    ties = sum(row[3] for row in rows)
    for weight in np.linspace(0.1, 1.0, 2001):
        shares = [weight / (2 * math.cosh((theta[a] - theta[b]) / 2) + weight) for a, b, *_ in rows]
        if sum(share * sum(row[2:]) for share, row in zip(shares, rows, strict=True)) >= ties:
            tie_weight = weight
            break
    assert tie_weight is not None
    for a, b, wins, tied, losses in rows:
        half = (theta[a] - theta[b]) / 2
        lead = 2 * math.sinh(half) / (2 * math.cosh(half) + tie_weight) * (wins + tied + losses)
        for author, sign in ((a, 1), (b, -1)):
            seen[author] += sign * (wins - losses)
            told[author] += sign * lead
    assert told == pytest.approx(seen, abs=1.5)


def test_five_made_up_authors_are_found_again_within_their_intervals() -> None:
    theta = [-1.0, -0.4, 0.0, 0.3, 1.1]
    found = strengths(made_up(theta, 4000, 600), 5, for_length=False)
    assert [each.value for each in found.elo] == pytest.approx([1000 + ELO * each for each in theta], abs=25)
    assert all(20 < each.high - each.low < 80 for each in found.elo)
    # 95 % intervals miss one in twenty.
    missed = 0
    for seed in range(6):
        for truth, each in zip(
            theta, strengths(made_up(theta, 1000, 200, seed=seed), 5, for_length=False).elo, strict=True
        ):
            missed += not each.low < 1000 + ELO * truth < each.high
    assert missed <= 4
    assert rank_range(found.elo)[4] == (1, 1)
    again = strengths(made_up(theta, 4000, 600), 5, for_length=False)
    assert again == found, "the seed is fixed"


def test_control_for_length_takes_a_planted_effect_away() -> None:
    # All are equally good, and length wins: the authors who write more seem better until it is looked at.
    rows = made_up([0.0] * 4, 6000, 800, per_sd=0.8, longer=0.3)
    plain = strengths(rows, 4, for_length=False)
    assert gaps(plain.elo)[3] > 0.8
    assert plain.length is None
    controlled = strengths(rows, 4, for_length=True)
    assert controlled.length.low < math.exp(0.8) < controlled.length.high
    assert controlled.length.low > 1.8
    for each in controlled.elo:
        assert each.low < 1000 < each.high
    # Real strength stays where length says nothing.
    real = strengths(made_up([-0.5, 0.5], 3000, 400), 2, for_length=True)
    assert real.elo[1].low < 1000 + ELO * 0.5 < real.elo[1].high
    assert real.length.low < 1 < real.length.high
    # Equal lengths cannot be controlled for.
    assert strengths(battles([(0, 1, 30, 0, 10)]), 2, for_length=True).length is None


def test_intervals_are_by_prompt_not_by_vote() -> None:
    # Ten people who say the same about each of 40 prompts know no more than one of them.
    draw = np.random.default_rng(1)
    won = (draw.random(40) < 0.6).astype(float)
    one = strengths(battles([(0, 1, w, 0, 1 - w) for w in won]), 2, for_length=False)
    ten = strengths(battles([(0, 1, 10 * w, 0, 10 * (1 - w)) for w in won]), 2, for_length=False)
    width = [each.elo[0].high - each.elo[0].low for each in (one, ten)]
    assert width[1] == pytest.approx(width[0], rel=0.15)
    rows = np.repeat(won, 10)
    apart = strengths(battles([(0, 1, w, 0, 1 - w) for w in rows]), 2, for_length=False)
    assert apart.elo[0].high - apart.elo[0].low < 0.5 * width[1]
    together = battles([(0, 1, w, 0, 1 - w) for w in rows], prompt=np.repeat(np.arange(40), 10))
    assert strengths(together, 2, for_length=False).elo[0].low == pytest.approx(ten.elo[0].low, rel=1e-6)


def test_who_won_everything_is_strong_and_not_endless() -> None:
    found = strengths(battles([(0, 1, 1, 0, 0)] * 6), 2, for_length=False)
    assert 1000 < found.elo[0].value < 1600
    assert all(math.isfinite(bound) for each in found.elo for bound in (each.low, each.high))
    more = strengths(battles([(0, 1, 1, 0, 0)] * 60), 2, for_length=False)
    assert more.elo[0].value > found.elo[0].value
    only_ties = strengths(battles([(0, 1, 0, 1, 0)] * 6), 2, for_length=True)
    assert only_ties.elo[0].value == pytest.approx(1000)


def test_groups_that_nothing_compares_are_told_apart() -> None:
    assert connected(np.array([0, 1, 3]), np.array([1, 2, 4]), 6) == [[0, 1, 2], [3, 4], [5]]


def test_ranks_that_intervals_leave_open() -> None:
    estimates = [Estimate(3, 2.5, 3.5), Estimate(2, 1, 2.6), Estimate(0, -1, 0.5), Estimate(0.9, 0.7, 1.2)]
    assert rank_range(estimates) == [(1, 2), (1, 3), (4, 4), (2, 3)]


def test_ten_thousand_judgements_take_less_than_two_seconds() -> None:
    rows = made_up(list(np.linspace(-1, 1, 20)), 10_000, 3000)
    start = time.process_time()
    strengths(rows, 20, for_length=True)
    assert time.process_time() - start < 2
