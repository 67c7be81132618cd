"""A real Celery worker, a real Redis, and the things that happen to workers: shut down, killed, started again."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import psutil
import pytest
from django.db import connection

import webapp.celery
from tests.workers.conftest import FAKE
from webapp import heartbeat
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.models import TrainingRun
from webapp.training.services import run_resume, run_start

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

ROOT = Path(__file__).parent.parent.parent
Worker = Callable[..., "subprocess.Popen[bytes]"]


def database_url() -> str:
    place = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{place['NAME']}"
    return f"postgres://{place['USER']}:{place['PASSWORD']}@{place['HOST']}:{place['PORT']}/{place['NAME']}"


@pytest.fixture
def worker(
    private_redis: str, settings: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Worker]:
    """worker("slow") starts a Celery worker with beat whose trainings are the fake trainer's in that mode."""
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
            "CALIPER_TRAIN_COMMAND": shlex.join([sys.executable, str(FAKE), mode]),
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


def wait_until(run: TrainingRun, condition: Callable[[TrainingRun], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        run.refresh_from_db()
        if condition(run):
            return
        assert time.monotonic() < end, f"run {run.pk} is {run.state} at step {run.step}: {run.error}"
        time.sleep(0.1)


def fakes(folder: Path) -> list[psutil.Process]:
    """Live trainings of a run folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for_none(folder: Path) -> None:
    end = time.monotonic() + 20
    while fakes(folder):
        assert time.monotonic() < end, "a training outlived its worker"
        time.sleep(0.1)


def test_from_the_button_to_a_serving_version(labelled: Project, worker: Worker) -> None:
    worker("ok")
    run = run_start(project=labelled, method="bt", trigger="button")
    wait_until(run, lambda run: not run.is_active)
    assert run.error == ""
    assert run.version.is_serving
    assert run.version.predictions.count() == 3


def test_enough_labels_start_a_training_by_the_beat(labelled: Project, worker: Worker) -> None:
    worker("ok")
    labelled.retrain_after_labels = 5
    labelled.save()
    end = time.monotonic() + 60
    while (run := TrainingRun.objects.first()) is None:
        assert time.monotonic() < end
        time.sleep(0.2)
    wait_until(run, lambda run: run.state == State.DONE)
    assert run.trigger == "labels"
    time.sleep(2.5)
    assert TrainingRun.objects.count() == 1


@pytest.mark.one_database
def test_a_killed_worker_loses_its_run_which_resumes(labelled: Project, worker: Worker) -> None:
    first = worker("slow")
    run = run_start(project=labelled, method="bt", trigger="button")
    wait_until(run, lambda run: run.step > 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(10)
    # The child notices that it is an orphan and writes its checkpoint (workers.rewards.training.progress.Stop).
    wait_for_none(run.folder)
    run.refresh_from_db()
    assert run.state == State.RUNNING
    worker("slow")
    wait_until(run, lambda run: run.state == State.LOST)
    assert "The worker stopped answering" in run.error
    step = int((run.folder / "checkpoint" / "step").read_text())
    assert run_resume(run=run)
    wait_until(run, lambda run: run.state == State.DONE)
    assert run.metrics["training"]["resumed_from"] == step > 5
    assert run.version.is_serving


def test_a_worker_shut_down_in_good_order_hands_its_run_to_the_next(
    labelled: Project, worker: Worker
) -> None:
    first = worker("slow")
    run = run_start(project=labelled, method="bt", trigger="button")
    wait_until(run, lambda run: run.step > 5)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    assert fakes(run.folder) == []
    run.refresh_from_db()
    assert run.state == State.QUEUED
    worker("slow")
    wait_until(run, lambda run: run.state == State.DONE)
    assert run.metrics["training"]["resumed_from"] > 5


def test_a_cancel_by_click_ends_the_child(labelled: Project, worker: Worker) -> None:
    worker("slow")
    run = run_start(project=labelled, method="bt", trigger="button")
    wait_until(run, lambda run: run.step > 2)
    assert run.request_cancel()
    wait_until(run, lambda run: run.state == State.CANCELLED)
    assert fakes(run.folder) == []


def test_a_child_that_is_killed_leaves_the_worker_and_a_readable_failure(
    labelled: Project, worker: Worker
) -> None:
    process = worker("slow")
    run = run_start(project=labelled, method="bt", trigger="button")
    wait_until(run, lambda run: run.step > 2)
    for child in fakes(run.folder):
        child.kill()
    wait_until(run, lambda run: run.state == State.FAILED)
    assert "ran out of memory" in run.error
    assert process.poll() is None
