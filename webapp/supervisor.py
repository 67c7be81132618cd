"""Keep a few child processes alive, and leave none behind: the embedded way to run Caliper is built on this.

Single-threaded: children write straight into their log files, and one loop starts, watches, restarts and
stops. Knows nothing of Caliper.
"""

import contextlib
import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

POLL_SECONDS = 0.2
WATCH_SECONDS = 1.0
GRACE_SECONDS = 20.0
LONGEST_BACK_OFF_SECONDS = 30.0
SETTLED_SECONDS = 60.0
"""A child that has lived this long is thought well again: its next restart comes at once."""

LOG_LIMIT_BYTES = 10 * 1024 * 1024
IMPORTANT = re.compile(r'\b(ERROR|CRITICAL)\b|"level": "(error|critical)"')
IMPORTANT_LINES = 5

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Stopped(Exception):
    """Ctrl-C or SIGTERM arrived while something was being waited for."""


def say(line: str) -> None:
    """One line on the console, which may be gone (a closed terminal stops nothing)."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def _prctl() -> Callable[[int, int], int] | None:
    """Linux's prctl(option, argument); None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return lambda option, value: library.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


_PRCTL = _prctl()


def _end_with_supervisor() -> None:
    """In a new child: be told to stop should the supervisor be killed with no chance to say so."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One program to keep running. `last`: stopped after the others, who need it to end in good order. `may_end`: once
    it ends well, with exit code 0, it is left alone."""

    name: str
    command: Sequence[str]
    last: bool = False
    may_end: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    failures: int = 0
    read_to: int = field(default=0, repr=False)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts children in the order they were added, restarts those that die, stops them all.

    `environment` is theirs; `logs` is the folder with one NAME.log each.
    """

    def __init__(self, *, environment: Mapping[str, str], logs: Path, cwd: Path) -> None:
        self.environment = dict(environment)
        self.logs = logs
        self.cwd = cwd
        self.children: list[Child] = []
        self.signals = 0
        logs.mkdir(parents=True, exist_ok=True)
        if _PRCTL is not None:
            # Orphans (the training of a killed worker) become our children: they can be found and ended.
            _PRCTL(_PR_SET_CHILD_SUBREAPER, 1)

    # --- Signals ---

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, Ctrl-C, SIGTERM and a closed terminal ask for a stop; a second one hurries it."""
        names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {name: signal.signal(name, self._heard) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _heard(self, number: int, frame: object) -> None:
        self.signals += 1

    def pause(self, seconds: float = POLL_SECONDS) -> None:
        """Wait; raises Stopped as soon as a stop was asked for."""
        end = time.monotonic() + seconds
        while not self.signals and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        if self.signals:
            raise Stopped

    # --- Starting ---

    def log_path(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _log_end(self, name: str) -> int:
        """Where the next line of NAME.log will stand; a log grown too long is put aside first."""
        path = self.log_path(name)
        size = path.stat().st_size if path.exists() else 0
        if size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
            return 0
        return size

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("ab") as log:
            return subprocess.Popen(
                list(command),
                cwd=self.cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal reaches the supervisor, who stops in order.
                start_new_session=True,
                preexec_fn=_end_with_supervisor,
            )

    def add(self, child: Child) -> Child:
        self.children.append(child)
        self._start(child)
        return child

    def _start(self, child: Child) -> None:
        child.read_to = self._log_end(child.name)
        child.process = self._spawn(child.name, child.command)
        child.started_at = time.monotonic()
        child.due_at = 0.0

    def run_once(
        self, name: str, command: Sequence[str], *, on_line: Callable[[str], None] | None = None
    ) -> int:
        """Run a command to its end; its exit code. Its output goes to NAME.log, line by line to `on_line` too."""
        path = self.log_path(name)
        position = self._log_end(name)
        process = self._spawn(name, command)
        try:
            while True:
                ended = process.poll() is not None
                lines, position = _new_lines(path, position)
                if on_line is not None:
                    for line in lines:
                        on_line(line)
                if ended:
                    return process.returncode
                self.pause()
        finally:
            self._kill_group(process)

    # --- Watching ---

    def watch(self) -> None:
        """Restart what dies and show important log lines, until a stop is asked for (then raises Stopped)."""
        while True:
            self.tend()
            self.pause(WATCH_SECONDS)

    def tend(self) -> None:
        """One round: notice deaths, start what is due, show what matters."""
        now = time.monotonic()
        for child in self.children:
            self._show_important(child)
            if child.process is not None and not child.alive:
                self._bury(child, now)
            elif child.process is None and now >= child.due_at:
                say(f"caliper: starting {child.name} again")
                self._start(child)
        self._reap()

    def _bury(self, child: Child, now: float) -> None:
        process = child.process
        assert process is not None
        self._kill_group(process)
        child.process = None
        if child.may_end and process.returncode == 0:
            child.due_at = math.inf
            return
        child.failures = 1 if now - child.started_at > SETTLED_SECONDS else child.failures + 1
        wait = min(LONGEST_BACK_OFF_SECONDS, 2.0 ** (child.failures - 1))
        child.due_at = now + wait
        say(
            f"caliper: {child.name} {describe_exit(process.returncode)}; starting it again in {wait:.0f} s "
            f"(log: {self.log_path(child.name)})"
        )
        self._end(self._strays(), grace=5.0)

    def _show_important(self, child: Child) -> None:
        lines, child.read_to = _new_lines(self.log_path(child.name), child.read_to)
        important = [line for line in lines if IMPORTANT.search(line)]
        for line in important[:IMPORTANT_LINES]:
            say(f"[{child.name}] {line[:500]}")
        if len(important) > IMPORTANT_LINES:
            more = len(important) - IMPORTANT_LINES
            say(f"[{child.name}] and {more} more in {self.log_path(child.name)}")

    # --- Stopping ---

    def stop(self) -> None:
        """End every child and all of their offspring: asked first, killed after a grace; none is left."""
        ordinary = [child for child in self.children if not child.last]
        last = [child for child in self.children if child.last]
        patience = self.signals
        for group in (ordinary, last):
            asked = [child.process for child in group if child.process is not None]
            offspring = self._offspring(asked)
            for process in asked:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            end = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < end and self.signals <= patience:
                if all(process.poll() is not None for process in asked):
                    break
                time.sleep(POLL_SECONDS)
            for process in asked:
                self._kill_group(process)
            self._end(offspring, grace=0.0)
        for child in self.children:
            child.process = None
        self._end(self._strays(), grace=0.0)
        self._reap()

    @staticmethod
    def _offspring(processes: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                found += psutil.Process(process.pid).children(recursive=True)
        return found

    def _strays(self) -> list[psutil.Process]:
        """Processes below this one that belong to no living child."""
        own = {child.process.pid for child in self.children if child.process is not None}
        strays: list[psutil.Process] = []
        for process in psutil.Process().children():
            if process.pid not in own:
                with contextlib.suppress(psutil.Error):
                    strays += [process, *process.children(recursive=True)]
        return strays

    @staticmethod
    def _end(processes: list[psutil.Process], *, grace: float) -> None:
        """Ask these to end, if there is a grace, then kill them."""
        if grace:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.terminate()
            processes = psutil.wait_procs(processes, timeout=grace)[1]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=5.0)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the session that `process` leads, and collect its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _reap(self) -> None:
        """Collect the exit codes of adopted orphans that have ended, so that none stays as a zombie."""
        own = {child.process.pid for child in self.children if child.process is not None}
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if process.pid not in own and process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)


def _new_lines(path: Path, position: int) -> tuple[list[str], int]:
    """Whole lines written to the file since `position`, and the position after them."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            text = file.read(LOG_LIMIT_BYTES)
    except FileNotFoundError:
        return [], 0
    end = text.rfind(b"\n") + 1
    return text[:end].decode("utf-8", "replace").splitlines(), position + end


def describe_exit(code: int) -> str:
    """'was killed by SIGKILL (out of memory?)', 'stopped with exit code 1' ..."""
    if code >= 0:
        return f"stopped with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
