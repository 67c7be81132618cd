"""The Celery tasks, the one door between the halves: `celery -A workers.tasks worker -Q default,train,housekeeping`.

Each is thin: load the row, call a plain function. A message that is delivered twice finds its row claimed and leaves.
"""

import base64
import contextlib
import json
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import django
from celery.signals import worker_shutting_down
from django.apps import apps
from django.db import DatabaseError, connection

from webapp.celery import app, enqueue

if not apps.ready:
    django.setup()

from webapp.accounts.services import accounts_sweep
from webapp.corpus.models import Import
from webapp.heartbeat import redis_client
from webapp.importing.services import import_run
from webapp.jobs import Job
from webapp.labels.queue import reservations_expire
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import Export
from webapp.training.models import ModelExport, TrainingRun
from webapp.training.services import EXPORT_TASK, QUEUE, TASK
from webapp.training.triggers import retrain_all_due
from workers import exports, housekeeping, runs

logger = logging.getLogger(__name__)

JOBS: list[tuple[type[Job], str, str]] = [
    (TrainingRun, TASK, QUEUE),
    (Import, "workers.tasks.import_file", "default"),
    (Export, "workers.tasks.export_file", "default"),
    (ModelExport, EXPORT_TASK, "default"),
]

# One byte of memory shared between the worker and the processes of its pool, which are forked from it.
_stopping = multiprocessing.RawValue("b", 0)


@worker_shutting_down.connect
def _shutdown(**_: Any) -> None:
    """The worker was asked to stop: running trainings write a checkpoint and go back into the queue."""
    _stopping.value = 1


@contextlib.contextmanager
def _sigterm_noted() -> Iterator[Callable[[], bool]]:
    """A pool process that is itself told to end (docker stop reaches the whole group) stops in order as well."""
    heard = False

    def note(number: int, frame: object) -> None:
        nonlocal heard
        heard = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(_stopping.value)
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: heard or bool(_stopping.value)
    finally:
        signal.signal(signal.SIGTERM, before)


@app.task(name=TASK)
def train_run(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            runs.train(pk, stopping=stopping)


@app.task(name="workers.tasks.import_file")
def import_file(pk: int) -> None:
    if (row := Import.objects.filter(pk=pk).first()) is not None:
        import_run(row)


@app.task(name="workers.tasks.export_file")
def export_file(pk: int) -> None:
    if (row := Export.objects.filter(pk=pk).first()) is not None:
        export_run(row)


@app.task(name=EXPORT_TASK)
def export_model(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            exports.export_model(pk, stopping=stopping)


@app.task(name="workers.tasks.tick")
def tick() -> None:
    """Housekeeping, each part by itself: one that fails doesn't keep the others from their work."""
    with _short_waits():
        for part in (jobs_reap, jobs_send_again, reservations_expire, retrain_all_due):
            try:
                part()
            except Exception:
                logger.exception("tick: %s failed", part.__name__)


@contextlib.contextmanager
def _short_waits() -> Iterator[None]:
    """Housekeeping waits for no import's locks: what it can't do now it does at a later tick."""
    short, usual = (
        ("SET lock_timeout = '2s'", "SET lock_timeout = DEFAULT")
        if connection.vendor == "postgresql"
        else ("PRAGMA busy_timeout = 2000", "PRAGMA busy_timeout = 30000")
    )
    with connection.cursor() as cursor:
        cursor.execute(short)
    try:
        yield
    finally:
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute(usual)


@app.task(name="workers.tasks.housekeep")
def housekeep() -> None:
    housekeeping.housekeep()


@app.task(name="workers.tasks.sessions_clear")
def sessions_clear() -> None:
    """Throw away sessions that have run out, and failed sign-ins that nothing counts any more."""
    accounts_sweep()


def jobs_reap() -> int:
    """RUNNING jobs that have not been heard of for too long become LOST; returns how many."""
    lost = 0
    for model, _, _ in JOBS:
        for job in model._default_manager.all().silent():
            if job.lose():
                logger.warning("%s %s is lost: no sign of life from its worker", model.__name__, job.pk)
                lost += 1
    return lost


def jobs_send_again() -> int:
    """Send QUEUED jobs whose message is nowhere in the broker (it was down, or emptied); returns how many."""
    sent = 0
    for model, task, queue in JOBS:
        forgotten = list(model._default_manager.all().forgotten().values_list("pk", flat=True))
        if model is Import:
            # Those that wait for another import of their project are sent when that one ends.
            forgotten = [row.pk for row in Import.objects.filter(pk__in=forgotten) if row.waits_for is None]
        if not forgotten:
            continue
        waiting = messages_waiting(queue)
        for pk in forgotten:
            if (task, pk) not in waiting:
                enqueue(task, pk, queue=queue)
                sent += 1
    return sent


def messages_waiting(queue: str) -> set[tuple[str, int]]:
    """Task and primary key of each message that waits in a queue. Those in a worker's hands are not among them."""
    found = set()
    with redis_client() as client:
        messages = client.lrange(queue, 0, -1)
    for message in messages:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            envelope = json.loads(message)
            arguments = json.loads(base64.b64decode(envelope["body"]))[0]
            found.add((envelope["headers"]["task"], int(arguments[0])))
    return found
