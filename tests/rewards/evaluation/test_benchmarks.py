"""How benchmarks count, against values worked out by hand."""

import itertools
import math
import random
from typing import Any

import pytest

from workers.rewards.data.benchmarks import Benchmark, Item
from workers.rewards.evaluation.benchmarks import (
    best_of_n,
    expected_gold,
    first_right,
    grid_values,
    measure,
    ties_values,
)

RESPONSES = 6


def item(gold: list[float], compare: str, *subsets: str, prompt: str = "q", **given: Any) -> Item:
    messages = [{"role": "user", "content": prompt}]
    texts = tuple("x" * (n + 1) for n in range(len(gold)))
    return Item(messages, texts, tuple(gold), compare, subsets, **given)


def pair(*subsets: str, prompt: str = "q") -> Item:
    return item([1, 0], "pairs", *subsets, prompt=prompt, pairs=((0, 1),))


def measured(format: str, *rows: tuple[Item, list[float]]) -> dict[str, Any]:
    return measure(Benchmark(format, [one for one, _ in rows], [], 0), [scores for _, scores in rows])


def values(result: dict[str, Any]) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in result["lines"]}


RIGHT, WRONG, EQUAL = [2.0, 1.0], [1.0, 2.0], [1.0, 1.0]


def test_rewardbench_weighs_its_sections_as_its_code_does() -> None:
    """Chat (100 * 1 + 95 * 0) / 195; reasoning (984 * 1/2 + 164 * 1) / 1148; prior sets count half."""
    result = measured(
        "rewardbench",
        (pair("alpacaeval-easy", prompt="1"), RIGHT),
        (pair("alpacaeval-hard", prompt="2"), WRONG),
        (pair("math-prm", prompt="3"), EQUAL),
        (pair("hep-go", prompt="4"), RIGHT),
        (pair("shp", prompt="5"), RIGHT),
        (pair("unknown", prompt="6"), WRONG),
    )
    chat, reasoning = 100 / 195, (984 / 2 + 164) / 1148
    found = values(result)
    assert found["Chat"] == pytest.approx(chat)
    assert found["Reasoning"] == pytest.approx(reasoning)
    assert found["Prior Sets"] == 1
    assert found["overall"] == pytest.approx((chat + reasoning + 0.5) / 2.5)
    assert (found["math-prm"], found["unknown"]) == (0.5, 0)
    assert result["tied"] == pytest.approx(1 / 6)
    assert [(line["name"], line["kind"], line["n"]) for line in result["lines"][:3]] == [
        ("overall", "overall", 5),
        ("Chat", "section", 2),
        ("Reasoning", "section", 2),
    ]


def test_rewardbench_2_is_the_best_of_four_and_equal_scores_share() -> None:
    four = item([1, 0, 0, 0], "best", "Math")
    assert first_right(four.gold, [3, 1, 2, 0]) == 1
    assert first_right(four.gold, [3, 3, 2, 0]) == 0.5
    assert first_right(four.gold, [0, 3, 2, 0]) == 0
    result = measured(
        "rewardbench2", (four, [1, 1, 1, 1]), (item([1, 0], "best", "Safety", prompt="r"), RIGHT)
    )
    assert values(result) == {"overall": (0.25 + 1) / 2, "Math": 0.25, "Safety": 1}


def test_rewardbench_2_ties() -> None:
    """Question 1: right 5 and 4, wrong 2: a = 1, b = 2; reference right 3, wrong 2.5: c = .5. Question 2 all wrong."""
    first = ties_values({"tied": ([5, 4], [2]), "ref": ([3], [2.5])})
    assert first == {
        "tied right": 1, "reference right": 1, "preferred": 1, "preferred, hard": 0, "margin": math.tanh(0.5 / 1 - 1),
    }  # fmt: skip
    second = ties_values({"tied": ([1, 0], [2]), "ref": ([0], [0])})
    assert second == {
        "tied right": 0, "reference right": 0, "preferred": 0, "preferred, hard": 0, "margin": math.tanh(-2 - 1),
    }  # fmt: skip
    assert ties_values({"tied": ([1, 1], [0]), "ref": ([1], [0])})["margin"] == 1
    assert ties_values({"tied": ([1, 1], [1]), "ref": ([1], [1])})["margin"] == 0
    result = measured(
        "rewardbench2",
        (item([1, 1, 0], "ties", "Ties", reference="tied:1"), [5, 4, 2]),
        (item([1, 0], "ties", "Ties", reference="ref:1"), [3, 2.5]),
        (item([1, 1, 0], "ties", "Ties", reference="tied:2"), [1, 0, 2]),
        (item([1, 0], "ties", "Ties", reference="ref:2"), [0, 0]),
    )
    margin = (math.tanh(-0.5) + math.tanh(-3)) / 2
    assert values(result)["Ties"] == pytest.approx(
        0.3 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0 + 0.01 * margin
    )
    assert values(result)["overall"] == values(result)["Ties"]


