"""The worker half under test: the training tests' project, and a fake trainer in place of the real one."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from django.db import connection

import webapp.celery
from tests.instance import redis_started
from tests.training.conftest import judge, labelled, make_run, sent  # noqa: F401 - fixtures
from webapp import heartbeat
from webapp.training.models import TrainingRun
from workers import runs

FAKE = Path(__file__).parent / "fake_train.py"
ROOT = Path(__file__).parent.parent.parent
Worker = Callable[..., "subprocess.Popen[bytes]"]


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


def database_url() -> str:
    place = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{place['NAME']}"
    return f"postgres://{place['USER']}:{place['PASSWORD']}@{place['HOST']}:{place['PORT']}/{place['NAME']}"


@pytest.fixture
def worker(
    private_redis: str, settings: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Worker]:
    """worker("slow") starts a Celery worker with beat whose trainings are the fake trainer's in that mode.

    "real": they are trainings.
    """
    settings.REDIS_URL = private_redis
    with heartbeat.redis_client() as client:
        client.flushdb()
    app = celery.Celery(broker=private_redis, set_as_current=False)
    monkeypatch.setattr(webapp.celery, "app", app)
    started: list[subprocess.Popen[bytes]] = []

    def start(mode: str) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "REDIS_URL": private_redis,
            "CALIPER_DATA_DIR": str(data_dir),
            "CALIPER_TRAIN_COMMAND": "" if mode == "real" else shlex.join([sys.executable, str(FAKE), mode]),
            "CALIPER_TICK_SECONDS": "1",
            "CALIPER_JOB_LOST_AFTER_SECONDS": "4",
        }
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "workers.tasks",
            "worker",
            "-B",
            "-Q",
            "default,train,housekeeping",
        ]
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--concurrency", "2", "--hostname", f"w{len(started)}@test"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        app.close()
        print((tmp_path / "worker.log").read_text()[-6000:])
