"""docker-compose.yml is valid, and its commands name what exists. (Building needs a Docker engine: not here.)"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from django.conf import settings

REPOSITORY = Path(__file__).resolve().parents[2]
SECRETS = {"CALIPER_SECRET_KEY": "k" * 48, "POSTGRES_PASSWORD": "p" * 48, "REDIS_PASSWORD": "r" * 48}


def example_environment() -> dict[str, str]:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, environment: dict[str, str]) -> str:
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?error}; $$ is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = environment.get(match["name"], "")
        if not found and match["operator"] == ":?":
            raise LookupError(f"{match['name']}: {match['rest']}")
        return found or (match["rest"] if match["operator"] == ":-" else "")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\}", value, text)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    text = interpolate((REPOSITORY / "docker-compose.yml").read_text(), {**example_environment(), **SECRETS})
    return yaml.safe_load(text)["services"]


def test_it_is_valid_by_the_compose_specification() -> None:
    text = interpolate((REPOSITORY / "docker-compose.yml").read_text(), {**example_environment(), **SECRETS})
    # Merge keys (<<) are YAML's, not Compose's: resolve them first.
    document = PyCompose.from_yaml(
        yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k[:2] != "x-"})
    )
    document.validate()


def test_the_example_environment_asks_for_the_secrets() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    for name in SECRETS:
        others = {key: value for key, value in SECRETS.items() if key != name}
        with pytest.raises(LookupError, match=f"^{name}: draw one"):
            interpolate(text, {**example_environment(), **others})


def test_every_variable_is_in_the_example_environment() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) <= set(example_environment())


def test_all_parts_are_there(services: dict[str, Any]) -> None:
    assert {
        "web",
        "worker",
        "beat",
        "postgres",
        "redis",
        "gpu-worker",
        "score-worker",
        "housekeeping",
        "proxy",
        "web-replica",
        "pgbouncer",
        "reward-server",
    } <= set(services)
    assert services["gpu-worker"]["profiles"] == ["gpu"]
    assert services["proxy"]["profiles"] == ["proxy"]
    assert services["reward-server"]["profiles"] == ["serve"]
    assert not {"DATABASE_URL", "REDIS_URL", "CALIPER_SECRET_KEY"} & set(
        services["reward-server"]["environment"]
    )
    assert services["web-replica"]["profiles"] == ["scaled"]
    assert services["web-replica"]["networks"]["default"]["aliases"] == ["web"], (
        "the name that the proxy asks for"
    )
    for part in ("environment", "volumes", "healthcheck", "depends_on"):
        assert services["web-replica"][part] == services["web"][part]
    for name, service in services.items():
        if name == "migrate":
            assert service["healthcheck"] == {"disable": True}, "its image asks for a web server"
        else:
            assert service["healthcheck"]["test"], name
    for name, lowest in (("postgres", 15), ("redis", 7)):
        match = re.match(rf"{name}:(\d+)", services[name]["image"])
        assert match is not None
        assert int(match[1]) >= lowest


def test_every_wait_is_for_a_service_that_can_meet_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
            else:
                assert services[other]["restart"] in ("no", "on-failure"), (name, other)


def test_every_image_is_a_target_of_the_dockerfile(services: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE))
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in targets


def test_every_volume_is_declared(services: dict[str, Any]) -> None:
    declared = set(yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == declared


def commands() -> list[list[str]]:
    """The command of every service and image, and of their health checks, as word lists."""
    text = interpolate((REPOSITORY / "docker-compose.yml").read_text(), {**example_environment(), **SECRETS})
    found: list[list[str]] = []
    for service in yaml.safe_load(text)["services"].values():
        found += [service["command"]] if "command" in service else []
        how, *words = service.get("healthcheck", {}).get("test", ["NONE"])
        found += [words[0].split() if how == "CMD-SHELL" else words] if words else []
    joined = re.sub(r"\\\n\s*", "", (REPOSITORY / "Dockerfile").read_text())
    found += [yaml.safe_load(words) for words in re.findall(r"CMD (\[.*\])$", joined, re.MULTILINE)]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_name_what_exists(command: list[str]) -> None:
    program = command[0]
    if program == "python" and command[1] == "-m":
        assert importlib.util.find_spec(command[2]) is not None
    elif program == "python":
        help_text = subprocess.run(
            [sys.executable, *command[1:3], "--help"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert help_text.returncode == 0, help_text.stderr
    elif program == "gunicorn":
        module, _, name = command[1].partition(":")
        assert hasattr(importlib.import_module(module), name)
        options = [word for word in command if word.startswith("--")]
        known = subprocess.run(
            [sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert all(option in known for option in options)
    elif program == "celery":
        assert command[1] == "-A"
        assert importlib.util.find_spec(command[2]) is not None
        kind = command[3]
        known = subprocess.run(
            [sys.executable, "-m", "celery", kind, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert all(option in known for option in command[4:] if option.startswith("--"))
        if "-Q" in command:
            assert command[command.index("-Q") + 1] in ("default", "train", "score", "housekeeping")
    else:
        assert program in ("pg_isready", "redis-server", "redis-cli", "wget", "psql", "sh", "postgres")


def test_a_queue_without_reader_is_not_left(services: dict[str, Any]) -> None:
    """With either profile all queues are read, each by one service of that profile."""
    for profile in ("cpu", "gpu"):
        queues = sorted(
            service["command"][service["command"].index("-Q") + 1]
            for service in services.values()
            if "-Q" in service.get("command", []) and profile in service.get("profiles", [profile])
        )
        assert queues == ["default", "housekeeping", "score", "train"]


def test_every_service_is_confined_limited_and_its_log_kept_small(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert any(place.startswith("/tmp") for place in service["tmpfs"]), name
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        if "build" in service:
            assert "cap_add" not in service, name


def test_the_proxy_has_the_limit_of_uploads(services: dict[str, Any]) -> None:
    """And each name that its file asks for is handed to it."""
    text = (REPOSITORY / "docs" / "Caddyfile").read_text()
    assert "max_size {$CALIPER_MAX_UPLOAD_MB:200}MiB" in text
    assert "dynamic a web 8000" in text
    assert set(re.findall(r"\{\$(\w+)", text)) == set(services["proxy"]["environment"])
    assert str(services["proxy"]["environment"]["CALIPER_MAX_UPLOAD_MB"]) == str(
        settings.MAX_UPLOAD_BYTES // 1024**2
    )


# What the settings read that an installation by compose doesn't choose: the image says where files lie, addresses are
# made of the passwords, and debugging is never for production.
NOT_FORWARDED = {"CALIPER_DATA_DIR", "CALIPER_STATIC_ROOT", "CALIPER_DEBUG"}
COMPOSED = {"DATABASE_URL", "REDIS_URL"}


def settings_names() -> list[str]:
    return sorted(
        set(re.findall(r'env(?:\.\w+)?\(\s*"(\w+)"', (REPOSITORY / "webapp" / "settings.py").read_text()))
    )


def described_settings() -> dict[str, str]:
    """Name -> its cell of defaults, of docs/settings.md."""
    table = (REPOSITORY / "docs" / "settings.md").read_text()
    rows = [line.split(" | ", 2) for line in table.splitlines() if line.startswith("| `")]
    return {name: row[1] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def forwarded() -> dict[str, str]:
    return yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["x-environment"]


@pytest.mark.parametrize("name", settings_names())
def test_every_setting_is_described_and_can_be_set(name: str) -> None:
    assert name in described_settings(), f"docs/settings.md lacks {name}"
    if name in NOT_FORWARDED:
        return
    assert name in forwarded(), f"docker-compose.yml does not forward {name}"
    if name not in COMPOSED:
        assert name in example_environment(), f".env.example lacks {name}"


@pytest.mark.parametrize("name", sorted(forwarded()))
def test_what_is_forwarded_is_a_setting_with_its_default(name: str) -> None:
    known = {*settings_names(), *described_settings()}
    assert name in known, f"docker-compose.yml forwards {name}, which nothing reads"
    default = re.search(r":-(.*)\}$", forwarded()[name])
    stated = re.fullmatch(r"`([\w.]+)`", described_settings().get(name, ""))
    if default is None or name == "CALIPER_BEHIND_TLS":  # compose is for production, where that is true
        return
    if stated:
        assert default[1] == stated[1], (
            f"{name} has another default in docker-compose.yml than in docs/settings.md"
        )
    if name not in ("CALIPER_CSRF_TRUSTED_ORIGINS",):  # the example's name is an example
        assert example_environment()[name] == default[1], f"{name} has another default in .env.example"
