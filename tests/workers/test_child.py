"""What a child process is given, and what is said of one that ended badly."""

import os
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from webapp.corpus.base_models import base_model_public
from workers import child, runs
from workers.rewards.models.base_models import public_name

# What people may name their secrets, and what none of our settings is called yet.
OTHERS = [
    *("REDIS_URL_FILE", "DATABASE_URL_FILE", "CALIPER_SECRET_KEY_FILE", "EMAIL_HOST_PASSWORD", "EMAIL_URL"),
    *(
        "CALIPER_EMAIL_URL",
        "OIDC_CLIENT_SECRET",
        "CALIPER_OIDC_CLIENT_SECRET_FILE",
        "POSTGRES_PASSWORD",
        "PGPASSWORD",
    ),
    *("REDIS_PASSWORD", "SENTRY_DSN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "S3_KEY", "CELERY_BROKER_URL"),
    *("HF_TOKEN_FILE", "SOMETHING_NEW"),
]


def settings_names() -> list[str]:
    """Every variable that the settings read."""
    found = re.findall(r"env\.\w+\(\s*\"(\w+)\"", (REPOSITORY / "webapp" / "settings.py").read_text())
    assert {"DATABASE_URL", "REDIS_URL", "CALIPER_SECRET_KEY"} <= set(found)
    # What base models are loaded with; a child needs these too.
    return [
        name for each in found for name in (each, f"{each}_FILE") if name not in ("HF_TOKEN", "HF_ENDPOINT")
    ]


def test_a_child_is_given_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*settings_names(), *OTHERS):
        monkeypatch.setenv(name, "hidden-value")
    given = child.environment()
    assert [name for name, value in given.items() if "hidden-value" in value] == []


def test_a_child_is_given_what_a_training_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        *(
            "HF_TOKEN",
            "HF_HOME",
            "HF_HUB_OFFLINE",
            "HF_ENDPOINT",
            "CUDA_VISIBLE_DEVICES",
            "LD_LIBRARY_PATH",
            "PATH",
        ),
        *(
            "HOME",
            "OMP_NUM_THREADS",
            "NCCL_DEBUG",
            "PYTHONPATH",
            "CALIPER_CACHE_DIR",
            "https_proxy",
            "SSL_CERT_FILE",
        ),
        *(
            "TORCH_HOME",
            "PYTORCH_CUDA_ALLOC_CONF",
            "ACCELERATE_USE_CPU",
            "XDG_CACHE_HOME",
            "TMPDIR",
            "LC_ALL",
        ),
    ]
    for name in needed:
        monkeypatch.setenv(name, "7")
    given = child.environment()
    assert {name: given.get(name) for name in needed} == dict.fromkeys(needed, "7")
    assert given["CALIPER_BASE_FOLDERS"] == "[]", "no folder of this machine unless the worker allows it"
    assert {name for name in given if name.startswith("CALIPER_")} == {
        "CALIPER_BASE_FOLDERS",
        "CALIPER_CACHE_DIR",
        "CALIPER_PARENT_PID",
    }


def test_the_child_sees_it_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", "/run/secrets/redis")
    monkeypatch.setattr(child, "POLL_SECONDS", 0.05)
    status = child.supervise(["env"], folder=tmp_path, cwd=tmp_path, each_second=lambda progress: True)
    log = (tmp_path / "log.txt").read_text()
    assert status == 0
    assert f"CALIPER_PARENT_PID={os.getpid()}" in log
    assert "REDIS" not in log


def test_both_halves_name_alike() -> None:
    """They share no code; a name that one shows and the other hides would be told somewhere."""
    names = [
        "starter",
        "all-MiniLM-L6-v2",
        "org/name",
        "org/name@v/2",
        "folder:a/b",
        "version:oprm-3",
        "endpoint:local",
        "gpt2",
        "/a/b",
    ]
    names += [
        "a/b/c",
        "folder:../a",
        "folder:/a",
        "version:",
        "endpoint:a/b",
        "endpoint:http://a/v1",
        "org/..",
        "../a",
        "~/a",
        "",
        "org/name@",
    ]
    assert [public_name(name) for name in names] == [base_model_public(name) for name in names]


# --- A full disk ---

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    def leave(amount: int) -> None:
        monkeypatch.setattr(runs.shutil, "disk_usage", lambda folder: Usage(1 << 40, 0, amount))

    leave(1 << 39)
    return leave


@pytest.mark.parametrize(
    ("told", "log", "left", "status", "full"),
    [
        ("", "", 5 << 20, 1, True),  # neither error.json nor a line of the log could be written any more
        ("", "", 1 << 39, 1, False),
        ("SafetensorError: I/O error: No space left on device (os error 28)", "", 1 << 39, 1, True),
        ("", "OSError: [Errno 28] No space left on device", 1 << 39, 1, True),
        ("ValueError: the loss is nan", "", 5 << 20, 1, False),  # it could say what it was
        ("", "refused: this snapshot has no levels", 5 << 20, 2, False),
        ("", "", 5 << 20, -9, False),  # killed for memory, most likely
    ],
)
def test_a_disk_that_fills_in_mid_training_is_named(
    told: str, log: str, left: int, status: int, full: bool, free: Any, tmp_path: Path
) -> None:
    free(left)
    (tmp_path / "log.txt").write_text(log)
    if told:
        (tmp_path / "error.json").write_text(f'{{"kind": "crashed", "message": "{told}"}}')
    text = runs.failure_text(tmp_path, status)
    assert (text == f"The training failed. {runs.NO_SPACE}") == full
    assert ("No space is left on the disk of the data folder" in text) == full
