"""What people judged is predicted by heads that have not seen their labels."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.data.split import Split, deal_folds
from workers.rewards.scale import UNKNOWN
from workers.rewards.training import crossfit
from workers.rewards.training.batches import Draws
from workers.rewards.training.hardening import SETS
from workers.rewards.training.loop import loop, tracked, train
from workers.rewards.training.prepare import Plan, prepare
from workers.rewards.training.progress import Stop, Stopped

from ..conftest import BAD, GOOD
from .test_resume import StopAfter

MakeRun = Callable[..., Path]
Rows = list[dict[str, Any]]


def predicted(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["response_id"]: row for row in pq.read_table(folder / "predictions.parquet").to_pylist()}


@pytest.mark.parametrize(
    ("method", "extra"), [("rgft", {"hardening": 0.5}), ("bt", {}), ("oprm", {"patience": 2})]
)
def test_no_head_sees_its_fold(
    method: str, extra: dict[str, Any], make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Any, set[int]]] = []
    taken_away: list[set[int]] = []
    real_without, real_head = crossfit.without, crossfit.train_fold

    def without(data: Any, judged: Any, left_out: set[int], copies: Any) -> Any:
        taken_away.append(left_out)
        return real_without(data, judged, left_out, copies)

    def train_fold(run: Any, part: Any, share: float, tick: Any) -> Any:
        rows = part.data
        seen: set[int] = set()
        draws = Draws(part.judged.first, part.judged.second, part.judged.level_response)
        plan = Plan(draws, run.config.seed, rows, run.plan.copies)
        for step in [step for epoch in range(SETS) for step in plan.epoch(epoch)]:
            for row in step.judgements:
                seen |= {int(rows.first[row]), int(rows.second[row])}
            seen |= {int(rows.level_response[row]) for row in step.levels}
            assert taken_away[-1].isdisjoint(step.responses)
        assert seen <= rows.trained_on
        assert part.judged.trained_on <= seen
        assert seen.isdisjoint(taken_away[-1])
        assert all(rows.level[response] == UNKNOWN for response in taken_away[-1])
        # copies that hardening made of a fold's responses are gone with them
        count = run.texts.count
        assert {run.plan.copies[copy - count].of for copy in seen if copy >= count}.isdisjoint(taken_away[-1])
        trained.append((part, seen))
        return real_head(run, part, share, tick)

    monkeypatch.setattr(crossfit, "without", without)
    monkeypatch.setattr(crossfit, "train_fold", train_fold)
    folder = make_run(tiny_encoder, method, tuning="frozen", epochs=2, **extra)
    metrics = train(folder)
    told = metrics["crossfit"]
    assert (told["folds"], told["unit"], told["note"]) == (5, "group", None)
    assert len(trained) == 5
    assert sum(len(one) for one in taken_away) == told["responses"] or extra.get("patience")
    splits = [row["split"] for row in predicted(folder).values()]
    assert set(splits) == {"crossfit", "held_out"}  # every response of this snapshot is judged
    assert told["pairs"]["n"] > 0
    assert 0 <= told["pairs"]["accuracy"]["value"] <= 1
    assert told["levels"]["n"] == 30  # a scalar reward has cut points


@pytest.mark.parametrize(
    ("method", "given"),
    [("rgft", {"tuning": "frozen", "hardening": 0.5}), ("bt", {"tuning": "tuned", "dropout": 0.1})],
)
def test_a_model_without_folds_is_the_final_model(
    method: str, given: dict[str, Any], make_run: MakeRun, tiny_encoder: Path
) -> None:
    """So a fold differs from the final model by what it has not seen, and by nothing else."""
    run = prepare(make_run(tiny_encoder, method, **given), Stop())
    assert run is not None
    position = loop(run, tracked(run))
    part = crossfit.without(run.loss.data, run.labels.data, set(), run.plan.copies)
    share = position.step / position.total
    model = crossfit.train_fold(run, part, share, lambda step, steps: None)
    final = run.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, final[name]), name


class StopWhen(Stop):
    """Stops once a file is there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def wanted(self) -> bool:
        return self.path.exists()


