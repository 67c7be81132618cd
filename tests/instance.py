"""A whole embedded Caliper in processes of its own, for the tests that start, drive and stop one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from webapp import embedded

REPOSITORY = Path(__file__).resolve().parents[1]


def own_environment(data: Path) -> dict[str, str]:
    """This process's environment with a data folder of its own and none of the test run's servers."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REDIS_URL")}
    for name in ("DATABASE_URL", "CALIPER_TESTS", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    return environment | {"CALIPER_DATA_DIR": str(data)}


def redis_started(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A Redis server of the tests' own, as the embedded Caliper starts it, that answers; and its URL."""
    config, url = embedded.write_redis_config(folder)
    process = subprocess.Popen([embedded.find_redis_server(), str(config)], stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            embedded.check_redis_url(url)
            break
        except embedded.Refusal:
            time.sleep(0.1)
    return process, url


class Instance:
    """One embedded Caliper under test, on a free port; `settings` are environment variables of its own."""

    def __init__(self, data: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data = data
        self.console = data.with_suffix(".console")
        environment = own_environment(data) | settings | {"PORT": str(self.port)}
        self.began = time.monotonic()
        with self.console.open("w") as console:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "webapp.embedded"],
                cwd=REPOSITORY,
                env=environment,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self.console.read_text()

    def until(self, condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def ready(self) -> "Instance":
        self.until(lambda: "Stop: Ctrl-C" in self.said())
        return self

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10) as response:
            return json.load(response)

    def processes(self) -> list[psutil.Process]:
        """Every process on this machine that has this instance's data folder in its environment or its words."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.environ().get("CALIPER_DATA_DIR", "")]
            except psutil.Error:
                continue
            if process.pid != os.getpid() and any(str(self.data) in word for word in words):
                found.append(process)
        return found

    def find(self, *words: str) -> list[psutil.Process]:
        return [process for process in self.processes() if set(words) <= set(process.cmdline())]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def destroy(self) -> None:
        for process in self.processes():
            process.kill()
        self.process.wait()
