"""How a run tells the outside where it stands, and how the outside tells it to stop."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

PARENT_VARIABLE = "CALIPER_PARENT_PID"
_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """The run was told to end; what could be kept is in the checkpoint."""


class Progress:
    """Appends to progress.jsonl, flushed, at most `per_second` lines a second (a new phase always gets its line)."""

    def __init__(self, path: Path, per_second: float = 4.0) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the run)
        self._interval = 1 / per_second
        self._last = -1.0
        self._phase: str | None = None
        self.tracking = ""  # address of the run in a tracker, told in every line

    def say(
        self,
        phase: str,
        step: int = 0,
        total: int = 0,
        *,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        message: str | None = None,
        validation: dict[str, float | None] | None = None,
        **figures: float | None,
    ) -> None:
        """One line, unless the last one is too fresh; the first and last of a phase and messages always count.

        `figures`: further ones by name (reward, kl, samples_per_second, cost), where they are known.
        """
        now = time.monotonic()
        due = phase != self._phase or message is not None or validation is not None or step == total
        if not due and now - self._last < self._interval:
            return
        self._last, self._phase = now, phase
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "phase": phase,
            "step": step,
            "total": total,
            "loss": loss,
            "tokens_per_second": tokens_per_second,
            "message": message,
            **({} if validation is None else {"validation": validation}),
            **{name: value for name, value in figures.items() if value is not None},
            **({"tracking": self.tracking} if self.tracking else {}),
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Stop:
    """Whether the run should end: after SIGTERM, or when the process that started it is gone.

    A Celery worker that is killed can't end its child. When CALIPER_PARENT_PID names the parent, the kernel
    sends a signal at its death (Linux) and the loop compares parent ids (everywhere), so no orphan trains on.
    """

    def __init__(self) -> None:
        self._asked = False
        self._parent: int | None = None

    @classmethod
    def listening(cls) -> Stop:
        """Install the signal handlers; main thread only."""
        stop = cls()
        signal.signal(signal.SIGTERM, stop._ask)
        parent = os.environ.get(PARENT_VARIABLE, "")
        if parent.isdigit():
            stop._parent = int(parent)
            if sys.platform == "linux":
                # A signal of its own: it also comes when only the parent's starting thread ends, so the handler
                # just wakes us up to compare ids.
                signal.signal(signal.SIGUSR1, lambda number, frame: None)
                ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGUSR1), 0, 0, 0)
        return stop

    @property
    def wanted(self) -> bool:
        return self._asked or (self._parent is not None and os.getppid() != self._parent)

    def check(self) -> None:
        """Raise Stopped if the run should end."""
        if self.wanted:
            raise Stopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
