"""Single sign-on and the second factor need settings of their own, so with_sso.py runs in a process that has them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.accounts.provider import CLIENT_ID, CLIENT_SECRET
from tests.instance import REPOSITORY, own_environment

WALK = "tests/accounts/with_sso.py"


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return int(test.getsockname()[1])


def test_with_both_on(tmp_path: Path) -> None:
    environment = {
        **own_environment(tmp_path),
        "CALIPER_TOTP": "true",
        "CALIPER_OIDC_ISSUER": f"http://127.0.0.1:{free_port()}",
        "CALIPER_OIDC_CLIENT_ID": CLIENT_ID,
        "CALIPER_OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "CALIPER_OIDC_NAME": "Our House",
    }
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        environment.pop(name)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", WALK],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 25  # type: ignore[index]
