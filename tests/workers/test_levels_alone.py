"""A project that has levels and no judgement: a real training by a worker, and every page that shows its version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.rewards.conftest import tiny_encoder  # noqa: F401 - a fixture
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt, Response
from webapp.corpus.options import Method
from webapp.jobs import State
from webapp.labels.models import QualityLabel
from webapp.training.models import TrainingRun
from webapp.training.services import RunRefused, run_start
from webapp.training.triggers import next_trainings, retrain_due
from workers import child, runs

LEVELS = {"water it weekly": "good", "water it": "normal", "no idea": "bad"}


@pytest.fixture
def levelled(project: Project, make_prompt: Callable[..., Prompt], annotator: User) -> Project:
    """Twelve prompts, each a group, with a good, a normal and a bad response."""
    for number in range(12):
        make_prompt(project, f"p{number}", texts=[f"{text} {number}" for text in LEVELS], group=f"g{number}")
    for number, response in enumerate(Response.objects.of(project)):
        level = LEVELS[response.text.rpartition(" ")[0]]
        QualityLabel.objects.create(
            response=response, annotator=annotator, level=level, client_key=f"level-{number}"
        )
    project.min_judgements = 1
    project.save()
    return project


def words(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return " ".join(answer.content.decode().split())


def test_it_is_trained_and_shown_with_bands(
    levelled: Project,
    tiny_encoder: Path,  # noqa: F811 - the fixture
    settings: Any,
    admin: User,
    client_of: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
    data_dir: Path,
) -> None:
    monkeypatch.setattr(child, "POLL_SECONDS", 0.1)
    settings.BASE_MODEL_DIRS = [tiny_encoder.parent]
    given = {"base_model": f"folder:{tiny_encoder.name}", "epochs": 12}
    run = run_start(
        project=levelled,
        method="bt",
        trigger="command",
        config={**given, "learning_rate": 3e-3, "head_learning_rate": 1e-2},
        send=False,
    )
    runs.train(run.pk)
    run.refresh_from_db()
    assert (run.state, run.error) == (State.DONE, "")
    version = run.version
    assert version.saw_levels
    assert version.gate_passed
    assert version.gate_reason.startswith("First version: held-out level accuracy")

    client = client_of(admin)
    page = words(client, f"/p/capitals/runs/{run.pk}/")
    assert "Level accuracy" in page
    assert "Accuracy of always guessing the most common level" in page
    assert "there is no pair accuracy" in page
    assert "Pair accuracy" not in page
    assert "of levels" in words(client, "/p/capitals/runs/")
    assert "no held-out judgement" in words(client, "/p/capitals/")
    response = Response.objects.of(levelled).first()
    assert response is not None
    for address in ("", "methods/"):
        page = words(client, f"/p/capitals/responses/{response.pk}/{address}")
        assert '<g class="band bad">' in page
    assert "By where bad and normal end on this scale: bad" in words(
        client, f"/p/capitals/responses/{response.pk}/"
    )


@pytest.mark.usefixtures("sent")
def test_every_method_starts_but_oprm_which_says_what_to_do(levelled: Project) -> None:
    def start(method: str, **config: Any) -> TrainingRun:
        return run_start(project=levelled, method=method, trigger="command", config=config)

    for method in Method.values:
        if method != "oprm":
            assert start(method).state == State.QUEUED
    for method, config in (("oprm", {}), ("rgft", {"preset": "paper"})):
        with pytest.raises(RunRefused, match=r'has levels alone.*level_terms = "all"'):
            start(method, **config)
    assert start("oprm", level_terms="all").config["level_terms"] == "all"


@pytest.mark.usefixtures("sent")
def test_it_retrains_by_itself(levelled: Project) -> None:
    levelled.methods, levelled.retrain_after_labels = ["bt", "oprm"], 10
    levelled.save()
    bt, oprm = next_trainings(levelled)
    assert "now: enough labels are new" in bt.words
    assert "it would be refused: Ordinal (OPRM) without level terms" in oprm.words
    assert [run.method for run in retrain_due(levelled)] == ["bt"]
