"""The row that records a long job (an import, an export, a training run), and its states.

    QUEUED --claim--> RUNNING --finish--> DONE
      |                 |------fail-----> FAILED ----requeue--> QUEUED
      |                 |------lose-----> LOST ------requeue--> QUEUED   (heartbeat older than the limit)
      |                 |------stop-----> CANCELLED -requeue--> QUEUED   (the worker saw cancel_requested)
      |<---hand back----|                                               (the worker is shut down in good order)
      |------stop---------------------> CANCELLED

Every arrow is one conditional UPDATE whose row count is checked: of two processes that try the same arrow, one
changes a row and the other is told that it did not. Celery's result backend is not the record. The arrows of the
worker that runs a job also ask for the start time it claimed the row with: one that was given up as LOST and
wakes up later changes nothing of the worker that resumed the job.

A runner does the work of one kind of job: it claims the row, and works inside `carried`, which knows every end.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, models, transaction
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from webapp import life
from webapp.celery import enqueue
from webapp.paths import without_paths

logger = logging.getLogger(__name__)

# How long a job that has ended waits for a database that doesn't answer.
DATABASE_PATIENCE_SECONDS = 600.0

Reason = Literal["cancelled", "shutdown", "not ours"]
T = TypeVar("T")


class State(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    LOST = "lost", "lost"


ACTIVE = (State.QUEUED, State.RUNNING)
REQUEUABLE = (State.FAILED, State.LOST, State.CANCELLED)
ENDED = (State.DONE, *REQUEUABLE)


class JobQuerySet(models.QuerySet):
    def active(self) -> "JobQuerySet":
        return self.filter(state__in=ACTIVE)

    def silent(self) -> "JobQuerySet":
        """RUNNING jobs whose worker has not been heard of for too long."""
        limit = timezone.now() - timedelta(seconds=settings.JOB_LOST_AFTER_SECONDS)
        return self.filter(state=State.RUNNING, heartbeat_at__lt=limit)

    def forgotten(self) -> "JobQuerySet":
        """QUEUED jobs whose message may have been lost (broker down at commit, or emptied since)."""
        limit = timezone.now() - timedelta(seconds=settings.JOB_LOST_AFTER_SECONDS)
        return self.filter(state=State.QUEUED, queued_at__lt=limit)


class Job(models.Model):
    """Abstract: state, times, progress and error text of one long job."""

    # The Celery task that carries a job of this kind, and the queue in which its messages wait.
    task: ClassVar[str]
    queue: ClassVar[str] = "default"

    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    phase = models.CharField(max_length=40, blank=True)
    step = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"

    def enqueue(self) -> None:
        """Send the task once the current transaction has committed."""
        enqueue(self.task, self.pk, queue=self.queue)

    def _move(
        self, sources: Iterable[str], target: str, *, mine: bool = False, silent: bool = False, **fields: Any
    ) -> bool:
        """The one conditional UPDATE behind every arrow; True if this call moved the row.

        `mine`: only while the row still has the start time that this object knows (its own claim). `silent`: only
        while its worker has not been heard of for too long.
        """
        changes = {"state": target, **fields}
        rows = type(self)._default_manager.filter(pk=self.pk, state__in=list(sources))
        if silent:
            limit = timezone.now() - timedelta(seconds=settings.JOB_LOST_AFTER_SECONDS)
            rows = rows.filter(heartbeat_at__lt=limit)
        if mine:
            rows = rows.filter(started_at=self.started_at)
        with transaction.atomic() if target in ENDED else contextlib.nullcontext():
            moved = rows.update(**changes) == 1
            if moved:
                for name, value in changes.items():
                    setattr(self, name, value)
                if target in ENDED:
                    self.ended()
        return moved

    def ended(self) -> None:
        """What else is stored in the transaction of an arrow that ends the job."""

    def claim(self) -> bool:
        """QUEUED -> RUNNING. False: somebody else has it, or it was cancelled; leave it alone."""
        now = timezone.now()
        return self._move(
            [State.QUEUED],
            State.RUNNING,
            started_at=now,
            heartbeat_at=now,
            finished_at=None,
            error="",
            phase="starting",
        )

    def beat(self, **progress: Any) -> bool:
        """Say that the worker lives, with progress (phase, step, total ...). False: the row is no longer RUNNING."""
        return self._move([State.RUNNING], State.RUNNING, mine=True, heartbeat_at=timezone.now(), **progress)

    def proceed(self, **progress: Any) -> None:
        """`beat` before the next step. Raises Stopped if the row is in other hands, or somebody pressed Cancel."""
        if not self.beat(**progress):
            raise Stopped("not ours")
        if self.asked_to_stop():
            raise Stopped("cancelled")

    def asked_to_stop(self) -> bool:
        return type(self)._default_manager.filter(pk=self.pk, cancel_requested=True).exists()

    def finish(self, **fields: Any) -> bool:
        return self._move(
            [State.RUNNING], State.DONE, mine=True, finished_at=timezone.now(), phase="", **fields
        )

    def fail(self, message: str) -> bool:
        """RUNNING -> FAILED with a text for the job's page, which tells no path of this server."""
        error = without_paths(message)
        return self._move([State.RUNNING], State.FAILED, mine=True, finished_at=timezone.now(), error=error)

    def lose(self) -> bool:
        """RUNNING -> LOST, only while the heartbeat is still old and nothing else speaks for its worker."""
        if life.heard_of(self):
            return False
        message = "The worker stopped answering (killed, out of memory, or its machine went away). Resume continues it."
        lost = self._move([State.RUNNING], State.LOST, silent=True, finished_at=timezone.now(), error=message)
        if lost:
            life.forget(self)
        return lost

    def request_cancel(self) -> bool:
        """QUEUED -> CANCELLED at once; a RUNNING job is told, and its worker moves it."""
        # First of all, since the job's own transaction may keep the row from being changed until it has stopped.
        noted = life.cancel_note(self)
        if self._move([State.QUEUED], State.CANCELLED, finished_at=timezone.now()):
            return True
        if self._move([State.RUNNING], State.RUNNING, cancel_requested=True):
            return True
        return noted and type(self)._default_manager.filter(pk=self.pk, state=State.CANCELLED).exists()

    def stop(self) -> bool:
        """RUNNING -> CANCELLED, by the worker that saw `cancel_requested`."""
        return self._move([State.RUNNING], State.CANCELLED, mine=True, finished_at=timezone.now())

    def hand_back(self) -> bool:
        """RUNNING -> QUEUED, by a worker that is shut down in good order; the task is sent again."""
        moved = self._move([State.RUNNING], State.QUEUED, mine=True, queued_at=timezone.now(), phase="")
        if moved:
            self.enqueue()
        return moved

    def requeue(self) -> bool:
        """FAILED | LOST | CANCELLED -> QUEUED, to go on from where it stopped; the task is sent again."""
        moved = self._move(
            REQUEUABLE,
            State.QUEUED,
            queued_at=timezone.now(),
            finished_at=None,
            cancel_requested=False,
            error="",
        )
        if moved:
            self.enqueue()
        return moved

    @property
    def waits_for(self) -> int | None:
        """The key of the job that has to end before this queued one may begin; None if there is none."""
        return None

    @property
    def log_names(self) -> dict[str, Any]:
        """What the log lines of its work have."""
        return {"job": str(self)}

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def can_requeue(self) -> bool:
        return self.state in REQUEUABLE

    @property
    def percent(self) -> int | None:
        """Progress in whole percent, None while the total is unknown."""
        return min(100, round(100 * self.step / self.total)) if self.total else None


