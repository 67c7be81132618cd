"""The held-out metrics: by hand, against brute force and scikit-learn, and on rows that cannot answer."""

import gzip
import itertools
import json
import math
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from tests.conftest import shared_data
from workers.rewards.evaluation import metrics
from workers.rewards.evaluation.metrics import evaluate_run
from workers.rewards.models import preference
from workers.rewards.scale import LEVELS

Row = dict[str, Any]


def response(name: str, text: str = "x", group: str = "g") -> Row:
    return {
        "response_id": name,
        "prompt_id": group,
        "group": group,
        "messages": "[]",
        "text": text,
        "author": "m",
    }


def judgement(a: str, b: str, verdict: str, annotator: str = "ann") -> Row:
    return {"response_a": a, "response_b": b, "verdict": verdict, "annotator": annotator}


def level(name: str, value: str, annotator: str = "ann") -> Row:
    return {"response_id": name, "level": value, "annotator": annotator}


def run(
    responses: Iterable[Row],
    judgements: Iterable[Row],
    levels: Iterable[Row] = (),
    *,
    scores: dict[str, float] | None = None,
    probs: dict[str, list[float]] | None = None,
    kind: str = "scalar",
    tie: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    if scores is None:
        assert probs is not None
        scores = {name: float(np.dot(p, np.arange(1, 10))) for name, p in probs.items()}
    defaults = {"temperature": 1.0, "partition": (3, 6), "seed": 0}
    held_out = evaluate_run(
        responses=list(responses),
        judgements=list(judgements),
        levels=list(levels),
        scores=scores,
        probs=probs,
        kind=kind,
        tie=tie,
        **{**defaults, **options},
    )
    json.dumps(held_out, allow_nan=False)  # what cannot be computed is null, never NaN
    return held_out


def random_rows(seed: int) -> tuple[list[Row], list[Row], list[Row], dict[str, list[float]]]:
    """Forty responses in five groups, 300 judgements by six people, 80 labels, rating distributions."""
    rng = random.Random(seed)
    rows = [response(f"r{i:03}", "x" * rng.randrange(1, 300), f"g{i % 5}") for i in range(40)]
    judged = []
    for _ in range(300):
        group = rng.randrange(5)
        a, b = (row["response_id"] for row in rng.sample(rows[group::5], 2))
        verdict = rng.choice(["a", "a", "a", "b", "b", "b", "tie", "both_bad"])
        judged.append(judgement(a, b, verdict, f"ann{rng.randrange(6)}"))
    labels = [level(rng.choice(rows)["response_id"], rng.choice(LEVELS)) for _ in range(80)]
    draw = np.random.default_rng(seed)
    probs = {row["response_id"]: draw.dirichlet(np.ones(9)).tolist() for row in rows}
    return rows, judged, labels, probs


def close(found: Any, wanted: Any) -> bool:
    """Equal up to rounding, through nested dicts and lists."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == (pytest.approx(wanted, abs=1e-12) if isinstance(wanted, float) else wanted)


class TestProbabilities:
    def test_scalar_is_the_written_formula(self) -> None:
        d, eta, temperature = np.linspace(-6, 6, 25), 0.7, 1.8
        p_a, p_b, p_tie = preference.scalar_probabilities(d, tie=eta, temperature=temperature)
        z = d / temperature
        assert np.allclose(p_a, 1 / (1 + np.exp(-(z - eta))))
        assert np.allclose(p_b, 1 / (1 + np.exp(-(-z - eta))))
        assert np.allclose(p_a + p_b + p_tie, 1.0)
        assert np.allclose(
            preference.scalar_p_preferred(d, tie=eta, temperature=temperature), p_a + p_tie / 2
        )

    def test_scalar_without_ties_is_bradley_terry(self) -> None:
        p_a, p_b, p_tie = preference.scalar_probabilities(np.array([math.log(3), -800.0, 800.0]))
        assert p_a.tolist() == pytest.approx([0.75, 0.0, 1.0])
        assert np.all(p_tie == 0)
        assert np.allclose(p_a + p_b, 1.0)

    def test_ordinal_is_the_double_sum(self) -> None:
        rng = np.random.default_rng(1)
        p, q = rng.dirichlet(np.ones(9), 4), rng.dirichlet(np.ones(9), 4)
        wins, losses, ties = preference.ordinal_probabilities(p, q)
        for n in range(4):
            matrix = np.outer(p[n], q[n])  # rows: rating of a
            assert wins[n] == pytest.approx(np.tril(matrix, -1).sum())
            assert losses[n] == pytest.approx(np.triu(matrix, 1).sum())
            assert ties[n] == pytest.approx(np.trace(matrix))
        swapped = preference.ordinal_p_preferred(q, p)
        assert np.allclose(preference.ordinal_p_preferred(p, q) + swapped, 1.0)

    def test_uniform_ratings_win_four_ninths(self) -> None:
        uniform = np.full((1, 9), 1 / 9)
        wins, _, ties = preference.ordinal_probabilities(uniform, uniform)
        assert wins[0] == pytest.approx(36 / 81)
        assert ties[0] == pytest.approx(9 / 81)
        assert -math.log(wins[0]) == pytest.approx(0.8109, abs=1e-4)  # "none" at uniform p

    @pytest.mark.parametrize(
        "arguments", [{"temperature": 0.0}, {"temperature": float("nan")}, {"tie": -0.1}]
    )
    def test_nonsense_parameters_are_refused(self, arguments: dict[str, float]) -> None:
        with pytest.raises(ValueError):
            preference.scalar_probabilities(np.array([1.0]), **arguments)


class TestPairs:
    def test_a_small_case_by_hand(self) -> None:
        rows = [response("p", "x" * 100), response("q", "x" * 130), response("r", "x" * 300, "h")]
        rows.append(response("s", "x" * 300, "h"))
        judged = [
            judgement("p", "q", "a", "1"),
            judgement("q", "p", "b", "2"),  # the same pair, other way round, also for p
            judgement("p", "q", "tie", "3"),
            judgement("r", "s", "b", "1"),
            judgement("r", "s", "both_bad", "2"),
        ]
        d = math.log(3)
        pairs = run(rows, judged, scores={"p": d, "q": 0.0, "r": 1.0, "s": 1.0})["pairs"]

        assert (pairs["n"], pairs["groups"]) == (2, 2)
        assert pairs["accuracy"]["value"] == pytest.approx((1 + 1 + 0.5) / 3)
        assert pairs["accuracy"]["n"] == 3
        assert pairs["model_ties"] == 1
        assert pairs["model_tie_share"] == {"value": pytest.approx(1 / 3), "n": 3}
        assert pairs["length_baseline"]["value"] == pytest.approx((0 + 0 + 0.5) / 3)
        assert pairs["over_length"]["value"] == pytest.approx(2 / 3)
        # every draw of the two groups: both the first, both the second, one of each
        assert (pairs["over_length"]["low"], pairs["over_length"]["high"]) == (0.0, 1.0)
        assert pairs["near_equal_length"] == pairs["accuracy"] | {"max_difference": 60}
        assert pairs["human_ties"] == {"n": 1, "mean_p_tie": None}  # plain Bradley-Terry knows no ties
        # 1 and 2 agree on p; on (r, s) the other vote leans nowhere.
        assert pairs["human_ceiling"] == {"value": pytest.approx((1 + 1 + 0.5) / 3), "n": 3}

        q1, q2 = 2.5 / 3, 0.25  # votes for p of (p, q), and for r of (r, s)
        entropy = [-q * math.log(q) - (1 - q) * math.log(1 - q) for q in (q1, q2)]
        crossed = [-q1 * math.log(0.75) - (1 - q1) * math.log(0.25), math.log(2)]
        assert pairs["nll"]["value"] == pytest.approx(sum(crossed) / 2)
        assert pairs["nll"]["n"] == 2
        assert pairs["nll"]["floor"] == pytest.approx(sum(entropy) / 2)
        brier = [q1 * 0.25**2 + (1 - q1) * 0.75**2, 0.25]
        assert pairs["brier"]["value"] == pytest.approx(sum(brier) / 2)
        assert pairs["brier"]["floor"] == pytest.approx((q1 * (1 - q1) + q2 * (1 - q2)) / 2)
        # the pair at even odds is right on average, whoever of the two is named first
        assert pairs["ece"]["value"] == pytest.approx(abs(0.75 - q1) / 2)
        filled = [one for one in pairs["ece"]["bins"] if one["n"]]
        # each pair from both of its sides; even odds are the same bin twice
        assert [(one["low"], one["high"], one["n"]) for one in filled] == [
            (0.2, 0.3, 1), (0.5, 0.6, 2), (0.7, 0.8, 1)
        ]  # fmt: skip
        assert [one["observed"] for one in filled] == pytest.approx([1 - q1, 0.5, q1])
        assert pairs["ece"]["n"] == 2
        assert len(pairs["ece"]["bins"]) == 10
        assert pairs["ece"]["bins"][0]["predicted"] is None

    def test_length_cut_is_under_sixty_characters(self) -> None:
        rows = [response("a", "x" * 10), response("b", "x" * 69), response("c", "x" * 70)]
        scores = {"a": 1.0, "b": 0.0, "c": 0.0}
        near = run(rows, [judgement("a", "b", "a"), judgement("a", "c", "b")], scores=scores)["pairs"][
            "near_equal_length"
        ]
        assert (near["value"], near["n"]) == (1.0, 1)
        assert run(rows, [judgement("a", "c", "b")], scores=scores)["pairs"]["near_equal_length"] is None

    def test_human_ties_are_scored_by_the_models_own_tie_probability(self) -> None:
        rows, judged = (
            [response("a"), response("b")],
            [judgement("a", "b", "tie"), judgement("a", "b", "a", "other")],
        )
        eta, z = 0.5, 2.0 / 4.0
        ties = run(rows, judged, scores={"a": 2.0, "b": 0.0}, tie=eta, temperature=4.0)["pairs"]["human_ties"]
        expected = 1 - 1 / (1 + math.exp(-(z - eta))) - 1 / (1 + math.exp(-(-z - eta)))
        assert ties == {"n": 1, "mean_p_tie": pytest.approx(expected)}

        uniform = {"a": [1 / 9] * 9, "b": [1 / 9] * 9}
        pairs = run(rows, judged, probs=uniform, kind="ordinal")["pairs"]
        assert pairs["human_ties"]["mean_p_tie"] == pytest.approx(1 / 9)
        assert pairs["model_ties"] == 1
        assert pairs["accuracy"]["value"] == 0.5

    def test_against_brute_force(self) -> None:
        rows, judged, _, probs = random_rows(7)
        by_id = {row["response_id"]: row for row in rows}
        expected = {name: np.dot(p, np.arange(1, 10)) for name, p in probs.items()}
        pairs = run(rows, judged, probs=probs, kind="ordinal")["pairs"]

        right, by_length, human = [], [], []
        votes: dict[tuple[str, str], list[tuple[float, str]]] = {}
        for row in judged:
            a, b, verdict = row["response_a"], row["response_b"], row["verdict"]
            swap = a > b
            vote = {"a": 1.0, "b": 0.0}.get(verdict, 0.5)
            votes.setdefault((b, a) if swap else (a, b), []).append(
                (1 - vote if swap else vote, row["annotator"])
            )
            if verdict in "ab":
                right.append(float((expected[a] > expected[b]) == (verdict == "a")))
                longer = len(by_id[a]["text"]) - len(by_id[b]["text"])
                by_length.append(0.5 if longer == 0 else float((longer > 0) == (verdict == "a")))
        for pair in votes.values():
            for vote, annotator in pair:
                others = [other - 0.5 for other, name in pair if name != annotator]
                if vote != 0.5 and others:
                    human.append(0.5 if sum(others) == 0 else float((sum(others) > 0) == (vote > 0.5)))
        nll = []
        for (first, second), pair in votes.items():
            share = sum(vote for vote, _ in pair) / len(pair)
            matrix = np.outer(probs[first], probs[second])
            p = np.tril(matrix, -1).sum() + np.trace(matrix) / 2
            nll.append(-share * math.log(p) - (1 - share) * math.log(1 - p))

        assert pairs["n"] == len(votes)
        assert pairs["accuracy"]["value"] == pytest.approx(np.mean(right))
        assert pairs["accuracy"]["n"] == len(right)
        assert pairs["length_baseline"]["value"] == pytest.approx(np.mean(by_length))
        assert pairs["human_ceiling"] == {"value": pytest.approx(np.mean(human)), "n": len(human)}
        assert pairs["nll"]["value"] == pytest.approx(np.mean(nll))

    @pytest.mark.parametrize("kind", ["scalar", "ordinal"])
    def test_neither_row_order_nor_side_matters(self, kind: str) -> None:
        rows, judged, labels, probs = random_rows(11)
        turned = {"a": "b", "b": "a"}
        swapped = [
            row
            | {"response_a": row["response_b"], "response_b": row["response_a"], "verdict": turned.get(v, v)}
            for row in judged
            for v in [row["verdict"]]
        ]
        for some in (rows, swapped, labels):
            random.Random(0).shuffle(some)
        plain = run(*random_rows(11)[:3], probs=probs, kind=kind, tie=0.3)
        assert close(run(rows, swapped, labels, probs=probs, kind=kind, tie=0.3), plain)

    def test_forecasting_the_shares_reaches_the_floor(self) -> None:
        rows = [response(name) for name in "abc"]
        judged = [judgement("a", "b", v, str(i)) for i, v in enumerate("aaab")]
        judged += [judgement("b", "c", v, str(i)) for i, v in enumerate("aab")]
        scores = {"a": math.log(3) + math.log(2), "b": math.log(2), "c": 0.0}
        pairs = run(rows, judged, scores=scores)["pairs"]
        assert pairs["nll"]["value"] == pytest.approx(pairs["nll"]["floor"])
        assert pairs["brier"]["value"] == pytest.approx(pairs["brier"]["floor"])
        assert pairs["ece"]["value"] == pytest.approx(0.0, abs=1e-12)

    def test_people_of_one_voice_reach_the_ceiling(self) -> None:
        judged = [judgement("a", "b", "a", str(i)) for i in range(3)] + [judgement("a", "c", "b", "1")]
        assert metrics.human_ceiling(judged) == {"value": 1.0, "n": 3}
        assert metrics.human_ceiling(judged[-1:]) is None
        assert metrics.human_ceiling([]) is None

    def test_own_repeated_votes_do_not_predict_oneself(self) -> None:
        judged = [judgement("a", "b", "a", "1"), judgement("a", "b", "a", "1"), judgement("a", "b", "b", "2")]
        assert metrics.human_ceiling(judged) == {"value": 0.0, "n": 3}


def test_calibration_bins_hold_their_lower_edge() -> None:
    predicted = np.arange(11) / 10
    bins = metrics.expected_calibration_error(predicted, predicted)["bins"]
    assert [one["n"] for one in bins] == [1] * 9 + [2]
    assert [one["low"] for one in bins] == predicted[:-1].tolist()


@pytest.mark.parametrize("kind", ["scalar", "ordinal"])
def test_other_names_of_the_responses_change_no_figure(kind: str) -> None:
    """Which response of a pair sorts first is chance, or worse: ids often tell which model wrote what."""
    rows, judged, labels, probs = random_rows(31)
    new = {row["response_id"]: f"{number:03d}" for number, row in enumerate(reversed(rows))}
    renamed = [row | {"response_id": new[row["response_id"]]} for row in rows]
    again = [row | {side: new[row[side]] for side in ("response_a", "response_b")} for row in judged]
    marks = [row | {"response_id": new[row["response_id"]]} for row in labels]
    plain = run(rows, judged, labels, probs=probs, kind=kind, tie=0.3)["pairs"]
    other = run(renamed, again, marks, probs={new[name]: p for name, p in probs.items()}, kind=kind, tie=0.3)[
        "pairs"
    ]
    for name in ("nll", "brier", "ece", "ece_equal_mass"):
        assert other[name]["value"] == pytest.approx(plain[name]["value"], abs=1e-12), name
    assert [one["n"] for one in other["ece"]["bins"]] == [one["n"] for one in plain["ece"]["bins"]]


class TestEqualMass:
    def test_bins_hold_equally_many_and_equal_predictions_stay_together(self) -> None:
        rng = np.random.default_rng(0)
        predicted, observed = rng.beta(8, 2, 1000), rng.random(1000)
        found = metrics.equal_mass_calibration_error(predicted, observed)
        assert [one["n"] for one in found["bins"]] == [100] * 10
        order = np.argsort(predicted)
        gaps = [abs(predicted[k].mean() - observed[k].mean()) / 10 for k in np.split(order, 10)]
        assert found["value"] == pytest.approx(sum(gaps))
        assert found["bins"][3]["low"] == predicted[order[300]]
        assert found["bins"][3]["high"] == predicted[order[399]]

        coarse = np.round(predicted, 1)
        some = metrics.equal_mass_calibration_error(coarse, observed)
        shuffled = rng.permutation(1000)
        assert close(metrics.equal_mass_calibration_error(coarse[shuffled], observed[shuffled]), some)
        assert sum(one["n"] for one in some["bins"]) == 1000
        assert all(one["high"] < other["low"] for one, other in itertools.pairwise(some["bins"]))

    def test_nothing_and_not_a_number(self) -> None:
        empty = metrics.equal_mass_calibration_error(np.array([]), np.array([]))
        assert empty == {"value": None, "n": 0, "bins": []}
        broken = metrics.equal_mass_calibration_error(np.array([0.5, np.nan]), np.array([1.0, 0.0]))
        assert broken["value"] is None
        assert [one["n"] for one in broken["bins"]] == [1]


@pytest.mark.parametrize("kind", ["scalar", "ordinal"])
def test_metrics_are_sums_so_parts_add_up_to_the_whole(kind: str) -> None:
    """However held-out rows are split, batched or sharded by pair, the weighted mean of the parts is the whole."""
    rows, judged, labels, probs = random_rows(23)
    halves: list[list[Row]] = [[], []]
    for row in judged:
        halves[hash(frozenset((row["response_a"], row["response_b"]))) % 2].append(row)
    whole = run(rows, judged, labels, probs=probs, kind=kind, tie=0.3)
    parts = [run(rows, half, labels[i::2], probs=probs, kind=kind, tie=0.3) for i, half in enumerate(halves)]

    def joined(name: str, value: str = "value", n: str = "n") -> float:
        of_parts = [part["pairs"][name] for part in parts]
        return sum(one[value] * one[n] for one in of_parts) / sum(one[n] for one in of_parts)

    for name in ("accuracy", "length_baseline", "near_equal_length", "nll", "brier", "human_ceiling"):
        assert joined(name) == pytest.approx(whole["pairs"][name]["value"], abs=1e-12), name
    assert joined("nll", "floor") == pytest.approx(whole["pairs"]["nll"]["floor"])
    for k, one in enumerate(whole["pairs"]["ece"]["bins"]):
        assert sum(part["pairs"]["ece"]["bins"][k]["n"] for part in parts) == one["n"]
    if kind == "ordinal":
        for name in ("accuracy", "rps", "coverage"):
            of_parts = [part["levels"] for part in parts]
            mean = sum(one[name] * one["n"] for one in of_parts) / len(labels)
            assert mean == pytest.approx(whole["levels"][name], abs=1e-12)


class TestClusteredMean:
    def test_interval_has_the_width_of_the_clusters_not_of_the_rows(self) -> None:
        rng = np.random.default_rng(0)
        per_cluster = rng.random(200)
        values, clusters = np.repeat(per_cluster, 50), np.repeat(np.arange(200), 50)
        found = metrics.clustered_mean(values, clusters, seed=1)
        half_width = 1.96 * per_cluster.std(ddof=1) / math.sqrt(200)
        assert found["value"] == pytest.approx(per_cluster.mean())
        assert found["n"] == 10_000
        assert found["high"] - found["low"] == pytest.approx(2 * half_width, rel=0.1)
        assert found["low"] < found["value"] < found["high"]

    def test_interval_holds_the_truth_about_nineteen_times_in_twenty(self) -> None:
        rng = np.random.default_rng(5)
        held = 0
        for trial in range(200):
            sizes = rng.integers(1, 20, size=60)
            quality = rng.beta(6, 4, size=60)
            values = np.concatenate([rng.random(n) < q for n, q in zip(sizes, quality, strict=True)]).astype(
                float
            )
            found = metrics.clustered_mean(
                values, np.repeat(np.arange(60), sizes), seed=trial, replicates=400
            )
            held += found["low"] <= 0.6 <= found["high"]
        assert 178 <= held <= 199

    def test_same_seed_same_interval(self) -> None:
        values, clusters = np.random.default_rng(0).random(50), np.arange(50) % 9
        assert metrics.clustered_mean(values, clusters, seed=4) == metrics.clustered_mean(
            values, clusters, seed=4
        )
        assert metrics.clustered_mean(values, clusters, seed=4) != metrics.clustered_mean(
            values, clusters, seed=5
        )

    def test_one_cluster_has_no_interval_and_no_row_no_value(self) -> None:
        one = metrics.clustered_mean(np.array([1.0, 0.0]), np.array([3, 3]), seed=0)
        assert one == {"value": 0.5, "low": None, "high": None, "n": 2}
        none = metrics.clustered_mean(np.array([]), np.array([], dtype=np.int64), seed=0)
        assert none == {"value": None, "low": None, "high": None, "n": 0}


class TestLevels:
    def test_a_small_case_by_hand(self) -> None:
        sure_bad, sure_good = [1.0] + [0.0] * 8, [0.0] * 8 + [1.0]
        spread = [
            0.05,
            0,
            0,
            0.5,
            0,
            0,
            0.45,
            0,
            0,
        ]  # .05 bad, .5 normal, .45 good: central 80 % is normal..good
        probs = {"a": sure_bad, "b": sure_good, "c": spread}
        labels = [level("a", "bad"), level("b", "bad"), level("c", "good"), level("c", "bad")]
        found = run([response(name) for name in "abc"], [], labels, probs=probs, kind="ordinal")
        assert found["pairs"] is None
        assert found["levels"]["n"] == 4
        assert found["levels"]["accuracy"] == 0.25
        rps = [0, (1 + 1) / 2, (0.05**2 + 0.55**2) / 2, (0.95**2 + 0.45**2) / 2]
        assert found["levels"]["rps"] == pytest.approx(np.mean(rps))
        assert found["levels"]["coverage"] == 0.5  # a's bad and c's good
        # good label scores E[s] = 5.2; bad labels 1, 9 and 5.2: one below, one above, one equal.
        assert found["auroc_good_bad"] == {"value": pytest.approx(0.5), "n": 4}

    def test_against_scikit_learn(self) -> None:
        rows, judged, labels, probs = random_rows(3)
        found = run(rows, judged, labels, probs=probs, kind="ordinal", partition=(2, 7))
        truth = [LEVELS.index(row["level"]) for row in labels]
        mass = [np.add.reduceat(probs[row["response_id"]], [0, 2, 7]) for row in labels]
        kappa = cohen_kappa_score(np.argmax(mass, axis=1), truth, weights="quadratic")
        assert found["levels"]["quadratic_kappa"] == pytest.approx(kappa)
        expected = [np.dot(probs[row["response_id"]], np.arange(1, 10)) for row in labels]
        ends = [(t == 2, e) for t, e in zip(truth, expected, strict=True) if t != 1]
        assert found["auroc_good_bad"]["n"] == len(ends)
        assert found["auroc_good_bad"]["value"] == pytest.approx(roc_auc_score(*np.transpose(ends)))

    def test_auroc_counts_equal_scores_half(self) -> None:
        rng = np.random.default_rng(2)
        scores, positive = rng.integers(0, 5, 200), rng.random(200) < 0.4
        assert metrics.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
        assert metrics.auroc([1.0, 1.0], [True, False]) == 0.5

    def test_coverage_of_a_calibrated_model_is_at_least_its_nominal_mass(self) -> None:
        rng = np.random.default_rng(8)
        p = rng.dirichlet(np.full(9, 0.7), 20_000)
        rating = (p.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
        assert (
            0.8
            <= metrics.level_scores(metrics.level_masses(p, (3, 6)), np.minimum(rating, 8) // 3)["coverage"]
            < 0.99
        )

    def test_scalar_models_have_no_levels_but_an_auroc(self) -> None:
        labels = [level("a", "good"), level("b", "bad"), level("b", "normal")]
        found = run([response("a"), response("b")], [], labels, scores={"a": 1.0, "b": 0.0})
        assert found == {"pairs": None, "levels": None, "auroc_good_bad": {"value": 1.0, "n": 2}}

    def test_no_label_has_no_score(self) -> None:
        found = metrics.level_scores([], [])
        assert found == {"n": 0, "accuracy": None, "quadratic_kappa": None, "rps": None, "coverage": None}

    def test_one_level_throughout_has_no_kappa_and_no_auroc(self) -> None:
        p = {"a": [0.0] * 8 + [1.0]}
        found = run([response("a")], [], [level("a", "good")] * 3, probs=p, kind="ordinal")
        assert found["levels"]["quadratic_kappa"] is None
        assert found["levels"]["accuracy"] == 1.0
        assert found["auroc_good_bad"] is None


class TestWhatTheGateAsks:
    def test_over_length_is_paired(self) -> None:
        """Right and wrong with length on the same judgements: a difference of nothing, without any spread."""
        rows, judged, _, _ = random_rows(3)
        by_length = {row["response_id"]: float(len(row["text"])) for row in rows}
        pairs = run(rows, judged, scores=by_length)["pairs"]
        decisive = sum(row["verdict"] in ("a", "b") for row in judged)
        assert pairs["over_length"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": decisive}
        opposite = run(rows, judged, scores={name: -value for name, value in by_length.items()})["pairs"]
        assert opposite["over_length"]["value"] == pytest.approx(
            opposite["accuracy"]["value"] - opposite["length_baseline"]["value"]
        )

    def test_peaks(self) -> None:
        comb, ends, plateaus = (
            [3, 1, 3, 1, 3, 1, 3, 1, 3],
            [4, 1, 0, 0, 0, 0, 0, 1, 4],
            [1, 2, 2, 1, 1, 3, 3, 0, 0],
        )
        hill, falling, uniform = [1, 2, 3, 4, 5, 4, 3, 2, 1], list(range(9, 0, -1)), [1] * 9
        assert metrics.peaks([comb, ends, plateaus, hill, falling, uniform]).tolist() == [5, 2, 2, 1, 1, 1]

    def test_spread(self) -> None:
        p, other = [0.0] * 8 + [1.0], [1.0] + [0.0] * 8
        rows = [{"score": 1.0, "p": p}, {"score": 3.0, "p": p}]
        peaks = {"value": 1.0, "n": 2}
        assert metrics.score_spread(rows) == {"value": 1.0, "n": 2, "ratings": 1, "peaks": peaks}
        assert metrics.score_spread([*rows, {"score": 2.0, "p": other}])["ratings"] == 2
        unknown = {"ratings": None, "peaks": None}
        assert metrics.score_spread([{"score": 1.0, "p": None}]) == {"value": 0.0, "n": 1, **unknown}
        assert metrics.score_spread([]) == {"value": None, "n": 0, **unknown}
        assert metrics.score_spread([{"score": float("nan"), "p": None}])["value"] is None

    def test_first_and_last_tenth_of_the_losses(self) -> None:
        assert metrics.first_and_last([]) is metrics.first_and_last([0.7]) is None
        assert metrics.first_and_last([0.7, 0.6, 0.5]) == {"first": 0.7, "last": 0.5}
        thirty = metrics.first_and_last([3.0, 2.0, 1.0, *[0.5] * 24, 0.3, 0.2, 0.1])
        assert thirty == {"first": pytest.approx(2.0), "last": pytest.approx(0.2)}


class TestWhatCannotBeComputed:
    def test_no_rows(self) -> None:
        assert run([], [], scores={}) == {"pairs": None, "levels": None, "auroc_good_bad": None}

    def test_no_decisive_judgement(self) -> None:
        pairs = run(
            [response("a"), response("b")], [judgement("a", "b", "tie")], scores={"a": 1.0, "b": 0.0}
        )["pairs"]
        nothing = {"value": None, "low": None, "high": None, "n": 0}
        assert pairs["accuracy"] == nothing
        assert pairs["length_baseline"] == pairs["over_length"] == nothing
        assert pairs["model_tie_share"] == {"value": None, "n": 0}
        assert pairs["near_equal_length"] is None
        assert pairs["human_ceiling"] is None
        assert pairs["nll"]["n"] == 1
        assert pairs["nll"]["floor"] == pytest.approx(math.log(2))

    @pytest.mark.parametrize("kind", ["scalar", "ordinal"])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_diverged_model_gives_null_beside_what_people_alone_give(self, kind: str, bad: float) -> None:
        rows, judged, labels, probs = random_rows(5)
        scores = dict.fromkeys(probs, bad)
        broken = {name: [bad] * 9 for name in probs}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = run(rows, judged, labels, scores=scores, probs=broken, kind=kind, tie=0.2)
        pairs = found["pairs"]
        assert pairs["accuracy"]["value"] is pairs["accuracy"]["low"] is pairs["nll"]["value"] is None
        assert pairs["brier"]["value"] is pairs["ece"]["value"] is pairs["human_ties"]["mean_p_tie"] is None
        assert pairs["length_baseline"]["value"] > 0
        assert pairs["human_ceiling"]["value"] > 0
        assert pairs["nll"]["floor"] > 0
        if kind == "ordinal":
            levels = found["levels"]
            assert levels["constant"]["value"] > 0
            assert levels["over_constant"]["value"] is levels["rps_gain"]["value"] is None
            assert {value for value in levels.values() if not isinstance(value, dict)} == {len(labels), None}

    def test_a_confident_wrong_model_costs_a_finite_amount(self) -> None:
        rows, judged = [response("a"), response("b")], [judgement("a", "b", "a")]
        nll = run(rows, judged, scores={"a": -1e6, "b": 1e6})["pairs"]["nll"]
        assert nll["value"] == pytest.approx(-math.log(metrics.SMALLEST_P))
        assert nll["floor"] == pytest.approx(0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"judgements": [judgement("a", "b", "skip")]},
                "verdict must be one of a, b, tie, both_bad, not 'skip'",
            ),
            ({"judgements": [judgement("a", "z", "a")]}, "response 'z' has no row in responses"),
            ({"scores": {"a": 1.0}}, "response 'b' has no score"),
            ({"levels": [level("a", "great")]}, "level must be one of bad, normal, good, not 'great'"),
            ({"kind": "pairwise"}, "kind must be scalar or ordinal"),
            ({"kind": "ordinal"}, "probs is None"),
            ({"kind": "ordinal", "probs": {"a": [1 / 9] * 9}}, "response 'b' has no rating distribution"),
        ],
    )
    def test_nonsense_is_refused_by_name(self, change: dict[str, Any], message: str) -> None:
        arguments = {
            "responses": [response("a"), response("b")],
            "judgements": [judgement("a", "b", "a")],
            "levels": [],
            "scores": {"a": 1.0, "b": 0.0},
            "probs": None,
            "kind": "scalar",
            "tie": None,
            "temperature": 1.0,
            "partition": (3, 6),
            "seed": 0,
        }
        with pytest.raises(ValueError, match=message):
            evaluate_run(**{**arguments, **change})

    @pytest.mark.parametrize("partition", [(0, 6), (3, 3), (6, 3), (3, 9)])
    def test_a_level_without_ratings_is_refused(self, partition: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="partition"):
            metrics.level_masses(np.full((1, 9), 1 / 9), partition)


def test_longer_wins_on_ukp_strict_as_published_with_the_data() -> None:
    with gzip.open(shared_data("ukp_convarg1", "strict.jsonl.gz"), "rt", encoding="utf-8") as lines:
        strict = [json.loads(line) for line in lines]
    # Texts stand in for ids here; a text belongs to its topic.
    texts = {(row["topic"], row[side]) for row in strict for side in ("response_a", "response_b")}
    rows = [response(f"{topic}|{text}", text, topic) for topic, text in sorted(texts)]
    judged = [
        judgement(f"{row['topic']}|{row['response_a']}", f"{row['topic']}|{row['response_b']}", row["label"])
        for row in strict
    ]
    pairs = run(rows, judged, scores={row["response_id"]: float(len(row["text"])) for row in rows})["pairs"]
    assert pairs["length_baseline"]["n"] == 11_650
    assert pairs["groups"] == 32
    assert pairs["length_baseline"]["value"] == pytest.approx(0.772, abs=0.0005)
    assert pairs["accuracy"] == pairs["length_baseline"]  # the same predictor, the same clusters
    assert pairs["near_equal_length"]["value"] == pytest.approx(0.615, abs=0.0005)  # little is left


def test_metrics_need_no_torch() -> None:
    code = "import sys, workers.rewards.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_hundred_thousand_judgements_take_seconds() -> None:
    rng = np.random.default_rng(0)
    rows = [response(f"r{i}", "x" * int(n), f"g{i // 4}") for i, n in enumerate(rng.integers(1, 900, 20_000))]
    a = rng.integers(0, 20_000, 100_000)
    b = a - a % 4 + (a + 1) % 4
    verdicts = rng.choice(["a", "b", "tie"], 100_000)
    judged = [judgement(f"r{i}", f"r{j}", v, f"ann{i % 50}") for i, j, v in zip(a, b, verdicts, strict=True)]
    probs = {f"r{i}": p for i, p in enumerate(rng.dirichlet(np.ones(9), 20_000).tolist())}
    scores = {name: sum(p) for name, p in probs.items()}
    start = time.perf_counter()
    pairs = run(rows, judged, scores=scores, probs=probs, kind="ordinal")["pairs"]
    assert time.perf_counter() - start < 20  # about 1 s on an idle core
    assert pairs["groups"] == 5_000
    assert pairs["accuracy"]["low"] < pairs["accuracy"]["high"]
