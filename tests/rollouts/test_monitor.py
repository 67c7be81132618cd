"""The warning keeps its word: rare where the proxy is right, soon where it is not; shares and intervals by hand."""

import math
import random
from datetime import UTC, datetime

import pytest

from benchmarks.rollout_warning import stream, warned
from webapp.rollouts.monitor import (
    ALARMS,
    MARGIN,
    Judged,
    betting,
    compare,
    pooled,
    share_of,
    towards_preferred,
    wilson,
)


def test_it_is_rare_where_the_proxy_is_right_and_soon_where_it_is_not() -> None:
    rng = random.Random(17)
    # Looked at after every one of 400 pairs. The second proxy lies at the very edge of what is let pass.
    right = warned(rng, 150, number=400, calm=400, shift=0.0)
    edge = warned(rng, 150, number=400, calm=0, shift=MARGIN)
    assert sum(each <= 400 for each in right) / 150 <= ALARMS / 2
    assert sum(each <= 400 for each in edge) / 150 <= ALARMS / 2
    # Agreed with 30 points less often than it expects, from the first pair on and after 100 calm ones.
    at_once = warned(rng, 60, number=150, calm=0, shift=0.3)
    later = warned(rng, 60, number=300, calm=100, shift=0.3)
    assert at_once[30] <= 40
    assert at_once[54] <= 80
    assert 100 <= later[30] <= 180
    assert later[54] <= 240
    # Three people a pair say more than one.
    three = warned(rng, 60, number=150, calm=0, shift=0.3, overlap=3)
    assert three[30] < at_once[30]


def test_only_finished_pairs_are_bet_on_and_a_landslide_is_no_overflow() -> None:
    open_ones = [Judged(0.9, 0.0) for _ in range(50)]
    assert betting(open_ones) == (1.0, None, 0)
    most, after, finished = betting(stream(random.Random(1), number=5000, calm=0, shift=0.5))
    assert math.isfinite(most)
    assert after is not None
    assert finished == 5000
    # With everything against it by the most there is, the first pairs are not enough.
    lost = [Judged(0.99, 0.0, done=datetime(2026, 1, day, tzinfo=UTC)) for day in range(1, 15)]
    assert betting(lost[:4])[1] is None
    # By hand: half a stake on 0.2, 0.4 and 0.9 grows with 0.94 a pair, and half waits.
    grown = [0.5 + 0.5 * sum((1 + size * 0.94) ** n for size in (0.2, 0.4, 0.9)) / 3 for n in range(10)]
    assert grown[8] < 2 / ALARMS < grown[9]
    assert betting(lost)[1] == 9
    assert betting(lost[:9])[0] == pytest.approx(grown[9])


def test_a_comparison_by_hand() -> None:
    said = [(0.9, 1.0, 1), (0.2, 0.5, 1), (0.3, 1.0, 2), (0.5, 1.0, 1)]
    pairs = [Judged(*towards_preferred(p, share), weight=weight) for p, share, weight in said]
    found = compare(pairs)
    assert found is not None
    assert found.expected == pytest.approx((0.9 + 0.8 + 2 * 0.7 + 0.5) / 5)
    assert found.people.value == pytest.approx((1 + 0.5 + 2 * 0 + 0.5) / 5)
    assert (found.people.low, found.people.high) == wilson(0.4, 25 / 7)
    assert found.people.n == 4
    assert not found.parted
    assert compare([]) is None
    # Wilson (1927) of 9 among 10, as in the usual tables.
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert share_of([0.0], [3.0]).high == pytest.approx(wilson(0, 1)[1])


def test_rewards_of_windows_are_pooled_as_of_one() -> None:
    first, second = [1.0, 3.0], [2.0, 8.0, 5.0]

    def part(values: list[float]) -> tuple[int, float, float]:
        mean = sum(values) / len(values)
        return len(values), mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))

    whole, found = part(first + second), pooled([part(first), part(second)])
    assert found is not None
    assert (found.count, found.mean) == (5, pytest.approx(whole[1]))
    assert found.high - found.mean == pytest.approx(1.959964 * whole[2] / math.sqrt(5), rel=1e-6)
    assert pooled([]) is None
