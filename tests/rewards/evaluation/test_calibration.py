"""Calibration: what is fitted, that the order stays, that the figures are honest, and that every reader applies it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from webapp.ratings.probabilities import ordinal_outcome, scalar_outcome
from workers.rewards.artifacts.save import CONFIG_NAME, ArtifactError, load_model
from workers.rewards.evaluation import metrics
from workers.rewards.evaluation.calibrate import (
    FOLDS,
    MIN_LABELS,
    PRIOR_SD,
    _fisher_scoring,
    _sample,
    calibrate,
)
from workers.rewards.models import preference
from workers.rewards.models.calibration import Calibration
from workers.rewards.models.predict import score_responses
from workers.rewards.training.loop import train

Row = dict[str, Any]
MakeRun = Callable[..., Path]
RATINGS = np.arange(1, 10)
BETA = Calibration("beta_cdf", {"a": 0.6, "b": 0.8, "c": 0.3})


def made(
    groups: int = 8, per_group: int = 12, votes: int = 3, *, ordinal: bool, sharpness: float, seed: int = 0
) -> dict[str, Any]:
    """Held-out rows whose people vote by true ratings, and a model that knows the truth but not how sure to be.

    True rating distributions are a binned normal around a place; the model's are its power `sharpness`, or a scalar
    reward of `sharpness` times the log odds.
    """
    rng = np.random.default_rng(seed)
    responses: list[Row] = []
    judgements: list[Row] = []
    levels: list[Row] = []
    place: dict[str, float] = {}
    truth: dict[str, Any] = {}
    for g in range(groups):
        ids = [f"{g}-{i}" for i in range(per_group)]
        for name in ids:
            place[name] = rng.normal(5, 1.5)
            truth[name] = np.exp(-((RATINGS - place[name]) ** 2) / 2 / 1.8**2)
            truth[name] /= truth[name].sum()
            responses.append({"response_id": name, "prompt_id": str(g), "group": f"g{g}", "text": "x" * 9})
            rating = int(rng.choice(RATINGS, p=truth[name]))
            levels.append({"response_id": name, "level": metrics.LEVELS[(rating - 1) // 3], "annotator": "a"})
        for i, a in enumerate(ids):
            for b in ids[i + 1 :]:
                if ordinal:
                    w, w_b, t = preference.ordinal_probabilities(truth[a][None], truth[b][None])
                else:
                    w, w_b, t = preference.scalar_probabilities(np.array([place[a] - place[b]]), tie=0.5)
                for vote in range(votes):
                    verdict = rng.choice(["a", "tie", "b"], p=np.array([w[0], t[0], w_b[0]]))
                    judgements.append(
                        {"response_a": a, "response_b": b, "verdict": str(verdict), "annotator": str(vote)}
                    )
    sure = {name: p**sharpness / (p**sharpness).sum() for name, p in truth.items()}
    scores = {name: float(p @ RATINGS) if ordinal else sharpness * place[name] for name, p in sure.items()}
    return {
        "responses": responses,
        "judgements": judgements,
        "levels": levels if ordinal else [],
        "scores": scores,
        "probs": {name: p.tolist() for name, p in sure.items()} if ordinal else None,
        "kind": "ordinal" if ordinal else "scalar",
        "tie": None if ordinal else 0.5 * sharpness,
        "partition": (3, 6),
        "seed": 0,
    }


distribution = st.lists(st.floats(1e-6, 1.0), min_size=9, max_size=9).map(lambda p: np.array(p) / sum(p))
slope = st.floats(0.1, 10.0)


class TestTheMap:
    @given(p=distribution)
    def test_identity(self, p: Any) -> None:
        same = Calibration("beta_cdf", {"a": 1.0, "b": 1.0, "c": 0.0})
        assert np.allclose(same.ratings(p[None]), p, atol=1e-12)
        assert np.array_equal(Calibration().ratings(p[None])[0], p)

    @given(p=distribution, a=slope, b=slope, c=st.floats(-3, 3))
    def test_a_distribution_stays_one(self, p: Any, a: float, b: float, c: float) -> None:
        q = Calibration("beta_cdf", {"a": a, "b": b, "c": c}).ratings(np.stack([p, p[::-1]]))
        assert q.min() >= 0
        assert np.allclose(q.sum(axis=1), 1.0, atol=1e-12)

    @given(p=distribution, q=distribution, a=slope, b=slope, c=st.floats(-3, 3))
    def test_stochastic_order_is_kept(self, p: Any, q: Any, a: float, b: float, c: float) -> None:
        low, high = np.maximum(np.cumsum(p), np.cumsum(q)), np.minimum(np.cumsum(p), np.cumsum(q))
        pair = np.diff(
            np.stack([low, high]), axis=1, prepend=0.0
        )  # the second is at least as high everywhere
        mapped = np.cumsum(Calibration("beta_cdf", {"a": a, "b": b, "c": c}).ratings(pair), axis=1)
        assert np.all(mapped[0] >= mapped[1] - 1e-9)

    def test_certain_and_empty_rows(self) -> None:
        certain = np.eye(9)
        assert np.allclose(BETA.ratings(certain), certain, atol=1e-6)
        assert BETA.ratings(np.zeros((0, 9))).shape == (0, 9)

    def test_temperature_leaves_ratings_alone(self) -> None:
        hot = Calibration("temperature", {"temperature": 2.0, "tie": 0.3})
        assert np.array_equal(hot.ratings(np.eye(9)), np.eye(9))
        assert (hot.temperature, hot.tie(0.7), hot.tie(None)) == (2.0, 0.3, 0.3)
        assert Calibration("temperature", {"temperature": 2.0}).tie(None) is None
        assert (BETA.temperature, BETA.tie(0.7)) == (1.0, 0.7)

    @pytest.mark.parametrize(
        "value",
        [
            7,
            {"method": "platt"},
            {"method": "temperature"},
            {"method": "temperature", "parameters": {"temperature": 0.0}},
            {"method": "temperature", "parameters": {"temperature": 1.0, "a": 1.0}},
            {"method": "temperature", "parameters": {"temperature": float("nan")}},
            {"method": "beta_cdf", "parameters": {"a": 1.0, "b": 1.0}},
            {"method": "beta_cdf", "parameters": {"a": 1.0, "b": -1.0, "c": 0.0}},
        ],
    )
    def test_nonsense_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match="calibration"):
            Calibration.from_json(value)

    def test_json_there_and_back(self) -> None:
        for one in (Calibration(), BETA, Calibration("temperature", {"temperature": 1.5})):
            assert Calibration.from_json(json.loads(json.dumps(one.to_json()))) == one
        assert Calibration.from_json(None) == Calibration()


class TestFitting:
    @pytest.mark.parametrize("tie", [None, 0.5])
    @pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
    def test_recovers_temperature_and_tie_from_votes(self, sharpness: float, tie: float | None) -> None:
        rows = made(ordinal=False, sharpness=sharpness, groups=40)
        if tie is None:
            rows["tie"] = None
            rows["judgements"] = [row for row in rows["judgements"] if row["verdict"] != "tie"]
        found, held_out, _ = calibrate(**rows)
        assert held_out["calibration"]["folds"] in (0, FOLDS)
        if found.method is None:  # nothing to gain
            assert sharpness == 1.0
            return
        # without ties this is no longer exactly Bradley-Terry, hence the width
        assert found.temperature == pytest.approx(sharpness, rel=0.05 if tie else 0.25)
        if tie is not None:
            assert found.tie(None) == pytest.approx(tie, rel=0.08)

    @pytest.mark.parametrize(("ordinal", "tie"), [(True, None), (False, 1.5), (False, None)])
    @pytest.mark.parametrize("with_levels", [True, False])
    def test_the_minimum_is_scipys(self, ordinal: bool, tie: float | None, with_levels: bool) -> None:
        rows = made(ordinal=ordinal, sharpness=3.0, groups=3)
        sample, _ = _sample(
            rows["responses"],
            rows["judgements"],
            rows["levels"] if with_levels else [],
            rows["scores"],
            rows["probs"],
            tie,
            (3, 6),
        )
        theta = sample.fit()
        assert len(theta) == (3 if with_levels else 1) if ordinal else (2 if tie else 1)
        best = minimize(
            lambda t: sample.nll(t).sum() + t @ t / 2 / PRIOR_SD**2,
            np.zeros_like(theta),
            method="BFGS",
            tol=1e-10,
        )
        assert theta == pytest.approx(best.x, abs=1e-5)
        for p, derivative, _ in sample._terms(theta):
            for k in range(len(theta)):
                step = np.eye(len(theta))[k] * 1e-6
                numeric = [
                    (high[0] - low[0]) / 2e-6
                    for high, low in zip(
                        sample._terms(theta + step), sample._terms(theta - step), strict=True
                    )
                    if high[0].shape == p.shape
                ]
                assert any(np.allclose(derivative[..., k], one, atol=1e-6) for one in numeric)

    def test_levels_set_the_shift_and_pairs_alone_do_not(self) -> None:
        rows = made(ordinal=True, sharpness=2.0)
        assert set(calibrate(**rows)[0].parameters) == {"a", "b", "c"}
        alone = calibrate(**{**rows, "levels": []})[0].parameters
        assert alone["a"] == alone["b"] < 1
        assert alone["c"] == 0

    def test_no_information_gives_no_change(self) -> None:
        assert _fisher_scoring(lambda theta: [], 2).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("ordinal", [True, False])
    def test_a_few_pairs_cannot_ruin_a_model(self, ordinal: bool) -> None:
        """Twenty pairs without an error would ask for a temperature of 0, or for certain ratings."""
        rows = made(2, 5, 1, ordinal=ordinal, sharpness=1.0)
        for row in rows["judgements"]:
            higher = rows["scores"][row["response_a"]] > rows["scores"][row["response_b"]]
            row["verdict"] = "a" if higher else "b"
        found, held_out, _ = calibrate(**{**rows, "levels": [], "tie": None})
        assert held_out["calibration"]["fitted_on"] == MIN_LABELS
        assert min(found.temperature, 1 / found.parameters.get("a", 1.0)) > 0.4


class TestTheFigures:
    @pytest.mark.parametrize("ordinal", [True, False])
    def test_an_overconfident_model_is_mended_on_groups_it_was_not_fitted_on(self, ordinal: bool) -> None:
        rows = made(ordinal=ordinal, sharpness=4.0)
        _, held_out, _ = calibrate(**rows)
        found = held_out["calibration"]
        before, after = found["before"], found["after"]
        assert found["note"] is None
        assert found["fitted_on"] == held_out["pairs"]["n"] == 8 * 66
        for name in ("nll", "brier", "ece", "ece_equal_mass"):
            assert after[name]["value"] < before[name]["value"]
            assert after[name] == held_out["pairs"][name]  # what is served is what is reported
        assert before["ece"]["value"] > 0.05
        assert after["ece"]["value"] < 0.04
        tied = np.mean([row["verdict"] == "tie" for row in rows["judgements"]])
        closer = [abs(side["human_ties"]["mean_p_tie"] - tied) for side in (after, before)]
        assert closer[0] < closer[1] + 0.01
        if ordinal:
            assert after["levels"]["rps"] < before["levels"]["rps"]
            assert after["levels"]["coverage"] > before["levels"]["coverage"]
            assert found["fitted_on_levels"] == 96
        else:
            assert (
                held_out["pairs"]["accuracy"]
                == metrics.evaluate_run(**rows, temperature=1.0)["pairs"]["accuracy"]
            )
        json.dumps(held_out, allow_nan=False)

    def test_levels_that_would_cost_the_pairs_are_left_out(self) -> None:
        """Very many levels that know nothing of the responses would flatten all ratings into one."""
        rows = made(ordinal=True, sharpness=2.0)
        rows["levels"] = [
            {"response_id": name, "level": metrics.LEVELS[copy % 3], "annotator": str(copy)}
            for name in rows["probs"]
            for copy in range(90)
        ]
        found, held_out, _ = calibrate(**rows)
        said = held_out["calibration"]
        assert found.parameters["a"] == found.parameters["b"]
        assert said["fitted_on"] > 0 == said["fitted_on_levels"]
        assert said["after"]["nll"]["value"] < said["before"]["nll"]["value"]

    @pytest.mark.parametrize("ordinal", [True, False])
    def test_cross_fitted_by_hand(self, ordinal: bool) -> None:
        """Each group is measured with parameters fitted on labels that touch it nowhere, pairs across groups too."""
        rows = made(3, 8, ordinal=ordinal, sharpness=4.0)
        rows["judgements"] += [
            {"response_a": f"{g}-0", "response_b": f"{h}-1", "verdict": "tie", "annotator": "x"}
            for g, h in ((0, 1), (2, 0), (1, 2))
        ]
        _, held_out, _ = calibrate(**rows)
        fitted = {}
        for g in "012":
            judged = [
                row for row in rows["judgements"] if g not in (row["response_a"][0], row["response_b"][0])
            ]
            labels = [row for row in rows["levels"] if g != row["response_id"][0]]
            sample, _ = _sample(
                rows["responses"], judged, labels, rows["scores"], rows["probs"], rows["tie"], (3, 6)
            )
            fitted[g] = sample.calibration(sample.fit())
        pairs = metrics.pair_votes(rows["judgements"])
        nll = 0.0
        for i, j, q in zip(pairs.first, pairs.second, pairs.share, strict=True):
            a, b = pairs.ids[i], pairs.ids[j]
            if ordinal:
                p = [fitted[name[0]].ratings(np.array([rows["probs"][name]]))[0].tolist() for name in (a, b)]
                preferred = ordinal_outcome(*p).preferred
            else:
                one = fitted[min(a[0], b[0])]
                scores = [rows["scores"][name] for name in (a, b)]
                tie = one.tie(rows["tie"])
                preferred = scalar_outcome(*scores, tie=tie, temperature=one.temperature).preferred
            nll -= q * math.log(preferred) + (1 - q) * math.log(1 - preferred)
        assert held_out["calibration"]["folds"] == 3
        assert held_out["pairs"]["n"] == 3 * 28 + 3
        assert held_out["pairs"]["nll"]["value"] == pytest.approx(nll / len(pairs.share), abs=1e-9)

    @pytest.mark.parametrize(
        ("rows", "note"),
        [
            (made(1, 12, ordinal=False, sharpness=3.0), "one group"),
            (made(2, 4, ordinal=False, sharpness=3.0), "only 12 held-out pairs and levels"),
            ({**made(2, 4, ordinal=False, sharpness=3.0), "judgements": []}, "no held-out label"),
            (made(8, 12, ordinal=False, sharpness=1.0, seed=5), "did not help"),
        ],
    )
    def test_what_cannot_be_calibrated_is_served_as_it_is(self, rows: dict[str, Any], note: str) -> None:
        found, held_out, _ = calibrate(**rows)
        said = held_out["calibration"]
        assert found == Calibration()
        assert note in said["note"]
        assert said["method"] is None
        assert said["fitted_on"] == said["folds"] == 0
        assert said["before"] == said["after"]
        json.dumps(held_out, allow_nan=False)

    def test_a_diverged_model_is_not_calibrated(self) -> None:
        rows = made(ordinal=False, sharpness=1.0)
        found, held_out, _ = calibrate(**{**rows, "scores": dict.fromkeys(rows["scores"], float("nan"))})
        assert found.method is None
        assert "not finite" in held_out["calibration"]["note"]

    def test_neither_row_order_nor_side_matters(self) -> None:
        rows = made(ordinal=True, sharpness=3.0)
        turned = {"a": "b", "b": "a"}
        swapped = [
            {
                **row,
                "response_a": row["response_b"],
                "response_b": row["response_a"],
                "verdict": turned.get(row["verdict"], row["verdict"]),
            }
            for row in rows["judgements"][::-1]
        ]
        one = calibrate(**rows)[0].parameters
        other = calibrate(**{**rows, "judgements": swapped, "levels": rows["levels"][::-1]})[0].parameters
        assert other == pytest.approx(one, abs=1e-6)


# --- In a run ---


def many(rows: tuple[list[Row], list[Row], list[Row]]) -> dict[str, list[Row]]:
    """The plants' prompts with verdicts that contradict each other, so that there is something to calibrate."""
    rng = np.random.default_rng(0)
    judged = [
        {**row, "verdict": str(rng.choice([row["verdict"], "a", "b", "tie"], p=[0.4, 0.2, 0.2, 0.2]))}
        for row in rows[1]
    ]
    labels = [{**row, "level": str(rng.choice(metrics.LEVELS))} for row in rows[2]]
    return {"judgements": judged, "levels": labels}


