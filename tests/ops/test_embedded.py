"""`python -m webapp.embedded` from an empty data folder: start, serve, survive, stop; then start again."""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.instance import Instance

pytestmark = pytest.mark.slow

# Stands for a training that takes long: whether it is ended is asked here, not what it learns.
LONG_TRAINING = shlex.join([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Instance]]:
    instances: list[Instance] = []

    def make() -> Instance:
        instances.append(Instance(tmp_path / "embedded", CALIPER_TRAIN_COMMAND=LONG_TRAINING))
        return instances[-1]

    yield make
    for instance in instances:
        instance.destroy()


def test_start_serve_survive_stop_and_start_again(start: Callable[[], Instance]) -> None:
    first = start().ready()
    sign_ins = (first.data / "sign-ins.txt").read_text()
    for line in filter(None, map(str.strip, sign_ins.splitlines())):
        assert line in first.said()
    for secret in ("sign-ins.txt", "secret_key", "redis/redis.conf"):
        assert (first.data / secret).stat().st_mode & 0o077 == 0, secret
    assert first.health()["ok"] is True
    # The worker that scores is not waited for.
    first.until(lambda: all(queue["workers"] == 1 for queue in first.health()["workers"]["queues"].values()))
    assert set(first.health()["workers"]["queues"]) == {"default", "train", "housekeeping", "score"}

    assert "Reward server of the demonstration: http://127.0.0.1:" in first.said()
    first.until(lambda: bool(first.find("workers.rewards.serve", f"http://127.0.0.1:{first.port}/p/demo")))

    # The demonstration has queued its trainings: one runs, in a session of its own below the worker.
    first.until(lambda: bool(first.find("import time; time.sleep(600)")))
    (training,) = first.find("import time; time.sleep(600)")
    # The worker that watches it is killed: so is the training, and the worker comes back by itself.
    (worker,) = [p for p in first.find("train@%h") if p.ppid() == first.process.pid]
    worker.kill()
    first.until(lambda: "starting train again" in first.said())
    assert "train was killed by SIGKILL" in first.said()
    first.until(lambda: not training.is_running())

    assert first.stop() == 0, first.said()
    assert first.processes() == []
    assert first.said().endswith("caliper: stopped\n")

    second = start().ready()
    assert time.monotonic() - second.began < 60
    assert (second.data / "sign-ins.txt").read_text() == sign_ins
    assert second.health()["ok"] is True
    assert second.stop(signal.SIGTERM) == 0, second.said()
    assert second.processes() == []
