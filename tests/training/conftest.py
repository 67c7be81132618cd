"""A project with enough judgements to train on, and versions as finished runs leave them."""

from collections.abc import Callable
from typing import Any

import pytest

from webapp import celery
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.services import config_digest, run_config


def metrics_of(accuracy: float) -> dict[str, Any]:
    interval = {"value": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n": 60}
    return {"format": 1, "held_out": {"pairs": {"n": 60, "accuracy": interval, "length_baseline": interval}}}


@pytest.fixture
def judge(annotator: User) -> Callable[..., None]:
    """judge(project, 5) adds judgements by five people of their own."""

    def add(project: Project, count: int, *, levels: int = 0) -> None:
        pair = Pair.objects.filter(project=project).first()
        assert pair is not None
        start = User.objects.count()
        people = [
            User.objects.create(username=f"judge-{start + number}", is_active=False)
            for number in range(max(count, levels))
        ]
        for number, person in enumerate(people):
            if number < count:
                Judgement.objects.create(
                    pair=pair, annotator=person, verdict="a", left="a", client_key=f"judgement-{person.pk}"
                )
            if number < levels:
                QualityLabel.objects.create(
                    response=pair.response_a, annotator=person, level="good", client_key=f"level-{person.pk}"
                )

    return add


@pytest.fixture
def labelled(project: Project, make_prompt: Callable[..., Prompt], judge: Callable[..., None]) -> Project:
    """The project with three responses, 20 judgements and a minimum of 10."""
    make_prompt(project, "p1", texts=["one", "two", "three"])
    judge(project, 20)
    project.min_judgements = 10
    project.save()
    return project


@pytest.fixture
def make_run() -> Callable[..., TrainingRun]:
    def make(project: Project, method: str = "oprm", state: str = State.QUEUED, **fields: Any) -> TrainingRun:
        config = run_config(project, method, fields.pop("overrides", None))
        return TrainingRun.objects.create(
            project=project,
            method=method,
            state=state,
            config=config,
            config_digest=config_digest(config),
            **{"trigger": TrainingRun.Trigger.COMMAND, **fields},
        )

    return make


@pytest.fixture
def make_version(make_run: Callable[..., TrainingRun]) -> Callable[..., ModelVersion]:
    def make(project: Project, number: int, accuracy: float = 0.8, **fields: Any) -> ModelVersion:
        run = make_run(project, state=State.DONE, metrics=metrics_of(accuracy))
        (run.folder / "model").mkdir(parents=True)
        (run.folder / "model" / "reward_config.json").write_text("{}")
        return ModelVersion.objects.create(
            project=project,
            run=run,
            method=run.method,
            number=number,
            kind="ordinal",
            digest="d" * 64,
            metrics=run.metrics,
            **{"gate_passed": True, "gate_reason": "It was better.", **fields},
        )

    return make


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """Messages that went to the broker: task, primary key, queue."""
    messages: list[tuple[str, int, str]] = []

    def send_task(task: str, *, args: list[int], queue: str, **_: Any) -> None:
        messages.append((task, args[0], queue))

    monkeypatch.setattr(celery.app, "send_task", send_task)
    return messages