def test_rm_bench_is_a_grid_of_styles() -> None:
    """Right scores 2, 4, 6, wrong ones 1, 5, 6: hard (0,1) (0,2) (1,2), normal the diagonal, easy (1,0) (2,0) (2,1)."""
    scores = [2.0, 4.0, 6.0, 1.0, 5.0, 6.0]
    assert grid_values(scores) == {
        "hard": 0,
        "normal": pytest.approx((1 + 0 + 0.5) / 3),
        "easy": 1,
    }
    grid = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    perfect = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    result = measured(
        "rmbench",
        (item(grid, "grid", "chat", prompt="1"), scores),
        (item(grid, "grid", "safety-refuse", prompt="2"), perfect),
        (item(grid, "grid", "safety-response", prompt="3"), scores),
    )
    chat = (0 + 0.5 + 1) / 3
    safety = (1 + chat) / 2
    found = values(result)
    assert found["chat"] == pytest.approx(chat)
    assert found["safety"] == pytest.approx(safety)
    assert found["overall"] == pytest.approx((chat + safety) / 2)
    assert found["hard"] == pytest.approx((0 + 0.5) / 2)
    assert found["easy"] == 1
    assert found["overall"] == pytest.approx((found["hard"] + found["normal"] + found["easy"]) / 3)


def test_rmb_is_the_mean_of_its_four_parts() -> None:
    three = item([1, 0, 0], "best", "Helpfulness/best of n", "Helpfulness/best of n/Chat")
    result = measured(
        "rmb",
        (three, [3, 1, 2]),
        (pair("Helpfulness/pairs", "Helpfulness/pairs/Chat", prompt="2"), WRONG),
        (pair("Helpfulness/pairs", "Helpfulness/pairs/Code", prompt="3"), RIGHT),
        (pair("Harmlessness/pairs", "Harmlessness/pairs/S1", prompt="4"), EQUAL),
    )
    found = values(result)
    assert found["overall"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found["Helpfulness/pairs"] == 0.5
    assert found["Helpfulness/pairs/Code"] == 1


def test_judgebench_and_preferences_are_means_over_prompts() -> None:
    rows = [(pair("Knowledge", f"mmlu-pro-{n}", prompt=str(n)), RIGHT) for n in range(3)]
    result = measured("judgebench", *rows, (pair("Coding", "livecodebench", prompt="4"), WRONG))
    assert values(result)["overall"] == 0.75
    assert [line["name"] for line in result["lines"] if line["kind"] == "section"] == ["Coding", "Knowledge"]
    assert list(values(measured("preference", (pair("file"), RIGHT)))) == ["overall"]


def test_correctness_is_the_mean_of_the_data_sets_and_of_a_prompts_pairs() -> None:
    three = item([0, 1, 1], "pairs", "GPQA", pairs=((1, 0), (2, 0)))
    equal = item([1, 1, 1], "pairs", "MATH", prompt="all right")
    result = measured(
        "ppe_correctness", (three, [2, 3, 1]), (equal, [1, 2, 3]), (pair("MATH", prompt="m"), RIGHT)
    )
    assert values(result) == {"overall": 0.75, "GPQA": 0.5, "MATH": 1}
    assert [line["n"] for line in result["lines"]] == [2, 1, 1]


def test_the_longer_one_stands_beside_and_intervals_are_over_prompts() -> None:
    """The second text is the longer one, and all of them are wrong. Ten rows of one prompt are one draw."""
    rows = [(pair(prompt=str(n // 10)), RIGHT if n < 20 else WRONG) for n in range(40)]
    (line,) = measured("preference", *rows)["lines"]
    assert (line["value"], line["length"], line["n"]) == (0.5, 0, 4)
    assert line["over_length"]["value"] == 0.5
    assert line["low"] == 0
    assert line["high"] == 1
    assert measured("preference", (pair(), RIGHT))["lines"][0]["low"] is None
    again = measured("preference", *rows)["lines"][0]
    assert again == line


def test_expected_gold_is_the_mean_over_all_subsets() -> None:
    rng = random.Random(0)
    for _ in range(20):
        gold = [rng.choice([0.0, 1.0, 2.0]) for _ in range(5)]
        scores = [rng.choice([0.0, 1.0, 2.0, 3.0]) for _ in range(5)]
        for k in range(1, 6):
            subsets = list(itertools.combinations(range(5), k))
            total = 0.0
            for subset in subsets:
                best = [n for n in subset if scores[n] == max(scores[m] for m in subset)]
                total += sum(gold[n] for n in best) / len(best)
            assert expected_gold(gold, scores)[k - 1] == pytest.approx(total / len(subsets))


def test_the_curve_of_the_best_of_n() -> None:
    """Gold 0, 0, 1: of two drawn the oracle finds the right one in 2 of 3, of three always."""
    perfect = item([0, 0, 1], "best", "s")
    worst = item([0, 0, 1], "best", "s", prompt="2")
    curve = best_of_n([perfect, worst, pair(prompt="3")], [[1, 2, 3], [3, 2, 1], RIGHT])
    assert curve is not None
    assert (curve["n"], curve["items"], curve["k"]) == (3, 2, [1, 2, 3])
    assert curve["oracle"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve["model"] == pytest.approx([1 / 3, 1 / 3, 1 / 2])
    assert curve["random"] == pytest.approx(1 / 3)
    assert curve["length"] == curve["oracle"]
    assert best_of_n([pair()], [RIGHT]) is None
