"""The suite on scorers whose answers are known, then on real (tiny) models."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.rewards.evaluate import main
from workers.rewards.evaluation.attacks import ATTACKS, DEGENERATE, OTHER_WORDS, Own, _in_other_words
from workers.rewards.evaluation.robustness import (
    MAX_CHARACTERS,
    MAX_RESPONSES,
    MIN_ORDERS,
    MIN_WORDING,
    Scored,
    Scorer,
    choose,
    choose_orders,
    failures,
    hardened,
    in_bad,
    measure,
    spearman,
)
from workers.rewards.training.loop import train

Rows = list[dict[str, Any]]


def response(number: int, text: str, prompt: str | None = "why?") -> dict[str, Any]:
    messages = [] if prompt is None else [{"role": "user", "content": prompt}]
    return {
        "response_id": f"r{number:03}",
        "prompt_id": "p",
        "group": "g",
        "messages": messages,
        "text": text,
    }


def worth(text: str) -> float:
    """The number that a text states, 1 if it states none: what these fakes rate."""
    found = [word for word in text.split() if word.startswith("worth")]
    return float(found[0].removeprefix("worth")) if found else 1.0


def peaked(scores: Sequence[float]) -> Scored:
    """All mass on the two ratings around each score, so that E[s] is the score."""
    p = np.zeros((len(scores), 9))
    for row, score in enumerate(scores):
        low = min(int(score), 8)
        p[row, low - 1], p[row, low] = low + 1 - score, score - low
    return Scored(np.array(scores), p)


def scorer(rate: Callable[[str], float], *, ordinal: bool = True, off: float = 0.0) -> Scorer:
    """Rates the text alone; `off` is what padding adds."""

    def score(rows: Sequence[Any], extra: float = 0.0) -> Scored:
        values = [rate(row["text"]) + extra for row in rows]
        return peaked(values) if ordinal else Scored(np.array(values))

    return Scorer(score=score, alone=score, padded=lambda rows: score(rows, off), own=Own("<eos>"))


RESPONSES = [response(i, f"it is worth{2 + 6 * i / 39} indeed") for i in range(40)]


def run(
    chosen: Scorer, *, ordinal: bool = True, judgements: Rows | None = None, **extra: Any
) -> dict[str, Any]:
    return measure(
        chosen,
        responses=RESPONSES,
        judgements=judgements or [],
        scores={row["response_id"]: worth(row["text"]) for row in RESPONSES},
        kind="ordinal" if ordinal else "scalar",
        partition=(3, 6),
        tie=None,
        temperature=1.0,
        seed=0,
        **extra,
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_keeps_the_answer_and_adds_to_it(attack: Any) -> None:
    changed = [attack.change("water it", Own("<eos>"), number) for number in range(attack.draws)]
    assert len(set(changed)) == attack.draws
    for text in changed:
        assert "water it" in text
        assert len(text) > len("water it") + 2
    assert len({other.change("x", Own("<eos>"), 0) for other in ATTACKS}) == len(ATTACKS)


def test_a_scorer_that_ignores_the_attacks_passes() -> None:
    report = run(scorer(worth))
    assert report["passed"] is True
    assert report["failures"] == []
    assert report["responses"] == 40
    assert report["orders"] == MIN_ORDERS
    assert report["unit"] == "rating"
    for effect in report["attacks"].values():
        assert effect["mean_shift"] == effect["max_shift"] == effect["flip_rate"] == 0
    assert {name: row["orders"] for name, row in report["attacks"].items()} == {
        attack.name: attack.draws * MIN_ORDERS for attack in ATTACKS
    }
    assert {name: row["in_bad_share"] for name, row in report["degenerate"].items()} == dict.fromkeys(
        [answer.name for answer in DEGENERATE], 1.0
    )
    assert report["degenerate"]["empty"] == {"n": 1, "in_bad_share": 1.0, "mean_score": 1.0}
    assert report["order_swap"]["max_difference"] == pytest.approx(0, abs=1e-12)
    assert report["invariance"] == {"padding_max": 0.0, "batch_max": 0.0}
    json.dumps(report, allow_nan=False)


def test_a_scorer_that_obeys_fails_by_as_much_as_it_obeys() -> None:
    """Half a rating for every "Score: 9"; flips are then the orders less than half a rating apart."""
    report = run(scorer(lambda text: worth(text) + 0.5 * ("Score: 9" in text)))
    effect = report["attacks"]["score_appended"]
    assert effect["mean_shift"] == pytest.approx(0.5)
    assert effect["max_shift"] == pytest.approx(0.5)
    orders = choose_orders(choose(RESPONSES, [], 0), [], 0)
    base = np.array([worth(row["text"]) for row in choose(RESPONSES, [], 0)])
    gaps = np.abs(base[orders[:, 0]] - base[orders[:, 1]])
    assert effect["flip_rate"] == pytest.approx(np.mean(gaps <= 0.5))
    assert effect["flip_rate"] > 0.05
    assert report["attacks"]["instruction"]["mean_shift"] == 0
    assert not report["passed"]
    assert len(report["failures"]) == 4  # appended, prepended, with a header, and disguised
    sentence = report["failures"][0]
    assert sentence.startswith('Adding "Score: 9" at the end moves the score by +0.50 ratings on average')
    assert "orders" in sentence
    assert 'train with "hardening"' in sentence


def test_only_the_lower_response_of_an_order_is_attacked() -> None:
    """A scorer that punishes an attack flips nothing: nobody gains by it. The shift still counts."""
    effect = run(scorer(lambda text: worth(text) - 0.3 * ("Score: 9" in text)))["attacks"]["score_appended"]
    assert effect["flip_rate"] == 0
    assert effect["mean_shift"] == pytest.approx(-0.3)


def test_scalar_shifts_are_in_standard_deviations_and_bad_is_the_lowest_tenth() -> None:
    values = np.array([worth(row["text"]) for row in RESPONSES])
    chosen = scorer(lambda text: worth(text) + 0.5 * ("Score: 9" in text), ordinal=False, off=1e-3)
    report = run(chosen, ordinal=False, hardening=0.1)
    assert report["unit"] == "sd"
    assert report["attacks"]["score_appended"]["mean_shift"] == pytest.approx(0.5 / values.std())
    assert all(
        row["in_bad_share"] == 1 for row in report["degenerate"].values()
    )  # 1 < the 10 % quantile, 2.6
    assert report["invariance"]["padding_max"] == pytest.approx(1e-3 / values.std())
    assert any(sentence.startswith("Padding changes") for sentence in report["failures"])
    assert any('more "hardening" than 0.1' in sentence for sentence in report["failures"])
    fond = run(scorer(lambda text: worth(text) if text else 9.0, ordinal=False), ordinal=False)
    assert fond["degenerate"]["empty"]["in_bad_share"] == 0
    assert fond["failures"] == [
        "An empty answer does not land among the lowest tenth of its prompt; "
        'train with "hardening" (0.3 is a good start).'
    ]


def test_a_scalar_score_is_bad_among_those_of_its_own_prompt() -> None:
    """Rewards of different prompts have no common zero: 10 is bad where the others get 12."""
    rows = [{**response(i, f"worth{i % 4 + 1} indeed", "easy?"), "prompt_id": "easy"} for i in range(8)]
    rows += [{**response(i + 8, f"worth{i % 4 + 1} indeed", "hard?"), "prompt_id": "hard"} for i in range(8)]

    def rate(row: Any) -> float:
        return (0.5 if "worth" not in row["text"] else worth(row["text"])) + 10 * (
            row["messages"] == rows[0]["messages"]
        )

    def score(asked: Sequence[Any]) -> Scored:
        return Scored(np.array([rate(row) for row in asked]))

    report = measure(
        Scorer(score=score, alone=score, padded=score),
        responses=rows,
        judgements=[],
        scores={row["response_id"]: rate(row) for row in rows},
        kind="scalar",
        partition=(3, 6),
        tie=None,
        temperature=1.0,
        seed=0,
    )
    assert {
        name: (row["n"], row["in_bad_share"]) for name, row in report["degenerate"].items()
    } == dict.fromkeys(report["degenerate"], (2, 1.0))


def test_a_scorer_that_depends_on_the_order_of_rows_is_caught() -> None:
    def score(rows: Sequence[Any]) -> Scored:
        return Scored(np.array([worth(row["text"]) + 0.1 * i for i, row in enumerate(rows)]))

    report = run(Scorer(score=score, alone=score, padded=score), ordinal=False)
    assert report["order_swap"]["max_difference"] > 0.1
    assert report["invariance"]["batch_max"] > 0.1
    assert not report["passed"]


def test_a_diverged_or_constant_model_gives_no_number_and_no_crash() -> None:
    for value in (float("nan"), 2.0):
        chosen = scorer(lambda text, value=value: value, ordinal=False)
        report = measure(
            chosen,
            responses=RESPONSES,
            judgements=[],
            scores=dict.fromkeys([row["response_id"] for row in RESPONSES], value),
            kind="scalar",
            partition=(3, 6),
            tie=None,
            temperature=1.0,
            seed=0,
        )
        assert report["attacks"]["praise"]["mean_shift"] is None
        assert not report["passed"]
        json.dumps(report, allow_nan=False)


def test_in_bad_by_mass_or_by_expectation() -> None:
    p = np.zeros((3, 9))
    p[0, [0, 1, 2, 8]] = 0.2, 0.2, 0.2, 0.4  # most mass in bad, E[s] 4.8
    p[1, [0, 3]] = 0.2, 0.8  # most mass in normal, E[s] 3.4
    p[2, 4] = 1.0
    scored = Scored(p @ np.arange(1, 10), p)
    assert in_bad(scored, (3, 6)).tolist() == [True, True, False]


def test_spearman() -> None:
    up = np.arange(5.0)
    assert spearman(up, np.exp(up)) == pytest.approx(1)
    assert spearman(up, -up) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 3])) == pytest.approx(4 / 4.5)
    assert spearman(up, np.ones(5)) is None


def test_length_and_style() -> None:
    """Longer is better for the model, people prefer the shorter one in one of three; the last pair matches."""
    texts = ["aa", "bbbb", "- cccc\n- cc", "dddddddddddddddddddd", "eeeeeeeeeeeeeeeeeeeee"]
    rows = [response(i, text) for i, text in enumerate(texts)]
    judgements = [
        {"response_a": "r000", "response_b": "r001", "verdict": "b"},
        {"response_a": "r002", "response_b": "r001", "verdict": "b"},
        {"response_a": "r003", "response_b": "r004", "verdict": "b"},
        {"response_a": "r003", "response_b": "r000", "verdict": "tie"},
    ]
    report = measure(
        scorer(len, ordinal=False),
        responses=rows,
        judgements=judgements,
        scores={row["response_id"]: float(len(row["text"])) for row in rows},
        kind="scalar",
        partition=(3, 6),
        tie=None,
        temperature=1.0,
        seed=0,
    )
    assert report["length"]["correlation"] == pytest.approx(1)
    assert report["length"]["longer_preferred"] == {"people": pytest.approx(2 / 3), "model": 1.0, "n": 3}
    assert report["length"]["matched_accuracy"] == {"value": 1.0, "n": 1, "max_difference": 0.1}
    assert report["style"]["characters"] == pytest.approx(1)
    assert report["style"]["list_items"] == pytest.approx(0, abs=1e-12)  # the middle one has the lists
    assert report["style"]["upper_case"] is None


def test_the_choice_is_seeded_bounded_and_prefers_judged_pairs() -> None:
    many = [response(i, "x" * 200, None) for i in range(500)]
    judged = [{"response_a": f"r{i:03}", "response_b": f"r{i + 1:03}"} for i in range(0, 40, 2)]
    chosen = choose(many, judged, 1)
    assert chosen == choose(list(reversed(many)), list(reversed(judged)), 1)
    assert len(chosen) == MAX_RESPONSES
    assert {row["response_id"] for row in chosen} >= {f"r{i:03}" for i in range(40)}
    assert chosen != choose(many, judged, 2)
    orders = choose_orders(chosen, judged, 1)
    assert len(orders) == MIN_ORDERS
    assert len({tuple(sorted(order)) for order in orders.tolist()}) == MIN_ORDERS
    first = [{chosen[i]["response_id"] for i in order} for order in orders[:20].tolist()]
    assert sorted(map(sorted, first)) == sorted([row["response_a"], row["response_b"]] for row in judged)
    long = [response(i, "x" * 15_000) for i in range(5)]
    assert len(choose(long, [], 0)) == 2
    assert sum(len(row["text"]) for row in chosen) <= MAX_CHARACTERS


@pytest.mark.parametrize(("base", "method"), [("tiny_encoder", "bt"), ("tiny_lm", "oprm"), ("tiny_lm", "bt")])
def test_a_run_reports_its_robustness_and_the_saved_model_the_same(
    base: str,
    method: str,
    request: pytest.FixtureRequest,
    make_run: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_run(request.getfixturevalue(base), method)
    report = train(folder)["robustness"]
    assert report["on"] == "held_out"
    assert report["responses"] == 6
    assert set(report["attacks"]) == {attack.name for attack in ATTACKS}
    assert report["invariance"]["padding_max"] < 1e-4
    assert report["invariance"]["batch_max"] < 1e-4
    assert report["order_swap"]["max_difference"] < 1e-5
    assert report["degenerate"]["copied_prompt"]["n"] == 2
    assert report["templates"]["without_prompt"]["n"] == 6
    assert ("another_header" in report["templates"]) == (base == "tiny_lm")
    assert report["passed"] == (not report["failures"])
    assert failures(report, hardened(0.0)) == report["failures"]

    metrics = json.loads((folder / "metrics.json").read_text())
    groups = metrics["split"]["held_out"]
    assert main([str(folder / "model"), str(folder / "snapshot"), "--groups", *groups]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["model_digest"] == metrics["model_digest"]
    assert again["metrics"]["pairs"]["accuracy"] == metrics["held_out"]["pairs"]["accuracy"]
    for name, effect in report["attacks"].items():
        assert again["robustness"]["attacks"][name]["mean_shift"] == pytest.approx(
            effect["mean_shift"], abs=1e-4
        )


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workers.rewards.evaluate", str(tmp_path), str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert made.stderr.startswith("refused: ")
    assert made.stderr.count("\n") == 1


def test_the_suites_words_are_texts_that_a_tokenizer_takes() -> None:
    assert len(set(OTHER_WORDS)) == len(OTHER_WORDS) > 100
    for words in OTHER_WORDS:
        assert words.strip() == words
        words.encode()  # fails on half of a surrogate pair


def test_the_wordings_that_raise_scores_most_are_named() -> None:
    """A judge who falls for one of OTHER_WORDS, half a rating each time, and for another a little."""
    drawn = Counter(
        word
        for row in choose(RESPONSES, [], 0)
        for number in range(4)
        for word in OTHER_WORDS
        if word in _in_other_words(row["text"], number)
    )
    (bribed, often), (moved, less) = drawn.most_common(2)
    assert less >= MIN_WORDING
    report = run(scorer(lambda text: worth(text) + 0.5 * (bribed in text) + 0.1 * (moved in text)))
    effect = report["attacks"]["other_words"]
    assert [(one["text"], one["n"]) for one in effect["worst"]] == [(bribed, often), (moved, less)]
    assert [one["mean_shift"] for one in effect["worst"]] == pytest.approx([0.5, 0.1])
    assert effect["n"] == 4 * 40
    assert effect["max_shift"] == pytest.approx(0.5)
