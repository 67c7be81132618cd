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
"""

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from webapp import life
from webapp.paths import without_paths


class State(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    LOST = "lost", "lost"


ACTIVE = (State.QUEUED, State.RUNNING)
REQUEUABLE = (State.FAILED, State.LOST, State.CANCELLED)


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

    def _move(self, sources: Iterable[str], target: str, *, mine: bool = False, **fields: Any) -> bool:
        """The one conditional UPDATE behind every arrow; True if this call moved the row.

        `mine`: only while the row still has the start time that this object knows (its own claim).
        """
        changes = {"state": target, **fields}
        rows = type(self)._default_manager.filter(pk=self.pk, state__in=list(sources))
        if mine:
            rows = rows.filter(started_at=self.started_at)
        moved = rows.update(**changes) == 1
        if moved:
            for name, value in changes.items():
                setattr(self, name, value)
        return moved

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
        limit = timezone.now() - timedelta(seconds=settings.JOB_LOST_AFTER_SECONDS)
        message = "The worker stopped answering (killed, out of memory, or its machine went away). Resume continues it."
        lost = (
            type(self)
            ._default_manager.filter(pk=self.pk, state=State.RUNNING, heartbeat_at__lt=limit)
            .update(state=State.LOST, finished_at=timezone.now(), error=message)
        )
        if lost == 1:
            life.forget(self)
        return lost == 1

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
        """RUNNING -> QUEUED, by a worker that is shut down in good order. The caller enqueues the task again."""
        return self._move([State.RUNNING], State.QUEUED, mine=True, queued_at=timezone.now(), phase="")

    def requeue(self) -> bool:
        """FAILED | LOST | CANCELLED -> QUEUED, to go on from where it stopped. The caller enqueues the task."""
        return self._move(
            REQUEUABLE,
            State.QUEUED,
            queued_at=timezone.now(),
            finished_at=None,
            cancel_requested=False,
            error="",
        )

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
