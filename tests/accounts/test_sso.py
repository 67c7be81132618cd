"""Single sign-on and the second factor need settings of their own, so with_sso.py runs in a process that has them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accounts.provider import CLIENT_ID, CLIENT_SECRET
from tests.instance import REPOSITORY, own_environment

WALK = "tests/accounts/with_sso.py"


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return int(test.getsockname()[1])


def walk(tmp_path: Path, settings: dict[str, str], *words: str) -> int:
    """Run with_sso.py under settings; how many tests passed."""
    environment = own_environment(tmp_path) | settings
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        environment.pop(name)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", WALK, *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return int(re.search(r"(\d+) passed", result.stdout)[1])  # type: ignore[index]


@pytest.fixture
def oidc() -> dict[str, str]:
    return {
        "CALIPER_OIDC_ISSUER": f"http://127.0.0.1:{free_port()}",
        "CALIPER_OIDC_CLIENT_ID": CLIENT_ID,
        "CALIPER_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "CALIPER_OIDC_NAME": "Our House",
    }


CODES = {"CALIPER_TOTP": "true"}


def test_with_both_on(tmp_path: Path, oidc: dict[str, str]) -> None:
    assert walk(tmp_path, oidc | CODES) >= 26


def test_with_single_sign_on_alone(tmp_path: Path, oidc: dict[str, str]) -> None:
    assert walk(tmp_path, oidc, "-k", "contradict or without_a_project or connects or deactivated") >= 4


def test_with_the_second_factor_alone(tmp_path: Path) -> None:
    assert walk(tmp_path, CODES, "-k", "contradict or test_the_second_factor or lost_second_factor") >= 3


def test_without_the_package_nothing_starts(tmp_path: Path) -> None:
    """Rather than letting people in without the second factor that was asked for."""
    hide = (
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'allauth' else find(name, *more)\n"
        "import webapp.settings\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", hide],
        cwd=REPOSITORY,
        env=own_environment(tmp_path) | CODES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "django-allauth is not installed: pip install -e '.[sso]'" in result.stderr
