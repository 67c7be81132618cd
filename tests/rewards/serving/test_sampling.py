"""What people are asked back: features, candidates, and three ways of picking with exact chances."""

import itertools
import json
import math
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from workers.rewards.models.preference import ordinal_p_preferred, scalar_p_preferred
from workers.rewards.serving import sampling
from workers.rewards.serving.sampling import Window, distance, features, shares

ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
SCALAR = {"digest": "d1", "kind": "scalar", "temperature": 2.0, "tie": 0.3}
ORDINAL = {"digest": "d2", "kind": "ordinal", "temperature": 1.0, "tie": None}
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def scalar(score: float) -> dict[str, Any]:
    return {"score": score, "expected": None, "spread": None, "p": None}


def ordinal(centre: float, width: float) -> dict[str, Any]:
    p = np.exp(-(((np.arange(1, 10) - centre) / width) ** 2))
    p /= p.sum()
    expected = float(p @ np.arange(1, 10))
    spread = float(np.sqrt(p @ (np.arange(1, 10) - expected) ** 2))
    return {"score": expected, "expected": expected, "spread": spread, "p": p.tolist()}


def window(
    texts: dict[str, dict[str, Any]],
    *,
    sample: int,
    version: dict[str, Any] = SCALAR,
    seed: int = 0,
    **settings: Any,
) -> Window:
    made = Window({"sample": sample, **settings}, version, server="s", seed=seed, now=NOON)
    for text, row in texts.items():
        made.add(ASKED, text, row)
    return made


def report(*arguments: Any, **options: Any) -> dict[str, Any]:
    found = window(*arguments, **options).close(NOON)
    assert found is not None
    return found


def texts_of(pair: dict[str, Any]) -> frozenset[str]:
    return frozenset((pair["a"]["text"], pair["b"]["text"]))


def test_features_are_what_the_interface_says() -> None:
    found = features("# Hi\n- **a** b\n- a `c`!\nWhy?")
    assert found == pytest.approx(
        {
            "length": math.log(29),
            "headers": math.log(2),
            "list_items": math.log(3),
            "bold": math.log(2),
            "code": math.log(3),
            "exclamations": math.log(2),
            "questions": math.log(2),
            "repetition": 1 / 9,
        }
    )
    assert set(features("").values()) == {0.0}
    assert features("\ud800\0" + " \t" * 500_000 + "1. x" * 9)["length"] == pytest.approx(
        math.log1p(1_000_038)
    )


def test_distance_is_the_feature_that_moved_most() -> None:
    reference = {
        "length": {"mean": math.log1p(10), "sd": 0.5},
        "style": {"exclamations": {"mean": 0.0, "sd": 0.0}, "unheard of": {"mean": 0.0, "sd": 1.0}},
    }
    assert distance("a" * 10, reference) == 0
    assert distance("a" * 100, reference) == pytest.approx((math.log(101) - math.log(11)) / 0.5)
    assert distance("a" * 9 + "!", reference) == pytest.approx(math.log(2) / 0.1)
    assert distance("!!!", None) == 0


def test_the_random_share_is_a_simple_random_sample_with_the_chance_it_says() -> None:
    """Of four texts' six pairs two are drawn: each of the 15 sets of two as often, each pair with chance 1/3."""
    texts = {name: scalar(float(number)) for number, name in enumerate(("w", "x", "y", "z"))}
    only_random = {"uncertain": 0, "moved": 0, "random": 1}
    seen: Counter[frozenset[frozenset[str]]] = Counter()
    sides: Counter[bool] = Counter()
    for seed in range(3000):
        pairs = report(texts, sample=2, seed=seed, shares=only_random)["pairs"]
        assert [(pair["why"], pair["propensity"]) for pair in pairs] == [("random", 2 / 6)] * 2
        seen[frozenset(map(texts_of, pairs))] += 1
        sides[pairs[0]["a"]["text"] < pairs[0]["b"]["text"]] += 1
    assert len(seen) == 15
    # chi-squared with 14 degrees of freedom exceeds 36.1 once in a thousand; the seeds are fixed.
    assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 36.1
    assert abs(sides[True] - 1500) < 100, "which is a is drawn too"


def test_preferences_are_the_versions_own() -> None:
    texts = {"x": scalar(1.0), "y": scalar(2.5)}
    [pair] = report(texts, sample=3)["pairs"]
    expected = float(scalar_p_preferred(1.5, tie=0.3, temperature=2.0))
    assert pair["preferred"] == pytest.approx(expected if pair["a"]["text"] == "y" else 1 - expected)
    rows = {"x": ordinal(3, 1), "y": ordinal(6, 2)}
    [pair] = report(rows, sample=3, version=ORDINAL)["pairs"]
    a, b = (rows[pair[side]["text"]] for side in "ab")
    assert pair["preferred"] == pytest.approx(ordinal_p_preferred([a["p"]], [b["p"]])[0])
    assert pair["a"] == {"text": pair["a"]["text"], **a}
    assert pair["messages"] == ASKED


