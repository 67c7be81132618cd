"""The tasks around the trainings: housekeeping by the tick, and messages that come twice."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import celery
import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

import webapp.celery
from webapp.corpus.models import Import, Project
from webapp.jobs import State
from webapp.labels.models import Assignment
from webapp.snapshots.models import Export
from webapp.training.models import TrainingRun
from workers import housekeeping, tasks

Make = Callable[..., TrainingRun]


@pytest.fixture
def broker(private_redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real, empty Redis, to which this process sends."""
    settings.REDIS_URL = private_redis
    with housekeeping.redis_client() as client:
        client.flushdb()
    app = celery.Celery(broker=private_redis, set_as_current=False)
    monkeypatch.setattr(webapp.celery, "app", app)
    yield private_redis
    app.close()


def old(seconds: float = 3600) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


def test_jobs_of_dead_workers_become_lost(labelled: Project, make_run: Make) -> None:
    silent = make_run(labelled, state=State.RUNNING, heartbeat_at=old())
    alive = make_run(labelled, state=State.RUNNING, heartbeat_at=timezone.now())
    import_row = Import.objects.create(
        project=labelled, folder="imports/1", state=State.RUNNING, heartbeat_at=old()
    )
    export = Export.objects.create(project=labelled, state=State.RUNNING, heartbeat_at=old())
    assert housekeeping.jobs_reap() == 3
    assert housekeeping.jobs_reap() == 0
    for row in (silent, import_row, export):
        row.refresh_from_db()
        assert row.state == State.LOST
        assert "The worker stopped answering" in row.error
    alive.refresh_from_db()
    assert alive.state == State.RUNNING


def test_only_jobs_whose_message_is_lost_are_sent_again(
    labelled: Project, make_run: Make, broker: str, django_capture_on_commit_callbacks: Any
) -> None:
    lost = make_run(labelled, queued_at=old())
    waits = make_run(labelled, method="bt", queued_at=old())
    make_run(labelled, method="clf")
    import_row = Import.objects.create(project=labelled, folder="imports/1", queued_at=old())
    with django_capture_on_commit_callbacks(execute=True):
        webapp.celery.enqueue("workers.tasks.train_run", waits.pk, queue="train")
    with django_capture_on_commit_callbacks(execute=True):
        assert housekeeping.jobs_send_again() == 2
    assert housekeeping.messages_waiting("train") == {
        ("workers.tasks.train_run", waits.pk),
        ("workers.tasks.train_run", lost.pk),
    }
    assert housekeeping.messages_waiting("default") == {("workers.tasks.import_file", import_row.pk)}
    with django_capture_on_commit_callbacks(execute=True):
        assert housekeeping.jobs_send_again() == 0, "once is enough, however long they wait"


def test_strange_messages_in_a_queue_are_passed_over(broker: str) -> None:
    with housekeeping.redis_client() as client:
        client.lpush("train", "not json", "{}", json.dumps({"headers": {"task": "x"}, "body": "!"}))
    assert housekeeping.messages_waiting("train") == set()


def test_a_part_of_the_tick_that_fails_leaves_the_others_alone(
    labelled: Project, make_run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("the broker is down")

    labelled.retrain_after_labels = 5
    labelled.save()
    monkeypatch.setattr(housekeeping, "jobs_send_again", broken)
    monkeypatch.setattr(webapp.celery.app, "send_task", lambda *args, **kwargs: None)
    tasks.tick()
    assert "tick: broken failed" in caplog.text
    run = TrainingRun.objects.get()
    assert run.trigger == "labels"


def test_the_tick_gives_expired_reservations_back(labelled: Project, annotator: Any) -> None:
    pair = labelled.pairs.latest("pk")
    pair.reserved = 1
    pair.save()
    assignment = Assignment.objects.create(
        project=labelled,
        annotator=annotator,
        pair=pair,
        left="a",
        reserved_until=old(),
        policy="random",
        propensity=1.0,
    )
    tasks.tick()
    assignment.refresh_from_db()
    pair.refresh_from_db()
    assert (assignment.state, pair.reserved) == (Assignment.State.EXPIRED, 0)


@pytest.mark.usefixtures("fake")
def test_a_train_message_that_comes_twice_or_for_nothing(labelled: Project, make_run: Make) -> None:
    run = make_run(labelled)
    tasks.train_run(run.pk)
    run.refresh_from_db()
    assert run.state == State.DONE
    finished_at = run.finished_at
    tasks.train_run(run.pk)
    tasks.train_run(10**9)
    run.refresh_from_db()
    assert run.finished_at == finished_at
    tasks.import_file(10**9)
    tasks.export_file(10**9)


@pytest.mark.usefixtures("fake")
def test_a_worker_that_shuts_down_takes_no_run(labelled: Project, make_run: Make) -> None:
    run = make_run(labelled)
    tasks._shutdown()
    try:
        tasks.train_run(run.pk)
    finally:
        tasks._stopping.value = 0
    run.refresh_from_db()
    assert run.state == State.QUEUED


def test_every_message_that_the_web_half_sends_has_a_task() -> None:
    names = {"train_run", "import_file", "export_file", "export_model", "tick"}
    assert {f"workers.tasks.{name}" for name in names} <= set(tasks.app.tasks)
    assert tasks.app.conf.beat_schedule["tick"]["task"] == "workers.tasks.tick"


def test_the_worker_process_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, workers.tasks; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    root = Path(__file__).parent.parent.parent
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_has_run_out_is_swept_every_night(db: None) -> None:
    Session.objects.create(
        session_key="old", session_data="", expire_date=timezone.now() - timedelta(seconds=1)
    )
    Session.objects.create(session_key="new", session_data="", expire_date=timezone.now() + timedelta(days=1))
    entry = tasks.app.conf.beat_schedule["sessions_clear"]
    tasks.app.tasks[entry["task"]]()
    assert list(Session.objects.values_list("pk", flat=True)) == ["new"]
    assert entry["options"]["queue"] == "housekeeping"
