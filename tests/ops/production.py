"""An installation as docker-compose.yml makes it, without Docker: each service's own command, as nobody."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml

from tests.run import postgres_url
from webapp import embedded

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
PASSWORD = "p" * 40


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Production:
    """PostgreSQL of the tests, a Redis of its own, folders that only nobody may write, and what runs on them."""

    def __init__(self, services: dict[str, Any]) -> None:
        self.services = services
        if (server := postgres_url()) is None:
            pytest.skip("no PostgreSQL at 127.0.0.1:5432 and no TEST_DATABASE_URL")
        self.server = server
        self.root = Path(tempfile.mkdtemp(prefix="caliper-production-"))
        self.root.chmod(0o755)
        self.port, self.redis_port = free_port(), free_port()
        self.databases: list[str] = []
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.as_nobody = os.geteuid() == 0
        interpreter = Path(sys.base_prefix) / "lib"
        self.python_is_open = all(
            folder.stat().st_mode & 0o001
            for folder in (interpreter, *interpreter.parents, REPOSITORY, *REPOSITORY.parents)
        )
        self.environment = self.installation("main")

    def installation(self, name: str, *, sqlite: bool = False) -> dict[str, str]:
        """The environment of an installation with an empty database and data folder."""
        data = self.folder(f"{name}-data")
        if sqlite:
            database = f"sqlite:///{data}/db.sqlite3"
        else:
            self.databases.append(f"caliper_{uuid4().hex[:12]}")
            with psycopg.connect(self._plain_server(), autocommit=True) as admin:
                admin.execute(f'CREATE DATABASE "{self.databases[-1]}"')
            database = f"{self.server.rpartition('/')[0]}/{self.databases[-1]}"
        # As the container's: compose's block, less what says where things are.
        forwarded = {
            key: "" if value is None else str(value)
            for key, value in self.services["web"]["environment"].items()
        }
        return {
            **forwarded,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "HOSTNAME": socket.gethostname(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.folder(f"{name}-tmp")),
            "CALIPER_DATA_DIR": str(data),
            "CALIPER_STATIC_ROOT": str(self.root / "static"),
            "DATABASE_URL": database,
            "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{self.redis_port}/0",
            "REDISCLI_AUTH": PASSWORD,
            "PORT": str(self.port),
            "CALIPER_TICK_SECONDS": "2",
            # Its answers are asked for on a terminal otherwise.
            "DJANGO_SUPERUSER_USERNAME": "root",
            "DJANGO_SUPERUSER_PASSWORD": "correct horse battery",
            "DJANGO_SUPERUSER_EMAIL": "root@example.org",
        }

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        if self.as_nobody:
            os.chown(path, NOBODY, NOBODY)
        return path

    def _nobody(self) -> list[str]:
        if not self.as_nobody:
            return []
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        # Where this Python lies in a home folder that is closed to others, nobody may read there, but not write.
        kept = "" if self.python_is_open else ",+dac_read_search"
        return [*words, *(f"--{kind}=-all{kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set"))]

    def _plain_server(self) -> str:
        return self.server.replace("postgres://", "postgresql://", 1)

    def words(self, command: list[str]) -> list[str]:
        """Only places differ from a container's: ports that are free here, and a schedule in a folder of its own."""
        if command[0] == "redis-server":
            return [embedded.find_redis_server(), *command[1:-1], PASSWORD, "--port", str(self.redis_port),
                    "--dir", str(self.folder("redis"))]  # fmt: skip
        if command[0] == "redis-cli":
            return [command[0], "-p", str(self.redis_port), *command[1:]]
        places = {":8000": f":{self.port}", "/tmp/celerybeat": f"{self.root}/main-tmp/celerybeat"}
        for old, new in places.items():
            command = [re.sub(rf"{re.escape(old)}(?=$|\w)", new, word) for word in command]
        return [sys.executable, *command[1:]] if command[0] == "python" else command

    def run(
        self, command: list[str], environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._nobody(), *self.words(command)],
            cwd=REPOSITORY, env=environment or self.environment, timeout=60,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def start(self, service: str) -> None:
        log = (self.root / f"{service}.log").open("wb")
        command = self.services[service].get("command") or self.image_command(service)
        self.started[service] = subprocess.Popen(
            [*self._nobody(), *self.words(command)],
            cwd=REPOSITORY, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def image_command(self, service: str) -> list[str]:
        """The CMD of the service's stage in the Dockerfile."""
        target = self.services[service]["build"]["target"]
        joined = re.sub(r"\\\n\s*", "", (REPOSITORY / "Dockerfile").read_text())
        stage = re.split(r"^FROM \S+ AS ", joined, flags=re.MULTILINE)
        (text,) = [each for each in stage if each.startswith(f"{target}\n")]
        return yaml.safe_load(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[0])

    def healthy(self, service: str) -> subprocess.CompletedProcess[str]:
        how, *words = self.services[service]["healthcheck"]["test"]
        if how == "CMD-SHELL":
            line = words[0].replace("redis-cli", f"redis-cli -p {self.redis_port}")
            return self.run(["sh", "-c", line])
        return self.run(words)

    def until(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            for name, process in self.started.items():
                assert process.poll() is None, f"{name} ended: {self.said(name)}"
            assert time.monotonic() < end, {name: self.said(name) for name in self.started}
            time.sleep(0.3)

    def said(self, service: str) -> str:
        return (self.root / f"{service}.log").read_text()[-3000:]

    def stop(self) -> None:
        for process in reversed(self.started.values()):
            process.terminate()
        for process in self.started.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with psycopg.connect(self._plain_server(), autocommit=True) as admin:
            for name in self.databases:
                admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        shutil.rmtree(self.root, ignore_errors=True)


def handbook() -> list[tuple[str, str]]:
    """Section and line of every command in docs/production.md."""
    found, section, inside = [], "", False
    for line in (REPOSITORY / "docs" / "production.md").read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("```"):
            inside = line == "```sh"
        elif inside and line.strip():
            found.append((section, line))
    return found
