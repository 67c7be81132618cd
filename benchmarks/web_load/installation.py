"""A Caliper of its own on 127.0.0.1, with the processes of docker-compose.yml but for those that train and score."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.web_load import material
from tests.chaos.stack import Stack
from tests.instance import REPOSITORY

READY_SECONDS = 90


def _django(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    import django

    django.setup()


class Installation(Stack):
    """`call` runs a function in a process whose Django is this installation's."""

    def __init__(self, folder: Path, *, postgres: bool) -> None:
        super().__init__(folder, postgres=postgres)
        # The defaults of production, where the chaos stack has its own.
        for name in ("CALIPER_TICK_SECONDS", "CALIPER_JOB_LOST_AFTER_SECONDS", "CALIPER_TRAIN_COMMAND"):
            del self.environment[name]
        self.environment["CALIPER_LOG_LEVEL"] = "WARNING"
        self.folder = folder
        self.inside = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_django, initargs=(self.environment,)
        )

    def _commands(self, config: Path) -> dict[str, list[str]]:
        commands = super()._commands(config)
        commands["web"] = [sys.executable, "-m", *self._gunicorn()]
        return {name: commands[name] for name in ("redis", "web", "default", "housekeeping", "beat")}

    def _gunicorn(self) -> list[str]:
        """The words of the image of docker-compose's web service, on this port."""
        image = (REPOSITORY / "Dockerfile").read_text()
        [words] = re.findall(r'^CMD \[("gunicorn".*?)\]$', image.replace("\\\n", ""), re.MULTILINE)
        return [
            word.replace("0.0.0.0:8000", f"127.0.0.1:{self.port}") for word in re.findall(r'"(.*?)"', words)
        ]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.inside.submit(function, *arguments).result()

    def load(self, slug: str, pairs: int, *, votes: bool) -> None:
        """Import so many pairs into the project, by the product's own command."""
        file = self.folder / f"{slug}.jsonl"
        count = material.write(file, pairs, votes=votes)
        began = time.perf_counter()
        command = [sys.executable, "manage.py", "import_data", "--project", slug, str(file)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"web_load: the import failed: {done.stderr[-2000:]}")
        took = time.perf_counter() - began
        print(f"  {slug}: {count:,} rows imported in {took:.0f} s ({count / took:,.0f} rows/s)", flush=True)
        file.unlink()

    def ready(self) -> None:
        self.start()
        if not self.wait_for(self.answers, READY_SECONDS):
            raise SystemExit(f"web_load: the web process did not answer; see {self.logs}")

    def used(self) -> dict[tuple[str, int], float]:
        """Seconds of CPU so far of the web processes, this database's connections and this process, by pid."""
        found = {("web", process.pid): _seconds(process) for process in self.offspring("web")}
        for process in psutil.process_iter(["name", "cmdline"]) if self.database else ():
            words = " ".join(process.info["cmdline"] or [])
            if process.info["name"] == "postgres" and self.database in words:
                found["database", process.pid] = _seconds(process)
        return {**found, ("client", 0): time.process_time()}

    def end(self) -> list[str]:
        self.inside.shutdown()
        return super().end()


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