class JobFailed(Exception):
    """The job ends as FAILED with this text, which says what is wrong and what to do."""


class Stopped(Exception):
    """The job goes no further, though nothing is wrong with it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def explained(error: Exception) -> str:
    """What the page of a FAILED job says: a JobFailed's own text; of anything else, where to look."""
    if isinstance(error, JobFailed):
        return str(error)
    return f"{type(error).__name__}: {error} (the worker's log has the traceback)."


@contextlib.contextmanager
def carried(job: Job, *, explain: Callable[[Exception], str] = explained) -> Iterator[None]:
    """Inside, a claimed job is worked on. Whatever is raised there becomes a state of its row, and no error leaves.

    Nothing raised: the work has called `finish` itself. Every log line has the job's name.
    """
    with bound_contextvars(**job.log_names):
        try:
            yield
        except Stopped as stopped:
            logger.info("%s: stopped (%s)", job, stopped.reason)
            if stopped.reason == "cancelled":
                job.stop()
            elif stopped.reason == "shutdown":
                job.hand_back()
        except Exception as error:
            text = explain(error)
            if isinstance(error, (JobFailed, MemoryError)):
                logger.warning("%s failed: %s", job, text)
            else:
                logger.exception("%s failed", job)
            patiently(lambda: job.fail(text))


def patiently(action: Callable[[], T]) -> T:
    """Do it again while the database doesn't answer, for some minutes."""
    deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
    while True:
        try:
            return action()
        except (OperationalError, InterfaceError) as error:
            if transaction.get_connection().in_atomic_block or time.monotonic() > deadline:
                raise
            logger.warning("the database doesn't answer, trying again: %s", error)
            time.sleep(5)
            old_connections_close()


def old_connections_close() -> None:
    """Let go of connections that are broken or past their age, so that none is held through hours of training."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


class ProgressFile:
    """Progress of a job while its transaction is open: others can't see the row change then, but a file they can."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *, step: int, total: int) -> None:
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({"step": step, "total": total}))
        beside.replace(self.path)

    def read(self) -> tuple[int, int] | None:
        """(step, total), None where there is no such progress."""
        try:
            shown = json.loads(self.path.read_text())
            return int(shown["step"]), int(shown["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
