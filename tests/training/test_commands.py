"""manage.py train and build_starter_lm."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from webapp import heartbeat
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.management.commands import build_starter_lm, train
from webapp.training.models import TrainingRun

FAKE = Path(__file__).parent.parent / "workers" / "fake_train.py"


@pytest.fixture
def fake(settings: Any) -> Callable[[str], None]:
    def choose(mode: str) -> None:
        settings.TRAIN_COMMAND = [sys.executable, str(FAKE), mode]

    choose("ok")
    return choose


def test_inline_trains_here_and_sends_nothing(
    labelled: Project,
    fake: Callable[[str], None],
    sent: list[Any],
    capsys: Any,
) -> None:
    call_command("train", project="capitals", method="bt", seed=3, inline=True)
    run = TrainingRun.objects.get()
    assert (run.state, run.trigger, run.config["seed"]) == (State.DONE, "command", 3)
    assert sent == []
    said = capsys.readouterr().out
    assert "Bradley-Terry v1. First version: held-out pair accuracy 0.800" in said
    assert "It serves now." in said
    call_command("train", project="capitals", method="bt", seed=3, inline=True)
    assert f"Not trained again: same labels and settings as run {run.pk}." in capsys.readouterr().out


def test_a_failed_training_fails_the_command(labelled: Project, fake: Callable[[str], None]) -> None:
    fake("crash")
    with pytest.raises(CommandError, match=r"Run \d+ failed. The training failed. ValueError: the loss"):
        call_command("train", project="capitals", method="bt", inline=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"project": "nowhere", "method": "bt"}, "There is no project “nowhere”. Projects: capitals."),
        ({"project": "capitals", "method": "rgft"}, "RgFT learns from quality levels"),
        ({"project": "capitals", "method": "bt", "epochs": 0}, "epochs is 0"),
        ({"project": "capitals", "method": "bt", "set": ["warmpu=0.1"]}, "Did you mean warmup"),
    ],
)
def test_refusals_are_clear(labelled: Project, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        call_command("train", **options)
    assert TrainingRun.objects.count() == 0


@pytest.mark.usefixtures("sent")
def test_more_options_reach_the_config(labelled: Project) -> None:
    labelled.training_options = {"hardening": 0.5, "votes": "majority"}
    labelled.save()
    arguments = (
        "--project capitals --method bt --hardening 0.2 --patience 2 --no-reliability --set warmup=0.05 "
        "--crossfit 5"
    )
    call_command("train", *arguments.split(), "--set", 'backbone="encoder"')
    config = TrainingRun.objects.get().config
    assert (config["hardening"], config["patience"], config["reliability"]) == (0.2, 2, False)
    assert (config["warmup"], config["backbone"]) == (0.05, "encoder")
    assert config["votes"] == "majority", "the project's"
    assert config["crossfit"] == 5
    with pytest.raises(CommandError, match="haf_head is an option of Hybrid"):
        call_command("train", "--project", "capitals", "--method", "bt", "--haf-head", "ordinal")


@pytest.mark.usefixtures("sent")
def test_a_preset_sets_its_keys(labelled: Project, judge: Any, capsys: Any) -> None:
    judge(labelled, 0, levels=4)
    call_command("train", *["--project", "capitals", "--method", "rgft", "--preset", "paper"])
    config = TrainingRun.objects.get().config
    assert (config["region"], config["level_terms"], config["smoothness"]) == ("flood", "none", 0)
    assert "preset" not in config
    with pytest.raises(CommandError, match="preset is an option of Region Flooding Tuning"):
        call_command("train", *["--project", "capitals", "--method", "bt", "--preset", "paper"])


@pytest.mark.usefixtures("sent")
def test_without_wait_the_run_is_left_in_the_queue(labelled: Project, capsys: Any) -> None:
    call_command("train", project="capitals", method="bt")
    assert TrainingRun.objects.get().state == State.QUEUED
    assert "Bradley-Terry on Capitals, queued" in capsys.readouterr().out


@pytest.mark.usefixtures("sent")
def test_wait_says_that_no_worker_listens(labelled: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "NO_WORKER_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(train, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "readers", lambda client, queues: {queue: [] for queue in queues})
    with pytest.raises(
        CommandError, match=r"No worker is listening to the queue “train”. Run \d+ stays queued"
    ):
        call_command("train", project="capitals", method="bt", wait=True)
    assert TrainingRun.objects.get().state == State.QUEUED


@pytest.mark.usefixtures("sent")
def test_wait_follows_the_run_to_its_end(
    labelled: Project, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    steps = iter(
        [
            lambda run: run.claim(),
            lambda run: run.beat(phase="training", step=55, total=100),
            lambda run: run.beat(phase="training", step=57, total=100),
            lambda run: run.fail("Out of memory."),
        ]
    )
    monkeypatch.setattr(train.time, "sleep", lambda seconds: next(steps)(TrainingRun.objects.get()))
    with pytest.raises(CommandError, match=r"failed. Out of memory."):
        call_command("train", project="capitals", method="bt", wait=True)
    assert capsys.readouterr().out.count("  training 40 %\n") == 1  # of all phases


def test_build_starter_lm_runs_the_builder_on_a_snapshot(
    labelled: Project, monkeypatch: pytest.MonkeyPatch, data_dir: Path, capsys: Any
) -> None:
    def command(snapshot: Path, target: Path) -> list[str]:
        assert (snapshot / "responses.parquet").exists()
        return [sys.executable, "-c", f"import pathlib; pathlib.Path({str(target)!r}).mkdir()"]

    monkeypatch.setattr(build_starter_lm, "starter_command", command)
    call_command("build_starter_lm", project="capitals")
    assert capsys.readouterr().out.strip() == str(data_dir / "starter-lm" / "capitals")
    monkeypatch.setattr(
        build_starter_lm, "starter_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"]
    )
    with pytest.raises(CommandError, match="could not be built"):
        call_command("build_starter_lm", project="capitals")
    with pytest.raises(CommandError, match="no project"):
        call_command("build_starter_lm", project="nowhere")
    empty = Project.objects.create(slug="empty", name="Empty")
    with pytest.raises(CommandError, match="Empty has no responses"):
        call_command("build_starter_lm", project=empty.slug)
