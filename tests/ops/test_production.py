"""Production without Docker: every service's command as an unprivileged user, and every command of the handbook."""

import gzip
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.production import REPOSITORY, Production, handbook
from tests.ops.test_compose import SECRETS, example_environment, interpolate

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("production")]

RUNNING = ("redis", "web", "beat", "worker", "housekeeping", "cpu-worker")
# Options of `docker compose` and `docker run` that the handbook uses; those with a value, True.
COMPOSE = {
    "config": {"--quiet": False},
    "up": {"-d": False, "--build": False, "--wait": False, "--scale": True},
    "build": {"--pull": False},
    "ps": {},
    "stop": {},
    "restart": {},
    "logs": {"--since": True, "--tail": True},
    "exec": {},
    "run": {"--rm": False, "-v": True},
}
DOCKER_RUN = {
    "-d": False,
    "--restart": True,
    "--gpus": True,
    "--shm-size": True,
    "--env-file": True,
    "-v": True,
}


def compose_services() -> dict[str, Any]:
    text = interpolate((REPOSITORY / "docker-compose.yml").read_text(), {**example_environment(), **SECRETS})
    return yaml.safe_load(text)["services"]


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    """All services up: started in the order in which compose does it."""
    made = Production(compose_services())
    try:
        made.start("redis")
        made.until(lambda: made.healthy("redis").returncode == 0)
        made.folder("static")
        for command in (
            ["python", "manage.py", "collectstatic", "--noinput"],
            made.services["migrate"]["command"],
        ):
            result = made.run(command)
            assert result.returncode == 0, result.stdout + result.stderr
        for service in RUNNING[1:]:
            made.start(service)
        yield made
    finally:
        made.stop()


