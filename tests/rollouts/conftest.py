"""A project that asks people back, a version of it, and reports as a reward server sends them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.core.cache import caches

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project
from webapp.labels.models import Judgement
from webapp.rollouts.models import RolloutSettings
from webapp.training.models import ModelVersion, TrainingRun

BEGIN = datetime(2026, 11, 1, 12, tzinfo=UTC)


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
            project=project, method="oprm", trigger="button", config={}, config_digest=str(number), state="done"
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


def rollout(text: str, score: float = 5.0, **fields: Any) -> dict[str, Any]:
    p = [0.0, 0.0, 0.0, 0.25, 0.5, 0.25, 0.0, 0.0, 0.0]
    return {"text": text, "score": score, "expected": score, "spread": 0.7, "p": p, **fields}


def pair(name: object, *, why: str = "random", preferred: float = 0.8, **fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Question {name}?"}],
        "a": rollout(f"First answer to {name}.", 6.0),
        "b": rollout(f"Second answer to {name}!", 4.0),
        "why": why,
        "propensity": 0.1 if why == "random" else 1.0,
        "preferred": preferred,
        **fields,
    }


def report(version: ModelVersion, pairs: list[Any], *, place: int = 0, **fields: Any) -> dict[str, Any]:
    """A window's report; `place` moves it by so many minutes."""
    begin = BEGIN + timedelta(minutes=place)
    return {
        "server": "gpu-1",
        "version": version.digest,
        "window": {"from": begin.isoformat(), "to": (begin + timedelta(minutes=1)).isoformat()},
        "seen": 512,
        "prompts": 64,
        "candidates": 1792,
        "rewards": {"count": 512, "mean": 5.0 + 0.1 * place, "sd": 1.2},
        "length": {"mean": 420.0, "sd": 80.0},
        "pairs": pairs,
        **fields,
    }


@pytest.fixture
def judge(db: None) -> Callable[..., None]:
    """judge(pair, "ab") gives a pair these verdicts, each by somebody of their own."""
    numbers = count(1)

    def add(row: Pair, verdicts: Any) -> None:
        for verdict in {"a": ["a"], "b": ["b"]}.get(verdicts, verdicts):
            number = next(numbers)
            person = User.objects.create(username=f"person-{number}")
            Judgement.objects.create(pair=row, annotator=person, verdict=verdict, client_key=f"rollouts-{number}")
            row.judged += 1
        row.save(update_fields=["judged"])

    return add
