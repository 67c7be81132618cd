"""Early stopping: watched groups, the best weights, and what cannot be watched."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from workers.rewards.artifacts.save import HEAD_NAME
from workers.rewards.config import RunConfig
from workers.rewards.data import split as splitting
from workers.rewards.data.judgements import training_data
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.data.split import held_out_rows, split_groups, split_watched
from workers.rewards.training import early_stopping
from workers.rewards.training.early_stopping import Watch, looks
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stopped

from .test_resume import StopAfter, weights

Rows = list[dict[str, Any]]
MakeRun = Callable[..., Path]


@pytest.fixture
def noisy(rows: tuple[Rows, Rows, Rows], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run that learns its labels by heart: a third of the verdicts are drawn, and far too many epochs."""
    monkeypatch.setattr(splitting, "WATCHED", 0.3)
    monkeypatch.setattr(early_stopping, "PER_EPOCH", 1)
    draw = random.Random(1)
    return {
        "judgements": [
            row | {"verdict": draw.choice("ab") if draw.random() < 0.35 else row["verdict"]}
            for row in rows[1]
        ],
        "epochs": 25,
        "learning_rate": 5e-3,
        "head_learning_rate": 2e-2,
        "warmup": 0.0,
        "token_budget": 400,
    }


@pytest.mark.parametrize("method", ["bt", "oprm"])
def test_the_best_weights_are_those_that_are_saved(
    method: str,
    make_run: MakeRun,
    tiny_encoder: Path,
    noisy: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[int, torch.Tensor] = {}
    look = Watch.look

    def recorded(self: Watch, step: int, *given: Any) -> Any:
        assert isinstance(self.model.head, torch.nn.Linear)
        seen[step] = self.model.head.weight.detach().clone()
        return look(self, step, *given)

    monkeypatch.setattr(Watch, "look", recorded)
    folder = make_run(tiny_encoder, method, patience=1000, **noisy)
    metrics = train(folder)
    early = metrics["early_stopping"]
    assert len(early["history"]) == len(seen) == 25
    best = min(early["history"], key=lambda entry: entry["nll"])
    assert early["best_step"] == best["step"] < metrics["training"]["steps"]
    assert early["stopped_at"] is None
    assert early["history"][-1]["nll"] > best["nll"]  # it did overfit
    saved = load_file(folder / "model" / HEAD_NAME)["weight"]
    assert torch.equal(saved, seen[best["step"]])
    assert not torch.equal(saved, seen[metrics["training"]["steps"]])
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    told = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert told == {
        entry["step"]: {"nll": entry["nll"], "accuracy": entry["accuracy"]} for entry in early["history"]
    }

    # the same run with little patience ends in the same weights, earlier
    short = make_run(tiny_encoder, method, name="short", patience=3, **noisy)
    stopped = train(short)["early_stopping"]
    assert stopped["history"] == early["history"][: len(stopped["history"])]
    steps = [entry["step"] for entry in stopped["history"]]
    assert stopped["stopped_at"] == steps[-1] == steps[steps.index(stopped["best_step"]) + 3]
    if stopped["best_step"] == early["best_step"]:
        assert weights(short) == weights(folder)


def test_stopped_and_resumed_equals_straight(
    make_run: MakeRun, tiny_encoder: Path, noisy: dict[str, Any]
) -> None:
    straight, broken = (
        make_run(tiny_encoder, "oprm", name=name, patience=4, **noisy) for name in ("straight", "broken")
    )
    expected = train(straight)
    for questions in (2, 3, 3):
        with pytest.raises(Stopped):
            train(broken, StopAfter(questions))
    metrics = train(broken)
    assert metrics["early_stopping"] == expected["early_stopping"]
    assert metrics["held_out"] == expected["held_out"]
    assert weights(broken) == weights(straight)


def test_watched_groups_are_neither_trained_on_nor_measured(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "bt", patience=5, epochs=1)
    metrics = train(folder)
    snapshot = read_snapshot(folder / "snapshot")
    config = RunConfig.read(folder / "config.json")
    split = split_groups(snapshot, config)
    watched = split_watched(snapshot, split, config)
    assert (len(split.held_out), len(watched.held_out)) == (2, 1)  # of 12, and of the 10 that are left
    assert watched.held_out.isdisjoint(split.held_out)
    assert metrics["training"]["judgements"] == 9 * 6
    assert metrics["early_stopping"]["pairs"] == 3
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    # what chose the weights is no witness for them
    assert [row["split"] for row in rows].count("train") == 30
    assert [row["split"] for row in rows].count("held_out") == 6
    other = split_watched(snapshot, split, RunConfig(seed=3, patience=1))
    assert other.held_out != watched.held_out


@pytest.mark.parametrize(("groups", "prompts", "unit"), [(2, 12, "prompt"), (12, 12, "group")])
def test_the_unit_is_that_of_the_split(
    groups: int, prompts: int, unit: str, make_run: MakeRun, rows: Any
) -> None:
    responses = [
        row | {"group": f"g{int(row['prompt_id'][1:]) % groups}"} for number, row in enumerate(rows[0])
    ]
    snapshot = read_snapshot(make_run("x", "bt", responses=responses) / "snapshot")
    for config in (RunConfig(patience=1), RunConfig(patience=1, holdout=0.0)):
        split = split_groups(snapshot, config)
        watched = split_watched(snapshot, split, config)
        assert watched.unit == unit
        assert watched.held_out.isdisjoint(split.held_out)
        assert held_out_rows(snapshot, watched).judgements
        assert len(training_data(snapshot, watched, config).first) == 66 or split.unit != "none"


def test_too_few_groups_are_said_and_all_are_trained_on(
    make_run: MakeRun, tiny_encoder: Path, rows: Any
) -> None:
    few = [row for row in rows[0] if int(row["prompt_id"][1:]) < 5]
    known = {row["response_id"] for row in few}
    judged = [row for row in rows[1] if row["response_a"] in known]
    levels = [row for row in rows[2] if row["response_id"] in known]
    folder = make_run(
        tiny_encoder, "bt", responses=few, judgements=judged, levels=levels, patience=2, epochs=1
    )
    early = train(folder)["early_stopping"]
    assert early["best_step"] is early["stopped_at"] is None
    assert early["history"] == []
    assert early["note"] == "no early stopping: only 4 labelled groups to train on"
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert early["note"] in lines[0]["message"]


def test_without_patience_nothing_is_watched(make_run: MakeRun, tiny_encoder: Path) -> None:
    metrics = train(make_run(tiny_encoder, "bt", epochs=1))
    assert metrics["early_stopping"] is None
    assert metrics["training"]["judgements"] == 60


def test_levels_are_watched_where_nobody_compared(make_run: MakeRun, tiny_encoder: Path) -> None:
    early = train(make_run(tiny_encoder, "rgft", judgements=[], epochs=2, patience=9))["early_stopping"]
    assert (early["pairs"], early["levels"]) == (0, 3)
    assert all(entry["nll"] > 0 and 0 <= entry["accuracy"] <= 1 for entry in early["history"])


def test_looks_are_even_and_end_with_the_epochs_last_step() -> None:
    assert looks(4) == {2, 4}
    assert looks(1) == {1}
    assert looks(101) == {50, 101}


def test_figures_by_hand(make_run: MakeRun, tiny_encoder: Path) -> None:
    """The watched NLL is evaluate's NLL of the same rows."""
    from workers.rewards.evaluation.metrics import evaluate_run
    from workers.rewards.models.load import load_backbone
    from workers.rewards.models.reward_model import RewardModel

    snapshot = read_snapshot(make_run("x", "bt") / "snapshot")
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    torch.manual_seed(0)
    model = RewardModel(backbone, architecture="encoder", kind="scalar")
    model.add_thresholds(ties=True, both_bad=False)
    watch = Watch(snapshot, snapshot.index, model, 3)
    features = torch.randn(len(watch.responses), 32)
    nll, accuracy = watch.look(1, features, (3, 6))
    with torch.no_grad():
        scores = model.score(features).double().tolist()
    tie = model.tie
    assert tie is not None
    measured = evaluate_run(
        responses=snapshot.responses,
        judgements=snapshot.judgements,
        levels=[],
        scores=dict(zip(watch.pairs.ids, scores, strict=True)),
        probs=None,
        kind="scalar",
        tie=tie.item(),
        temperature=1.0,
        partition=(3, 6),
        seed=0,
    )["pairs"]
    assert nll == pytest.approx(measured["nll"]["value"], rel=1e-9)
    assert accuracy == pytest.approx(measured["accuracy"]["value"], rel=1e-9)
    state = watch.state()
    again = Watch(snapshot, snapshot.index, model, 3)
    again.load(state)
    assert again.history == watch.history
    assert again.best.keys() == watch.best.keys()
    assert np.isnan(Watch(snapshot, snapshot.index, model, 3).state()["watch.history"].numpy()).sum() == 0
