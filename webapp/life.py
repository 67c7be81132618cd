"""Signs of life of a running job, also while its worker is inside one long transaction, copy or calculation.

A thread beside the job gives them. On PostgreSQL it writes `heartbeat_at` over a connection of its own. SQLite has one
writer at a time, so there the job's own transaction would keep the thread from writing: it touches a file of the data
folder instead (SQLite is one host, so there is one clock). A killed or halted process has no such thread: its job is
LOST within CALIPER_JOB_LOST_AFTER_SECONDS, whatever it was doing. Redis is not needed.

The way back is the same: the thread sees that somebody pressed Cancel, and the job asks it now and then.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from webapp.locks import short_waits

if TYPE_CHECKING:
    from webapp.jobs import Job

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
BEAT_SECONDS = 5.0


def life_file(job: "Job") -> Path:
    return settings.DATA_DIR / "jobs" / f"{job._meta.model_name}-{job.pk}"


def cancel_file(job: "Job") -> Path:
    return life_file(job).with_suffix(".cancel")


def cancel_note(job: "Job") -> bool:
    """Ask a running job to stop where the row may be out of reach: on SQLite, while the job writes. False elsewhere."""
    if connection.vendor != "sqlite" or not life_file(job).exists():
        return False
    cancel_file(job).touch()
    return True


def heard_of(job: "Job") -> bool:
    """Whether the job's file was touched lately. (What the row says is asked by a query.)"""
    with contextlib.suppress(OSError):
        return time.time() - life_file(job).stat().st_mtime < settings.JOB_LOST_AFTER_SECONDS
    return False


def forget(job: "Job") -> None:
    """Take away what a killed worker left."""
    for path in (life_file(job), cancel_file(job)):
        path.unlink(missing_ok=True)


class Life(threading.Thread):
    """Gives signs of life until `end`; `cancelled` turns true when somebody asked the job to stop."""

    def __init__(self, job: "Job") -> None:
        super().__init__(name=f"life of {job._meta.model_name} {job.pk}", daemon=True)
        self._row = type(job)._default_manager.filter(pk=job.pk, state="running", started_at=job.started_at)
        self._in_file = connection.vendor == "sqlite"
        self._file, self._cancel = life_file(job), cancel_file(job)
        self._every = min(BEAT_SECONDS, settings.JOB_LOST_AFTER_SECONDS / 4)
        self._end = threading.Event()
        self.cancelled = False

    def run(self) -> None:
        last = time.monotonic()
        try:
            while not self._end.wait(min(LOOK_SECONDS, self._every)):
                due = time.monotonic() - last >= self._every
                try:
                    self._look(due)
                except (DatabaseError, OSError) as error:
                    # The next look tries again; a database that stays away makes the job LOST, rightly.
                    logger.warning("%s: no sign of life could be given: %s", self.name, error)
                    connection.close()
                if due:
                    last = time.monotonic()
        finally:
            connection.close()

    def _look(self, due: bool) -> None:
        if self._in_file:
            if due:
                self._file.touch()
            self.cancelled = self.cancelled or self._cancel.exists()
            return
        if due:
            # The job's last act changes its row and may wait for others before it commits.
            with short_waits():
                self._row.update(heartbeat_at=timezone.now())
        self.cancelled = self.cancelled or self._row.filter(cancel_requested=True).exists()

    def begin(self) -> None:
        if self._in_file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._cancel.unlink(missing_ok=True)
            self._file.touch()
        self.start()

    def end(self) -> None:
        self._end.set()
        self.join()


@contextlib.contextmanager
def alive(job: "Job") -> Iterator[Life]:
    """While inside, the claimed job is known to live for as long as this process does."""
    life = Life(job)
    life.begin()
    try:
        yield life
    finally:
        life.end()
        if not connection.in_atomic_block:
            # From here on the row speaks for itself again; if the job has ended, this changes nothing.
            with contextlib.suppress(DatabaseError):
                job.beat()
        forget(job)
