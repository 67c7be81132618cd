"""The Celery tasks, the one door between the halves: `celery -A workers.tasks worker -Q default,train,score,...`.

Each is thin: load the row, call a plain function. A message that is delivered twice finds its row claimed and leaves.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import django
from celery.signals import worker_shutting_down
from django.apps import apps

from webapp.celery import app

if not apps.ready:
    django.setup()

from webapp.accounts.services import accounts_sweep
from webapp.api.idempotency import calls_sweep
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.models import Import
from webapp.events import models as events
from webapp.importing.services import import_run
from webapp.labels.machine_models import MachineJob
from webapp.ratings import trying
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import DataPush, Export
from webapp.snapshots.pushing import push_run
from webapp.training.models import ModelExport, ModelPush, Remeasurement, TrainingRun
from workers import annotating, exports, housekeeping, measurements, remeasuring, runs, trials, webhooks
from workers.held_out import held_out_responses

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


@app.task(name=TrainingRun.task)
def train_run(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            runs.train(pk, stopping=stopping)


@app.task(name=Import.task)
def import_file(pk: int) -> None:
    if (row := Import.objects.filter(pk=pk).first()) is not None:
        import_run(row)


@app.task(name=Export.task)
def export_file(pk: int) -> None:
    if (row := Export.objects.filter(pk=pk).first()) is not None:
        export_run(row, held_out_responses)


@app.task(name=ModelExport.task)
def export_model(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            exports.export_model(pk, stopping=stopping)


@app.task(name=DataPush.task)
def push_data(pk: int) -> None:
    if (row := DataPush.objects.select_related("export__project").filter(pk=pk).first()) is not None:
        push_run(row)


@app.task(name=ModelPush.task)
def push_model(pk: int) -> None:
    if (
        row := ModelPush.objects.select_related("export__version__project").filter(pk=pk).first()
    ) is not None:
        push_run(row)


# Not again after a worker that died: whoever asked has been told by then.
@app.task(name=trying.TASK, acks_late=False)
def score_texts(token: str) -> None:
    trials.answer(token)


@app.task(name=Remeasurement.task)
def measure_again(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            remeasuring.measure_version(pk, stopping=stopping)


@app.task(name=EvaluationSet.task)
def read_set(pk: int) -> None:
    measurements.read_set(pk)


@app.task(name=Measurement.task)
def measure_version(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            measurements.measure(pk, stopping=stopping)


@app.task(name=MachineJob.task)
def ask_machine(pk: int) -> None:
    with _sigterm_noted() as stopping:
        if not stopping():
            annotating.ask_machine(pk, stopping=stopping)


# Whoever claimed a delivery and died leaves it due again; beat looks for those.
@app.task(name=events.TASK, acks_late=False)
def webhook_send(webhook_pk: int) -> None:
    webhooks.send_due(webhook_pk)


@app.task
def webhooks_send() -> None:
    webhooks.send_all_due()


@app.task
def tick() -> None:
    housekeeping.tick()


@app.task
def housekeep() -> None:
    housekeeping.housekeep()


@app.task
def tallies_make() -> None:
    """Add up what the pages of large projects show."""
    housekeeping.tallies_make()


@app.task
def counters_check() -> None:
    """Count the queue's numbers anew, and tell what was wrong."""
    housekeeping.counters_check_all()


@app.task
def sessions_clear() -> None:
    """Throw away sessions that have run out, failed sign-ins that nothing counts any more, and answers to writes of the
    API that nobody gets again.
    """
    accounts_sweep()
    calls_sweep()
