"""Real trainings by a worker, from an operator's folder and from a version: what the child loads and writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.rewards.conftest import tiny_encoder  # noqa: F401 - a fixture
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.training.models import TrainingRun
from workers import child, runs

Make = Callable[..., TrainingRun]


@pytest.fixture
def judged(project: Project, make_prompt: Callable[..., Prompt], annotator: User) -> Project:
    """Twelve prompts, each a group, with two responses that somebody compared."""
    for number in range(12):
        make_prompt(project, f"p{number}", texts=[f"water it {number}", "no idea"], group=f"g{number}")
    for number, pair in enumerate(Pair.objects.of(project)):
        Judgement.objects.create(
            pair=pair, annotator=annotator, verdict="a", left="a", client_key=f"judgement-{number}"
        )
    project.min_judgements = 1
    project.save()
    return project


@pytest.mark.one_database
def test_a_folder_then_a_version_are_trained_from(
    judged: Project,
    make_run: Make,
    tiny_encoder: Path,  # noqa: F811 - the fixture
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_dir: Path,
) -> None:
    monkeypatch.setattr(child, "POLL_SECONDS", 0.1)
    settings.BASE_MODEL_DIRS = [tmp_path / "models"]
    shutil.copytree(tiny_encoder, tmp_path / "models" / "tiny")

    first = make_run(judged, "bt", overrides={"base_model": "folder:tiny", "epochs": 1})
    runs.train(first.pk)
    first.refresh_from_db()
    assert (first.state, first.error) == (State.DONE, "")
    held_out = first.version.metrics["split"]["held_out"]
    assert held_out

    start = {"base_model": "version:bt-1", "epochs": 1, "seed": 8}
    second = make_run(judged, "bt", overrides=start)
    runs.train(second.pk)
    second.refresh_from_db()
    assert (second.state, second.error) == (State.DONE, "")
    assert second.version.metrics["split"]["held_out"] == held_out, "another seed would have drawn others"
    weights = [load_file(run.version.path / "model.safetensors") for run in (first, second)]
    assert weights[0].keys() == weights[1].keys()

    for run in (first, second):
        assert not (run.folder / "base").exists()
        for path in (*run.folder.glob("*.json*"), *run.version.path.glob("*.json")):
            assert str(tmp_path) not in path.read_text(), path.name

    # What the web half lets through is looked at again: a link that leads elsewhere at the last moment.
    third = make_run(judged, "bt", overrides={**start, "seed": 9})
    monkeypatch.setattr(runs, "supervise", _elsewhere(tmp_path / "models" / "tiny"))
    runs.train(third.pk)
    third.refresh_from_db()
    assert third.state == State.FAILED
    assert third.error.startswith("base model 'version:bt-1' can't be loaded; give a model")
    assert json.loads((third.folder / "error.json").read_text())["kind"] == "refused"


def _elsewhere(target: Path) -> Callable[..., int]:
    real = child.supervise

    def supervise(command: list[str], *, folder: Path, **options: Any) -> int:
        (folder / "base").unlink()
        (folder / "base").symlink_to(target)
        return real(command, folder=folder, **options)

    return supervise
