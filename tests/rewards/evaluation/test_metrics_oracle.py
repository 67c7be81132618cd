"""The pair metrics against scikit-learn's, on hard verdicts and on vote shares (as weighted rows)."""

import random
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from workers.rewards.evaluation import metrics

Row = dict[str, Any]


def forecasts(seed: int, votes: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Metrics of 400 random pairs with `votes` verdicts each; P(first preferred) and verdicts row by row."""
    rng = random.Random(seed)
    score: dict[str, float] = {}
    responses: list[Row] = []
    judgements: list[Row] = []
    p, verdicts = [], []
    for pair in range(400):
        a, b = f"{pair:03}-a", f"{pair:03}-b"
        score |= {a: rng.gauss(0, 1.5), b: rng.gauss(0, 1.5)}
        responses += [
            {"response_id": name, "text": "x" * rng.randint(1, 300), "group": f"g{pair % 20}"}
            for name in (a, b)
        ]
        prefers_a = 1 / (1 + np.exp(score[b] - score[a]))
        for vote in range(votes):
            verdict = "a" if rng.random() < 0.2 + 0.6 * prefers_a else "b"
            judgements.append({"response_a": a, "response_b": b, "verdict": verdict, "annotator": f"u{vote}"})
            p.append(prefers_a)
            verdicts.append(int(verdict == "a"))
    found = metrics.evaluate_run(
        responses=responses,
        judgements=judgements,
        levels=[],
        scores=score,
        probs=None,
        kind="scalar",
        tie=None,
        temperature=1.0,
        partition=(3, 6),
        seed=0,
    )
    return found["pairs"], np.array(p), np.array(verdicts)


@pytest.mark.parametrize("votes", [1, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_accuracy_log_loss_and_brier_are_scikit_learns(seed: int, votes: int) -> None:
    """With as many votes on every pair, the mean over pairs of the shares' scores is that over the votes."""
    pairs, p, verdicts = forecasts(seed, votes)
    assert pairs["n"] == 400
    assert pairs["accuracy"]["value"] == pytest.approx(accuracy_score(verdicts, p > 0.5))
    assert pairs["nll"]["value"] == pytest.approx(log_loss(verdicts, p))
    assert pairs["brier"]["value"] == pytest.approx(brier_score_loss(verdicts, p))


def test_calibration_is_scikit_learns_curve() -> None:
    pairs, p, verdicts = forecasts(3, 1)
    filled = [row for row in pairs["ece"]["bins"] if row["n"]]
    sides = np.concatenate([verdicts, 1 - verdicts]), np.concatenate([p, 1 - p])
    observed, predicted = calibration_curve(*sides, n_bins=len(pairs["ece"]["bins"]))
    assert [row["observed"] for row in filled] == pytest.approx(observed)
    assert [row["predicted"] for row in filled] == pytest.approx(predicted)
    sizes = np.array([row["n"] for row in filled])
    assert pairs["ece"]["value"] == pytest.approx(np.abs(observed - predicted) @ sizes / 800)


def test_auroc_with_many_equal_scores_is_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    scores, positive = rng.integers(0, 6, 300) / 3, rng.random(300) < 0.3
    assert metrics.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_a_judgement_of_weight_three_is_three_votes() -> None:
    row = {"response_a": "x", "response_b": "y", "annotator": "u"}
    weighted = [{**row, "verdict": "a", "weight": 3.0}, {**row, "verdict": "b"}, {**row, "verdict": "tie"}]
    repeated = [{**row, "verdict": verdict} for verdict in ("a", "a", "a", "b", "tie")]
    shares = [metrics.pair_votes(judgements).share.tolist() for judgements in (weighted, repeated)]
    assert shares[0] == shares[1] == pytest.approx([0.7])
