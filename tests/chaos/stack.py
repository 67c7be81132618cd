"""A Caliper of several processes on this machine alone, made to be ill-treated: what chaos.py starts, breaks and ends.

PostgreSQL (a database of its own on the local server) where there is one, else SQLite; a private Redis, gunicorn,
a worker each for the queues, beat. Each child is in a session of its own; whatever dies is started again.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import psycopg

from tests.instance import REPOSITORY, own_environment
from webapp import embedded

TRAINER = Path(__file__).with_name("trainer.py")
LOCAL_SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"
TICK_SECONDS = 2
LOST_AFTER_SECONDS = 8
RESTART_SECONDS = 0.5


class Stack:
    """Between start() and end() dead children come back by themselves."""

    def __init__(self, folder: Path, *, postgres: bool) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.port = embedded._free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config, redis_url = embedded.write_redis_config(self.data)
        self.environment = own_environment(self.data) | {
            "REDIS_URL": redis_url,
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "CALIPER_TICK_SECONDS": str(TICK_SECONDS),
            "CALIPER_JOB_LOST_AFTER_SECONDS": str(LOST_AFTER_SECONDS),
            "CALIPER_TRAIN_COMMAND": f"{sys.executable} {TRAINER}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.database = f"caliper_chaos_{secrets.token_hex(6)}" if postgres else ""
        if postgres:
            self._server(f'CREATE DATABASE "{self.database}"')
            self.environment["DATABASE_URL"] = f"postgres://postgres@127.0.0.1:5432/{self.database}"
        self.commands = self._commands(config)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.closed = threading.Event()
        # While a fault is at work on purpose, nothing is started again.
        self.hands_off = threading.Lock()
        self.guard = threading.Thread(target=self._guard, daemon=True)

    def _commands(self, config: Path) -> dict[str, list[str]]:
        """As the embedded Caliper has them, but for two gunicorn workers and a beat of its own."""
        gunicorn = ["--workers", "2", "--worker-class", "gthread", "--threads", "8", "--timeout", "60"]
        gunicorn += ["--graceful-timeout", "3", "--no-control-socket", "--bind", f"127.0.0.1:{self.port}"]
        commands = {
            "redis": [embedded.find_redis_server(), str(config)],
            "web": [sys.executable, "-m", "gunicorn", *gunicorn, "webapp.wsgi:application"],
        }
        for _, options in embedded.WORKERS:
            queue = options[options.index("-Q") + 1]
            commands[queue] = embedded.worker_command(tuple(word for word in options if word != "-B"))
        beat = [sys.executable, "-m", "celery", "-A", "workers.tasks", "beat", "--pidfile="]
        return {**commands, "beat": [*beat, "--schedule", str(self.data / "schedule")]}

    # --- Running ---

    def start(self) -> None:
        for name in self.commands:
            self._start(name)
        self.guard.start()

    def _start(self, name: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                self.commands[name],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _guard(self) -> None:
        """As a container's restart policy: what has ended is started again."""
        while not self.closed.wait(RESTART_SECONDS):
            with self.hands_off:
                for name, child in list(self.children.items()):
                    if child.poll() is not None and not self.closed.is_set():
                        self._sweep(child.pid)
                        self._start(name)

    @staticmethod
    def _sweep(group: int) -> None:
        """A container that is restarted takes what is left of its processes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)

    def answers(self) -> bool:
        # Any answer will do: /healthz is 503 while a worker is away.
        try:
            urllib.request.urlopen(f"{self.url}/sign-in/", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True

    # --- Processes ---

    def offspring(self, name: str) -> list[psutil.Process]:
        """The processes below a child: gunicorn's workers, a pool's processes, and their trainings."""
        try:
            return psutil.Process(self.children[name].pid).children(recursive=True)
        except psutil.Error:
            return []

    def own_processes(self) -> list[psutil.Process]:
        """Every process with this data folder in its environment or its words, but for this one's own."""
        mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.environ().get("CALIPER_DATA_DIR", "")]
            except psutil.Error:
                continue
            ours = process.pid not in mine and any(str(self.data) in word for word in words)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.children[name].send_signal(number)

    def kill_all(self) -> None:
        """Everything at once, as a power cut does."""
        with self.hands_off:
            # Redis writes its title over its environment: it is known by its group alone.
            for child in self.children.values():
                self._sweep(child.pid)
            for process in self.own_processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            for child in self.children.values():
                child.wait(10)

    # --- PostgreSQL ---

    @staticmethod
    def _server(statement: str, values: Sequence[str] = ()) -> int:
        with psycopg.connect(LOCAL_SERVER, autocommit=True, connect_timeout=3) as connection:
            return connection.execute(statement, values).rowcount  # type: ignore[arg-type]

    def cut_connections(self) -> int:
        words = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        return self._server(words, [self.database])

    # --- The end ---

    def end(self) -> list[str]:
        """Stop in good order, kill the rest, drop the database. What had outlived the order, in words."""
        self.closed.set()
        if self.guard.ident is not None:
            self.guard.join()
        for name, child in self.children.items():
            if name != "redis":
                child.terminate()
        for name, child in self.children.items():
            if name != "redis":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(15)
        if "redis" in self.children:
            self.signal("redis", signal.SIGCONT)
            self.children["redis"].terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.children["redis"].wait(10)
        strays = self.own_processes()
        for child in self.children.values():
            if child.poll() is None:
                strays.append(psutil.Process(child.pid))
        words = []
        for process in strays:
            with contextlib.suppress(psutil.Error):
                words.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
                process.kill()
        psutil.wait_procs(strays, timeout=5)
        for child in self.children.values():
            child.poll()
        if self.database:
            self._server(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)')
            self.database = ""
        return words


def postgres_answers() -> bool:
    try:
        psycopg.connect(LOCAL_SERVER, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True