def test_the_uncertain_and_the_moved_are_the_extremes_of_all_candidates() -> None:
    rows = {
        "even": ordinal(5, 1),
        "even and wide": ordinal(5, 3),
        "low": ordinal(1, 0.5),
        "high": ordinal(9, 0.5),
    }
    wide = {"uncertain": 1, "moved": 0, "random": 0}
    [pair] = report(rows, sample=1, version=ORDINAL, shares=wide)["pairs"]
    assert (texts_of(pair), pair["why"], pair["propensity"]) == (
        {"even", "even and wide"},
        "uncertain",
        1.0,
    )
    # By hand, among all pairs.
    best = max(
        itertools.combinations(rows, 2),
        key=lambda two: (
            (1 - abs(2 * ordinal_p_preferred(*([rows[x]["p"]] for x in two))[0] - 1))
            * math.hypot(*(rows[x]["spread"] for x in two))
        ),
    )
    assert texts_of(pair) == set(best)

    texts = {"plain words": scalar(0), "other words": scalar(1), "much " * 50: scalar(2), "so!!!": scalar(3)}
    reference = {
        "length": {"mean": math.log1p(11), "sd": 0.3},
        "style": {"exclamations": {"mean": 0, "sd": 0.1}},
    }
    moved = {"uncertain": 0, "moved": 1, "random": 0}
    found = report(texts, sample=2, reference=reference, shares=moved)["pairs"]
    # No text comes twice while others are left: the farthest with one partner, then the two that remain.
    assert sorted(text for pair in found for text in texts_of(pair)) == sorted(texts)
    assert {pair["why"] for pair in found} == {"moved"}
    assert len(report(texts, sample=6, reference=reference, shares=moved)["pairs"]) == 6


def test_shares_are_thirds_and_the_rest_is_random() -> None:
    thirds = {"uncertain": 13, "moved": 13, "random": 14}
    assert shares({"sample": 40}, moved=True) == thirds
    assert shares({"sample": 40}, moved=False) == {"uncertain": 13, "moved": 0, "random": 27}
    told = {"uncertain": 0.5, "moved": 0.25, "random": 0.25}
    assert shares({"sample": 8, "shares": told}, moved=True) == {"uncertain": 4, "moved": 2, "random": 2}
    texts = {f"text {n} " * n: scalar(n / 9) for n in range(1, 20)}
    reference = {"length": {"mean": 3.0, "sd": 1.0}, "style": {}}
    found = report(texts, sample=40, reference=reference)
    assert Counter(pair["why"] for pair in found["pairs"]) == thirds
    assert len(set(map(texts_of, found["pairs"]))) == 40, "no pair is asked twice"
    assert found["candidates"] == 19 * 18 // 2
    assert {pair["propensity"] for pair in found["pairs"] if pair["why"] == "random"} == {14 / 171}


def test_a_report_counts_everything_that_was_seen() -> None:
    made = window({"a": scalar(1.0), "bbb": scalar(3.0)}, sample=4)
    made.add(ASKED, "a", scalar(1.0))  # the same text again: seen, no candidate
    made.add([{"role": "user", "content": "Other?"}], "c", scalar(float("nan")))  # no score
    made.add([{"content": "Why is the sky blue?", "role": "user"}], "dd", scalar(5.0))  # the same prompt
    found = made.close(NOON)
    assert found is not None
    json.dumps(found, allow_nan=False)
    assert (found["server"], found["version"]) == ("s", "d1")
    assert found["window"] == {"from": "2026-11-28T12:00:00+00:00", "to": "2026-11-28T12:00:00+00:00"}
    assert (found["seen"], found["prompts"], found["candidates"]) == (4, 1, 3)
    assert found["rewards"] == pytest.approx({"count": 4, "mean": 2.5, "sd": np.std([1, 3, 1, 5])})
    assert found["length"] == pytest.approx({"mean": 7 / 4, "sd": np.std([1, 3, 1, 2])})
    assert len(found["pairs"]) == 3, "fewer candidates than asked for: each once"
    assert window({}, sample=3).close() is None
    alone = report({"only": scalar(1.0)}, sample=3)
    assert (alone["seen"], alone["candidates"], alone["pairs"]) == (1, 0, [])


def test_memory_is_bounded_and_threads_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_ROLLOUTS", 60)
    monkeypatch.setattr(sampling, "MOST_OF_A_PROMPT", 4)
    made = Window({"sample": 9}, SCALAR, server="s", seed=0)

    def work(thread: int) -> None:
        for n in range(100):
            made.add([{"role": "user", "content": f"Prompt {n % 20}"}], f"{thread} {n}", scalar(n / 100))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.full
    found = made.close()
    assert found is not None
    assert (found["seen"], found["prompts"]) == (400, 20)
    # 60 rollouts, at most four of one prompt: from 15 x 6 pairs down to 20 x 3
    assert 60 <= found["candidates"] <= 90
