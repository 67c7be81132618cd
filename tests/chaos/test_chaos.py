"""The short form of `make chaos`: twenty-five seconds of faults under judging, imports, exports and trainings."""

import subprocess
import sys

import pytest

from tests.instance import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.mark.xdist_group("chaos")
def test_nothing_is_lost_doubled_miscounted_or_stuck() -> None:
    command = [sys.executable, "-m", "tests.chaos.chaos", "--seconds", "25"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        told, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        # The polite kill lets it end its own processes.
        process.terminate()
        told, _ = process.communicate(timeout=60)
        pytest.fail(f"the chaos test did not end\n{told}")
    assert process.returncode == 0, told
    assert "acknowledged: " in told
