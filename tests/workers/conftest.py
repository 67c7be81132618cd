"""The worker half under test: the training tests' project, and a fake trainer in place of the real one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.instance import redis_started
from tests.training.conftest import judge, labelled, make_run, sent  # noqa: F401 - fixtures
from webapp.training.models import TrainingRun
from workers import runs

FAKE = Path(__file__).parent / "fake_train.py"


@pytest.fixture
def fake(settings: Any) -> Callable[[str], None]:
    """fake("crash") makes the next trainings crash, in the way that fake_train.py describes."""

    def choose(mode: str) -> None:
        settings.TRAIN_COMMAND = [sys.executable, str(FAKE), mode]

    choose("ok")
    return choose


@pytest.fixture
def trained(fake: Callable[[str], None]) -> Callable[..., TrainingRun]:
    """trained(run, "crash") carries a queued run to its end with the fake trainer."""

    def train(run: TrainingRun, mode: str = "ok") -> TrainingRun:
        fake(mode)
        runs.train(run.pk)
        run.refresh_from_db()
        return run

    return train


@pytest.fixture(scope="session")
def private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server of these tests' own."""
    process, url = redis_started(tmp_path_factory.mktemp("redis"))
    try:
        yield url
    finally:
        process.terminate()
        process.wait(10)
