"""The supervisor restarts what dies and leaves no process behind. Driven as a process of its own, as it runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from webapp.supervisor import describe_exit

REPOSITORY = Path(__file__).resolve().parents[2]

DRIVER = """
import os, sys
from pathlib import Path
from webapp import supervisor
from webapp.supervisor import Child, Stopped, Supervisor
supervisor.GRACE_SECONDS = 1.0
supervisor.WATCH_SECONDS = 0.1
keeper = Supervisor(environment=os.environ, logs=Path(sys.argv[1]), cwd=Path(sys.argv[1]))
with keeper.listening():
    try:
        for number, code in enumerate(sys.argv[2:]):
            keeper.add(Child(f"child-{number}", [sys.executable, "-c", code]))
        print("started", flush=True)
        keeper.watch()
    except Stopped:
        pass
    finally:
        keeper.stop()
print("stopped", flush=True)
"""

SLEEP = "import time; time.sleep(600)"
# Starts a process in a session of its own that doesn't listen to SIGTERM, as a training that hangs would be.
WITH_OFFSPRING = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
open("offspring", "w").write(str(child.pid))
time.sleep(600)
"""


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*codes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), *codes],
            cwd=REPOSITORY,
            stdout=(tmp_path / "console").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        until(lambda: "started" in (tmp_path / "console").read_text())
        return process

    yield start
    for process in started:
        for descendant in (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        ):
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        process.kill()
        process.wait()


def written_pid(path: Path) -> int:
    until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_a_dead_child_is_started_again_and_said_so(
    drive: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    code = """
import pathlib, sys, time
seen = pathlib.Path("seen")
if not seen.exists():
    seen.touch()
    print("2026-11-21 ERROR demo: the disk is on fire", flush=True)
    sys.exit(3)
pathlib.Path("again").touch()
time.sleep(600)
"""
    process = drive(code)
    until(lambda: (tmp_path / "again").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    console = (tmp_path / "console").read_text()
    assert "[child-0] 2026-11-21 ERROR demo: the disk is on fire" in console
    assert "child-0 stopped with exit code 3; starting it again in 1 s" in console
    assert console.endswith("stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_leaves_no_process_behind(
    drive: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = drive(SLEEP, WITH_OFFSPRING)
    offspring = written_pid(tmp_path / "offspring")
    everybody = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert offspring in everybody
    assert len(everybody) == 3
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert [pid for pid in everybody if running(pid)] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans can be adopted on Linux only")
def test_the_offspring_of_a_killed_child_is_ended(
    drive: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = drive(WITH_OFFSPRING)
    offspring = written_pid(tmp_path / "offspring")
    parent = psutil.Process(offspring).ppid()
    (tmp_path / "offspring").unlink()
    os.kill(parent, signal.SIGKILL)
    until(lambda: not running(offspring))
    assert written_pid(tmp_path / "offspring") != offspring
    assert "child-0 was killed by SIGKILL (out of memory?)" in (tmp_path / "console").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")
def test_children_end_when_the_supervisor_is_killed(drive: Callable[..., subprocess.Popen[str]]) -> None:
    process = drive(SLEEP, SLEEP)
    children = [child.pid for child in psutil.Process(process.pid).children()]
    assert len(children) == 2
    process.kill()
    process.wait()
    until(lambda: not any(running(pid) for pid in children))


def test_exits_are_described() -> None:
    assert describe_exit(2) == "stopped with exit code 2"
    assert describe_exit(-9) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(-11) == "was killed by SIGSEGV"
    assert describe_exit(-250) == "was killed by signal 250"
