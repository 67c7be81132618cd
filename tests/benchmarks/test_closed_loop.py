"""The closed loop's world: its policy finds what is rewarded, be that right or wrong, and the bars are the issue's."""

import random
from typing import Any

import pytest

from benchmarks.closed_loop.__main__ import conclude
from benchmarks.closed_loop.installation import first_judgements
from benchmarks.closed_loop.world import Policy, Text, gold, p_gold, prompts, written


def trained(reward: Any) -> Policy:
    policy, rng = Policy(), random.Random(1)
    for _ in range(60):
        groups = [[policy.write(prompt, rng) for _ in range(8)] for prompt in rng.sample(prompts(), 6)]
        policy.learn(groups, [[reward(text) for text in group] for group in groups], 0.3)
    return policy


def test_the_policy_finds_the_gold_and_can_be_led_too_far() -> None:
    right = trained(lambda text: gold(text.counts)).means
    assert 1.5 < right["ornaments"] < 3.5
    assert right["steps"] > 2.5
    assert right["fillers"] < 0.5
    wrong = trained(lambda text: text.text.count("!!!")).means
    assert wrong["ornaments"] > 6
    best, excess = Text("", (3, 0, 2), ""), Text("", (3, 0, 7), "")
    assert p_gold(best, excess) > 0.99


def test_texts_have_the_parts_that_they_are_counted_by() -> None:
    text = written(prompts()[5], (3, 1, 4), random.Random(0))
    assert text.text.count("!!!") == 4
    assert text.text.count("a road bike") + text.text.count("sourdough") >= 3
    judged = first_judgements(200, random.Random(2))
    assert len({(a.prompt, *sorted((a.text, b.text))) for a, b, _ in judged}) == 200
    assert all(a.prompt == b.prompt and a.text != b.text for a, b, _ in judged)
    beyond = sum(text.counts[2] > 3 for a, b, _ in judged for text in (a, b))
    assert beyond <= 4, "the first judgements hardly cover what the policy is led into"


@pytest.mark.parametrize(("gap", "seconds", "status"), [(0.4, 50.0, 0), (0.41, 50.0, 1), (0.1, 61.0, 1)])
def test_the_bars(gap: float, seconds: float, status: int) -> None:
    row = {"seed": 1, "questions": 0, "versions": 1, "proxy": 0.9, "gold": 0.1}
    rows = [
        {**row, "arm": "without", "gap": 0.8, "delays": []},
        {**row, "arm": "asking", "gap": gap, "delays": [(seconds, 90.0)]},
    ]
    assert conclude(rows) == status