def test_tuned_folds_see_nothing_of_theirs_and_are_kept_as_they_come(
    make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = (
        make_run(tiny_encoder, "rgft", name=name, tuning="tuned", epochs=1, crossfit=5)
        for name in ("straight", "broken")
    )
    trained: list[set[int]] = []
    real = crossfit.train_fold

    def train_fold(run: Any, part: Any, share: float, progress: Any) -> Any:
        assert not run.optimizer.state, "the final model's moments are let go"
        trained.append(part.data.trained_on)
        return real(run, part, share, progress)

    monkeypatch.setattr(crossfit, "train_fold", train_fold)
    # what takes longest of all, and has no part in this
    monkeypatch.setattr("workers.rewards.training.finish.measure_robustness", lambda *_: {})
    expected = train(straight)
    assert len(trained) == 5
    responses = [row["response_id"] for row in read_snapshot(straight / "snapshot").responses]
    rows = predicted(straight)
    crossed = {number for number, name in enumerate(responses) if rows[name]["split"] == "crossfit"}
    assert crossed == set().union(*trained)
    for number in crossed:
        assert sum(number not in seen for seen in trained) == 1, "one fold has not seen it, and predicts it"
    assert {row["split"] for row in rows.values()} == {"crossfit", "held_out"}

    trained.clear()
    with pytest.raises(Stopped):
        train(broken, StopWhen(broken / "checkpoint" / "fold-1.safetensors"))
    assert not (broken / "metrics.json").exists()
    assert len(trained) in (2, 3)
    trained.clear()
    metrics = train(broken)
    assert len(trained) == 3, "two folds were at hand"
    assert predicted(broken) == rows
    assert not (broken / "checkpoint").exists()
    for one in (metrics, expected):
        del one["crossfit"]["seconds"]
    assert metrics["crossfit"] == expected["crossfit"]


def test_another_trainings_folds_are_not_taken(make_run: MakeRun, tiny_encoder: Path) -> None:
    run = prepare(make_run(tiny_encoder, "bt", tuning="tuned", crossfit=5), Stop())
    assert run is not None
    crossfit._keep(run, 0, 1.0, [0, 1], torch.zeros(2))
    assert crossfit._kept(run, 0, 1.0, [0, 1]) is not None
    assert crossfit._kept(run, 0, 0.5, [0, 1]) is None
    run.config = dataclasses.replace(run.config, seed=1)
    assert crossfit._kept(run, 0, 1.0, [0, 1]) is None
    (run.run_dir / "checkpoint" / "fold-0.safetensors").write_bytes(b"half a file")
    assert crossfit._kept(run, 0, 1.0, [0, 1]) is None


@pytest.fixture
def noise() -> tuple[Rows, Rows, Rows]:
    """60 prompts with two answers of random words, judged by the toss of a coin."""
    rng = random.Random(3)
    words = [*f"{GOOD} {BAD} how do i keep plant alive".split(), *"0123456789"]
    responses: Rows = []
    judgements: Rows = []
    for number in range(60):
        for side in "ab":
            responses.append(
                {
                    "response_id": f"{number}{side}",
                    "prompt_id": f"p{number}",
                    "messages": [{"role": "user", "content": f"plant {number}"}],
                    "text": " ".join(rng.choices(words, k=12)),
                }
            )
        judgements.append(
            {
                "response_a": f"{number}a",
                "response_b": f"{number}b",
                "verdict": rng.choice("ab"),
                "strength": None,
                "annotator": "ann",
            }
        )
    return responses, judgements, []


@pytest.mark.parametrize("method", ["bt", "oprm"])
def test_coins_are_at_chance_out_of_fold_and_learnt_by_heart_within(
    method: str, noise: tuple[Rows, Rows, Rows], make_run: MakeRun, tiny_encoder: Path
) -> None:
    responses, judgements, levels = noise
    given = {
        "responses": responses,
        "judgements": judgements,
        "levels": levels,
        "tuning": "frozen",
        "epochs": 40,
        "token_budget": 2000,
    }
    folders = [
        make_run(
            tiny_encoder, method, name=f"folds-{folds}", crossfit=folds, head_learning_rate=2e-2, **given
        )
        for folds in (0, 5)
    ]
    metrics = [train(folder) for folder in folders]
    assert metrics[0]["crossfit"] is None

    def right(folder: Path) -> float:
        rows = predicted(folder)
        hits = []
        for row in judgements:
            a, b = rows[row["response_a"]], rows[row["response_b"]]
            if a["split"] != "held_out":
                hits.append((a["score"] > b["score"]) == (row["verdict"] == "a"))
        return float(np.mean(hits))

    seen, unseen = (right(folder) for folder in folders)
    assert seen > 0.9
    assert abs(unseen - 0.5) < 0.2  # 48 tosses of a coin: three standard errors are .22
    assert metrics[1]["crossfit"]["pairs"]["accuracy"]["value"] == pytest.approx(unseen)
    # what was held out is as it was
    plain, folded = (predicted(folder) for folder in folders)
    for name, row in folded.items():
        assert row["split"] != "held_out" or row == plain[name]


def test_stopped_while_folding_equals_straight(make_run: MakeRun, tiny_encoder: Path) -> None:
    straight, broken = (
        make_run(tiny_encoder, "oprm", name=name, tuning="frozen", hardening=0.3)
        for name in ("straight", "broken")
    )
    expected = train(straight)
    folder = broken
    phases: list[str] = []
    for questions in (30, 90, 150, 1000):
        try:
            train(folder, StopAfter(questions))
        except Stopped:
            lines = (folder / "progress.jsonl").read_text().splitlines()
            phases.append(json.loads(lines[-1])["phase"])
    assert "cross-fitting" in phases
    metrics = train(folder)
    assert predicted(folder) == predicted(straight)
    for one in (metrics, expected):
        del one["crossfit"]["seconds"]
    assert metrics["crossfit"] == expected["crossfit"]


def test_folds_are_whole_groups_and_independent_of_order(make_run: MakeRun, tiny_encoder: Path) -> None:
    snapshot = read_snapshot(make_run(tiny_encoder, "bt") / "snapshot")
    split = Split(frozenset({"p1", "p2"}), "group")
    folds = deal_folds(snapshot, split, "salt", 5)
    assert set(folds.of) == {f"p{number}" for number in range(12)} - split.held_out
    assert sorted(np.bincount([*folds.of.values()])) == [2] * 5
    turned = dataclasses.replace(
        snapshot, responses=snapshot.responses[::-1], judgements=snapshot.judgements[::-1]
    )
    assert deal_folds(turned, split, "salt", 5) == folds
    assert deal_folds(snapshot, split, "other", 5) != folds
    few = deal_folds(snapshot, Split(frozenset(f"p{number}" for number in range(11)), "group"), "salt", 5)
    assert (few.count, few.note) == (0, "no cross-fitting: only 1 labelled group to train on")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tuning": "frozen", "crossfit": 3}, "crossfit is 3; it must be 0 or 5"),
        ({"tuning": "frozen", "crossfit": 5, "base_model": "version:bt-1"}, "has not seen the labels"),
    ],
)
def test_what_can_not_be_folded_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        RunConfig.from_dict(given)


def test_the_default_is_five_for_frozen_heads_on_features_that_know_nothing() -> None:
    def folds(**given: Any) -> int:
        return RunConfig(**given).resolved("encoder", 32).crossfit

    assert folds(tuning="frozen") == 5
    assert folds(tuning="frozen", crossfit=0) == 0
    assert folds(tuning="tuned") == 0
    assert folds(tuning="tuned", crossfit=5) == 5
    assert folds(tuning="frozen", base_model="version:bt-1") == 0
