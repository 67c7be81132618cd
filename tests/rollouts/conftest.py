"""A project that asks people back, and a version of it."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from django.core.cache import caches

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project
from webapp.labels.models import Judgement
from webapp.rollouts.models import RolloutSettings
from webapp.training.models import ModelVersion, TrainingRun


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    caches["local"].clear()


@pytest.fixture
def asking(project: Project) -> Project:
    RolloutSettings.objects.create(project=project, on=True, per_hour=1000)
    return project


@pytest.fixture
def make_version(db: None) -> Callable[..., ModelVersion]:
    numbers = count(1)

    def make(project: Project, digest: str = "", **fields: Any) -> ModelVersion:
        number = next(numbers)
        run = TrainingRun.objects.create(
            project=project,
            method="oprm",
            trigger="button",
            config={},
            config_digest=str(number),
            state="done",
        )
        return ModelVersion.objects.create(
            project=project,
            run=run,
            method="oprm",
            number=number,
            kind="ordinal",
            digest=digest or f"{number:064}",
            **fields,
        )

    return make


@pytest.fixture
def version(asking: Project, make_version: Callable[..., ModelVersion]) -> ModelVersion:
    return make_version(asking, is_serving=True)


@pytest.fixture
def judge(db: None) -> Callable[..., None]:
    """judge(pair, ["a", "tie"]) gives a pair these verdicts, each by somebody of their own."""
    numbers = count(1)

    def add(row: Pair, verdicts: list[str]) -> None:
        for verdict in verdicts:
            number = next(numbers)
            person = User.objects.create(username=f"person-{number}")
            Judgement.objects.create(
                pair=row, annotator=person, verdict=verdict, client_key=f"rollouts-{number}"
            )
            row.judged += 1
        row.save(update_fields=["judged"])

    return add
