"""A run's numbers arrive in a tracker; one that fails costs a message."""

import importlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from workers.rewards.config import Refused
from workers.rewards.training.loop import train
from workers.rewards.training.tracking import flattened, refuse_tracker

MakeRun = Callable[..., Path]

# Stand-ins for packages whose servers no test reaches: they write down what they are told.
WANDB = """
import json, pathlib, types
told, config = [], types.SimpleNamespace(update=lambda values, **rest: told.append(("config", values)))
class Run:
    url = "https://somebody:secret@wandb.example/caliper/runs/1"
    def log(self, values, step=None):
        if FAILS: raise OSError("the network is down")
        told.append((step, values))
    def finish(self): told.append(("finish", None))
def init(project, **given):
    told.append((project, given))
    return Run()
"""
MLFLOW = """
import types
told = []
limits = types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
utils = types.SimpleNamespace(validation=limits)
search_experiments = lambda filter_string: []
create_experiment = lambda **given: told.append((given["name"], given)) or "7"
start_run = lambda **given: types.SimpleNamespace(info=types.SimpleNamespace(experiment_id="7", run_id="abc"))
get_tracking_uri = lambda: "http://mlflow.example:5000/"
log_params = lambda values: told.append(("config", values))
log_metrics = lambda values, step=None: told.append((step, values))
end_run = lambda: told.append(("finish", None))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """stand_in(name, source) -> what the package of that name is told from now on"""

    def make(name: str, source: str) -> list[Any]:
        folder = tmp_path / "packages"
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        module = importlib.import_module(name)
        del sys.modules[name]
        monkeypatch.setitem(sys.modules, name, module)  # and out again at the end
        told: list[Any] = module.told
        return told

    return make


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "progress.jsonl").read_text().splitlines()]


def test_tensorboard_reads_back_what_a_run_wrote(make_run: MakeRun, tiny_encoder: Path) -> None:
    run_dir = make_run(tiny_encoder, "bt", report_to="tensorboard", patience=2)
    metrics = train(run_dir)
    events = EventAccumulator(str(run_dir / "tracking")).Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss", "learning_rate", "tokens_per_second", "validation/nll"} <= names
    (accuracy,) = events.Scalars("held_out/pairs/accuracy/value")
    assert accuracy.value == pytest.approx(metrics["held_out"]["pairs"]["accuracy"]["value"])
    loss = events.Scalars("loss")
    assert loss[-1].step == metrics["training"]["steps"]
    assert not any("tracking" in line for line in lines(run_dir)), "there is no address"


def test_trackio_keeps_a_run_without_any_network(
    make_run: MakeRun, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils = pytest.importorskip("trackio.utils", reason="pip install trackio to try it here")
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    metrics = train(make_run(tiny_encoder, "bt", report_to="trackio", tuning="frozen", crossfit=0))
    with sqlite3.connect(tmp_path / "trackio" / "caliper.db") as database:
        told = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by id")]
    assert told[0]["loss"] > 0
    nll = metrics["held_out"]["pairs"]["nll"]["value"]
    assert told[-1]["held_out/pairs/nll/value"] == pytest.approx(nll)


@pytest.mark.parametrize(
    ("name", "source", "address"),
    [
        ("wandb", "FAILS = False" + WANDB, "https://wandb.example/caliper/runs/1"),
        ("mlflow", MLFLOW, "http://mlflow.example:5000/#/experiments/7/runs/abc"),
    ],
)
def test_a_tracker_is_told_of_the_run_and_the_run_of_its_page(
    name: str,
    source: str,
    address: str,
    stand_in: Callable[..., list[Any]],
    make_run: MakeRun,
    tiny_encoder: Path,
) -> None:
    told = stand_in(name, source)
    run_dir = make_run(tiny_encoder, "bt", report_to=name, tuning="frozen", split_salt="hidden")
    train(run_dir)
    assert told[0][0] == "caliper"
    (config,) = [values for what, values in told if what == "config"]
    assert config["method"] == "bt"
    assert config["base_model"] == "a local folder"
    assert "hidden" not in config.values()
    metrics = [values for what, values in told if isinstance(what, int)]
    assert metrics[0]["learning_rate"] > 0
    assert any(key.startswith("held_out/pairs/accuracy") for key in metrics[-1])
    assert told[-1] == ("finish", None)
    training = [line for line in lines(run_dir) if line["phase"] == "training"]
    assert {line["tracking"] for line in training} == {address}, "without user and password"


def test_a_tracker_that_fails_costs_a_message_not_the_run(
    stand_in: Callable[..., list[Any]], make_run: MakeRun, tiny_encoder: Path
) -> None:
    stand_in("wandb", "FAILS = True" + WANDB)
    run_dir = make_run(tiny_encoder, "bt", report_to="wandb", tuning="frozen")
    assert train(run_dir)["held_out"]["pairs"]
    messages = [line["message"] for line in lines(run_dir) if line["message"]]
    assert messages.count("no more tracking by wandb: the network is down") == 1
    assert messages[-1] == "done"


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    run_dir = make_run(tiny_encoder, "bt", report_to="mlflow")
    with pytest.raises(Refused, match="needs mlflow: `pip install mlflow`"):
        train(run_dir)
    assert not (run_dir / "progress.jsonl").exists()
    refuse_tracker("none")


def test_numbers_are_named_by_their_path() -> None:
    found = flattened({"pairs": {"nll": 0.5, "n": 3, "bins": [1]}, "levels": None, "on": True}, "held_out")
    assert found == {"held_out/pairs/nll": 0.5, "held_out/pairs/n": 3.0}
