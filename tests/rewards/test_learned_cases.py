"""Files in which something was once left out of what a model learns (../shared/cases, "What is learned")."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests.conftest import shared_case
from webapp.corpus.models import Project
from webapp.snapshots.services import snapshot_take
from webapp.training.gate import gate_check
from webapp.training.services import run_config
from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.data.split import split_groups
from workers.rewards.train import main
from workers.rewards.training.loop import train
from workers.runs import failure_text

MakeRun = Callable[..., Path]


@pytest.fixture
def run_of(project: Project, tmp_path: Path) -> Callable[..., Path]:
    """run_of(case, method, **config): the case imported, a snapshot taken, and a run folder as a worker writes it."""

    def make(case: str, method: str, **config: Any) -> Path:
        call_command("import_data", str(shared_case(case)), project=project.slug)
        folder = tmp_path / f"{method}-{len(config)}"
        folder.mkdir()
        (folder / "snapshot").symlink_to(snapshot_take(project=project).path)
        # The project's own salt is drawn, and so would be how many pairs are held out.
        settings = run_config(project, method, config) | {"split_salt": None}
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.mark.one_database
@pytest.mark.parametrize(("method", "tuning"), [("bt", "frozen"), ("oprm", "frozen"), ("bt", "tuned")])
def test_answers_that_look_like_scores_are_learned(run_of: MakeRun, method: str, tuning: str) -> None:
    """ "Total points: 33" is the answer, and nothing else tells the right one."""
    metrics = train(run_of("09b-answers-that-look-like-scores.jsonl", method, tuning=tuning))
    accuracy = metrics["held_out"]["pairs"]["accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (1.0, 4)
    assert metrics["held_out"]["pairs"]["model_ties"] == 0
    assert metrics["training"]["judgements"] == 16
    assert metrics["reading"]["pairs"] == {"n": 20, "equal": 0, "cut": 0, "unknown": 0, "spelling": 0}
    assert gate_check(metrics, serving=None, max_drop=0.02)[0]


@pytest.mark.one_database
@pytest.mark.parametrize(("method", "tuning"), [("bt", "frozen"), ("oprm", "tuned"), ("clf", "frozen")])
def test_pairs_that_read_alike_say_why_nothing_is_learned(run_of: MakeRun, method: str, tuning: str) -> None:
    folder = run_of("09c-emoji.jsonl", method, tuning=tuning)
    with pytest.raises(Refused) as refused:
        train(folder)
    said = str(refused.value)
    assert said.startswith(
        "20 of 20 pairs read alike: the base model knows none of the characters in which they"
    )
    assert "choose a base model that knows them" in said
    assert "no label is left to train on" in said
    assert main([str(folder)]) == 2
    assert failure_text(folder, 2) == said  # what the run's page shows
    assert not (folder / "metrics.json").exists()
    assert not (folder / "model").exists()


def test_a_prompt_that_differs_by_white_space_is_the_same_one(run_of: MakeRun) -> None:
    snapshot = read_snapshot(run_of("10b-same-prompt-trailing-space.jsonl", "bt") / "snapshot")
    assert len({row["group"] for row in snapshot.responses}) == 20
    split = split_groups(snapshot, RunConfig())
    assert (split.unit, split.held_out) == ("none", frozenset())
    assert split.note == "only 1 labelled group and 1 prompt: too few to hold any out"
    assert len(set(split.joined.values())) == 1