@pytest.mark.parametrize(("method", "name"), [("bt", "temperature"), ("oprm", "beta_cdf")])
def test_saved_loaded_predicted_and_shown_alike(
    method: str, name: str, make_run: MakeRun, tiny_encoder: Path, rows: Any
) -> None:
    folder = make_run(
        tiny_encoder,
        method,
        holdout=0.6,
        epochs=30,
        learning_rate=3e-3,
        head_learning_rate=1e-2,
        **many(rows),
    )
    metrics = train(folder)
    described = metrics["held_out"]["calibration"]
    assert described["method"] == name
    model, template, config = load_model(folder / "model")
    assert config["calibration"] == {"method": name, "parameters": described["parameters"]}
    assert model.calibration == Calibration(name, described["parameters"])
    kept = pq.read_table(folder / "predictions.parquet").to_pylist()
    snapshot = pq.read_table(folder / "snapshot" / "responses.parquet").to_pylist()
    for row in snapshot:
        row["messages"] = json.loads(row["messages"])
    again = score_responses(model, template, snapshot)
    # Held-out rows have ratings by the calibration of the other groups, not by the one that is served.
    same = [place for place, row in enumerate(kept) if method == "bt" or row["split"] != "held_out"]
    assert len(same) > 0
    assert [again[i]["score"] for i in same] == pytest.approx([kept[i]["score"] for i in same], abs=1e-6)
    if method == "oprm":
        assert np.allclose([again[i]["p"] for i in same], [kept[i]["p"] for i in same], atol=1e-6)
        # and they are the calibrated ones
        served, model.calibration = model.calibration, Calibration()
        raw = np.array([row["p"] for row in score_responses(model, template, snapshot)])
        assert np.allclose(served.ratings(raw[same]), [kept[i]["p"] for i in same], atol=1e-6)
        assert not np.allclose(raw, [row["p"] for row in kept], atol=1e-3)
        assert config["temperature"] == 1.0
        w, _, t = preference.ordinal_probabilities([kept[0]["p"]], [kept[1]["p"]])
        assert ordinal_outcome(kept[0]["p"], kept[1]["p"]).preferred == pytest.approx(w[0] + t[0] / 2)
    else:
        # the pages read tie and temperature of the version, which are those of reward_config.json
        assert config["temperature"] == described["parameters"]["temperature"] != 1.0
        assert config["tie"] == described["parameters"]["tie"]
        shown = scalar_outcome(
            kept[0]["score"], kept[1]["score"], tie=config["tie"], temperature=config["temperature"]
        )
        d = (kept[0]["score"] - kept[1]["score"]) / config["temperature"]
        assert shown.a == pytest.approx(1 / (1 + math.exp(config["tie"] - d)))


def test_models_older_than_calibration_still_load(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "oprm", epochs=1)
    train(folder)
    path = folder / "model" / CONFIG_NAME
    config = json.loads(path.read_text())
    del config["calibration"]
    path.write_text(json.dumps(config))
    assert load_model(folder / "model")[0].calibration == Calibration()
    path.write_text(json.dumps(config | {"calibration": {"method": "guess"}}))
    with pytest.raises(ArtifactError, match="calibration"):
        load_model(folder / "model")
