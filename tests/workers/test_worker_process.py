"""A real Celery worker, a real Redis, and the things that happen to workers: shut down, killed, started again."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.workers.conftest import Worker
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.models import TrainingRun
from webapp.training.services import run_resume, run_start

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


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