def test_every_service_runs_as_nobody_and_says_that_it_is_well(production: Production) -> None:
    left = set(RUNNING)
    # A ping of a worker that isn't there yet waits for its whole time.
    workers = [name for name in RUNNING if "worker" in production.services[name].get("command", [])]
    production.until(lambda: all(" ready." in production.said(name) for name in workers))

    def well() -> bool:
        left.difference_update([name for name in left if production.healthy(name).returncode == 0])
        return not left

    production.until(well)
    request = urllib.request.Request(
        f"http://127.0.0.1:{production.port}/sign-in/",
        headers={"Host": "caliper.example.org", "X-Forwarded-Proto": "https"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert "Strict-Transport-Security" in response.headers
        assert b"Sign in" in response.read()


def test_pages_are_compressed_and_static_files_kept_for_years(production: Production) -> None:
    """By gunicorn: each file that a page names has a hash in its name, those of others too."""
    headers = {
        "Host": "caliper.example.org",
        "X-Forwarded-Proto": "https",
        "Accept-Encoding": "gzip",
    }

    def get(address: str) -> tuple[Any, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{production.port}{address}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            return response.headers, gzip.decompress(response.read())

    production.until(lambda: production.healthy("web").returncode == 0)
    _, page = get("/sign-in/")
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.decode())
    assert len([each for each in files if "/vendor/" in each]) == 2
    assert len(files) > 6
    for each in files:
        assert re.search(r"\.[0-9a-f]{12}\.(css|js|svg)$", each)
        kept, _ = get(each)
        assert re.fullmatch(r"max-age=\d{8,}, public, immutable", kept["Cache-Control"])


def test_beat_that_is_silent_is_told(production: Production) -> None:
    """In a database of Redis that it never wrote to, and where no Redis answers."""
    address = production.environment["REDIS_URL"]
    for url, words in (
        (address.replace("/0", "/5"), "beat has sent no tick for a while"),
        ("redis://127.0.0.1:1/0", "no answer from the broker"),
    ):
        answer = production.run(
            ["python", "-m", "webapp.probe", "beat"], production.environment | {"REDIS_URL": url}
        )
        assert answer.returncode == 1
        assert words in answer.stdout


def parse(words: list[str], options: dict[str, bool]) -> tuple[list[tuple[str, str]], list[str]]:
    """Options with their values, and the rest. Unknown options fail the test."""
    given, rest = [], list(words)
    while rest and rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        assert name in options, f"is there such an option? {name}"
        given.append((name, (value or rest.pop(0)) if options[name] else ""))
    return given, rest


def inner(
    command: str, words: list[str], services: dict[str, Any]
) -> tuple[list[str] | None, list[tuple[str, str]]]:
    """What a `docker compose` line runs in a container (None: nothing new), with its mounts."""
    given, rest = parse(words, COMPOSE[command])
    if command in ("exec", "run"):
        assert rest[0] in services, f"docker-compose.yml has no service {rest[0]}"
        mounts = [tuple(value.split(":")) for name, value in given if name == "-v"]
        return rest[1:] or services[rest[0]]["command"], mounts  # type: ignore[return-value]
    named = [*rest, *(value.split("=")[0] for name, value in given if name == "--scale")]
    assert set(named) <= set(services), f"docker-compose.yml has no {set(named) - set(services)}"
    return None, []


def test_every_command_of_the_handbook(production: Production, tmp_path: Path) -> None:
    """In its order, on one installation; what is restored goes into an empty one."""
    production.until(lambda: production.run(["python", "-m", "webapp.probe"]).returncode == 0)
    backups, imports = production.folder("backups"), production.folder("imports")
    (imports / "pairs.jsonl").write_bytes((REPOSITORY / "webapp/corpus/demo/corpus.jsonl").read_bytes())
    local = {"/srv/backups": str(backups), "/srv/imports": str(imports)}
    for table in (production.environment, sqlite := production.installation("small", sqlite=True)):
        seeded = production.run(["python", "manage.py", "migrate", "--noinput"], table)
        assert seeded.returncode == 0, seeded.stderr
        seeded = production.run(["python", "manage.py", "shell", "-c", SEED], table)
        assert seeded.returncode == 0, seeded.stderr
    subprocess.run(["sh", "-ec", f"{GIT}cp {REPOSITORY}/.env.example ."], cwd=tmp_path, check=True)
    commands = handbook()
    assert len(commands) > 30
    digests: dict[str, list[str]] = {}
    before, environment = "", production.environment
    for section, line in commands:
        if section != before:
            fresh = section == "Restore" or section.startswith("Move")
            environment = (
                production.installation(section.split()[0].lower()) if fresh else production.environment
            )
            before = section
        words = shlex.split(line)
        where = environment
        if words[0] == ".venv/bin/python":
            command, mounts, where = ["python", *words[1:]], [("/srv/backups", "/srv/backups")], sqlite
        elif words[:2] == ["docker", "compose"]:
            found, mounts = inner(words[2], words[3:], production.services)
            if found is None:
                continue
            command = found
        elif words[0] == "docker":
            docker(words, production.services)
            continue
        else:
            host(words, tmp_path, backups)
            continue
        for outside, inside in mounts:
            command = [re.sub(rf"^{re.escape(inside)}(?=/)", local[outside], word) for word in command]
        if command[2:3] == ["createsuperuser"]:
            if section != "Install":
                continue
            command = [*command, "--noinput"]
        result = production.run(command, where)
        assert result.returncode == 0, f"{section}: {line}\n{result.stdout}{result.stderr}"
        if digest := re.search(r"digest (\w{64})", result.stdout):
            digests.setdefault(f"{section.split()[0]}", []).append(digest[1])
    assert len(digests["Back"]) == 1
    assert digests["Restore"] == digests["Back"] * 2, "what is restored is what was backed up"
    assert len(set(digests["Move"])) == 1
    assert len(digests["Move"]) == 2


SEED = """
from webapp.corpus.models import Project
from webapp.accounts.models import User
Project.objects.create(slug="demo", name="Demo")
User.objects.create_user("anna")
"""
GIT = """
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q origin && git -C origin commit -q --allow-empty -m one && git clone -q origin checkout
"""


def docker(words: list[str], services: dict[str, Any]) -> None:
    """`docker build` of a stage that there is; `docker run` of the very command of the GPU worker."""
    if words[1] == "build":
        given, rest = parse(words[2:], {"--target": True, "-t": True})
        assert f" AS {dict(given)['--target']}\n" in (REPOSITORY / "Dockerfile").read_text()
        assert rest == ["."]
        return
    assert words[1] == "run"
    _, (image, *command) = parse(words[2:], DOCKER_RUN)
    assert ("caliper-gpu", "docker build --target gpu -t caliper-gpu .") in [
        (image, line) for _, line in handbook()
    ]
    assert command == services["gpu-worker"]["command"]


def host(words: list[str], folder: Path, backups: Path) -> None:
    """What is done on the host itself, in a folder of its own."""
    if words[0] == "cp":
        where = folder
    elif words[0] == "git":
        where = folder / "checkout"
    else:
        assert words[:3] == ["sudo", "install", "-d"], f"no test knows how to run {words}"
        # Another user than the test's own can't be given folders, and the test's nobody isn't the image's user.
        words = ["install", "-d", "-m", "700", str(folder / "backups")]
        assert "--uid 10001" in (REPOSITORY / "Dockerfile").read_text()
        where = folder
    subprocess.run(words, cwd=where, check=True)
