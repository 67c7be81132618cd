"""A run that is stopped, killed or orphaned goes on where it stopped and ends in the same weights."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from workers.rewards.config import Refused
from workers.rewards.training import loop
from workers.rewards.training.loop import train
from workers.rewards.training.progress import PARENT_VARIABLE, Progress, Stop, Stopped

MakeRun = Callable[..., Path]
REPOSITORY = Path(__file__).resolve().parents[3]
DEADLINE = 120.0


class StopAfter(Stop):
    """Wants the run to end once it has been asked a number of times."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.left = questions

    @property
    def wanted(self) -> bool:
        self.left -= 1
        return self.left < 0


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").glob("*.safetensors"))}


@pytest.mark.parametrize(
    ("base", "method", "extra"),
    [
        ("tiny_encoder", "oprm", {"dropout": None, "hardening": 0.5}),  # BERT's own dropout of 0.1
        ("tiny_encoder", "bt", {"optimizer": "adamw_8bit"}),
        ("tiny_lm", "haf", {}),
        ("tiny_lm", "haf", {"tuning": "lora", "lora_rank": 2}),
        ("tiny_lm", "haf", {"haf_head": "ordinal"}),
    ],
)
def test_stopped_twice_equals_straight(
    base: str, method: str, extra: dict[str, object], request: pytest.FixtureRequest, make_run: MakeRun
) -> None:
    model = request.getfixturevalue(base)
    straight, broken = (
        make_run(model, method, name=name, seed=5, **extra) for name in ("straight", "broken")
    )
    expected = train(straight)
    for questions in (5, 8):  # asked once while loading, once a response embedded for haf, once a step
        with pytest.raises(Stopped):
            train(broken, StopAfter(questions))
    state = broken / "checkpoint" / "state.safetensors"
    assert state.exists()
    metrics = train(broken)
    assert weights(broken) == weights(straight)
    assert metrics["held_out"] == expected["held_out"]
    assert metrics["training"]["tokens"] == expected["training"]["tokens"]
    assert metrics["training"]["loss"] == expected["training"]["loss"]
    assert set(metrics["training"]["loss"]) == {"first", "last"}
    assert metrics["spread"] == expected["spread"]
    lines = [json.loads(line) for line in (broken / "progress.jsonl").read_text().splitlines()]
    assert any((line["message"] or "").startswith("resumed at step") for line in lines)


def test_stopped_while_scoring_does_not_train_again(make_run: MakeRun, tiny_encoder: Path) -> None:
    straight, broken = (make_run(tiny_encoder, "bt", name=name) for name in ("straight", "broken"))
    steps = train(straight)["training"]["steps"]
    with pytest.raises(Stopped):
        train(broken, StopAfter(steps + 1))  # once while loading, once a step, then while scoring
    assert (broken / "checkpoint" / "state.safetensors").exists()
    assert not (broken / "metrics.json").exists()
    train(broken)
    lines = [json.loads(line) for line in (broken / "progress.jsonl").read_text().splitlines()]
    assert f"resumed at step {steps}" in [line["message"] for line in lines]
    assert weights(broken) == weights(straight)


def test_a_finished_run_is_not_trained_again(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "bt", epochs=1)
    first = train(folder)
    (folder / "config.json").write_text("{}")
    assert train(folder) == first


def test_a_checkpoint_of_other_settings_is_refused_and_a_torn_one_starts_afresh(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    folder = make_run(tiny_encoder, "bt")
    with pytest.raises(Stopped):
        train(folder, StopAfter(4))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"seed": 9}))
    with pytest.raises(Refused, match=r"written with seed 0, config\.json now says 9"):
        train(folder)
    (folder / "config.json").write_text(json.dumps(config))
    state = folder / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    assert train(folder)["training"]["steps"] > 0
    assert "started afresh from step 0: its checkpoint is damaged" in said(folder)


def said(folder: Path) -> list[str]:
    return [json.loads(line)["message"] for line in (folder / "progress.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("written", ["0.1.0", "without a word", "with a key less", "with a key more"])
def test_a_run_of_another_version_starts_afresh_and_says_so(
    written: str, make_run: MakeRun, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, folder = (make_run(tiny_encoder, "bt", name=name) for name in ("straight", "broken"))
    train(straight)
    with pytest.raises(Stopped):
        train(folder, StopAfter(4))
    state = folder / "checkpoint" / "state.safetensors"
    with safe_open(state, "pt") as file:
        header = json.loads(file.metadata()["caliper"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert header["step"] > 0
    if written == "with a key less":
        del header["config"]["votes"]
    elif written == "with a key more":
        header["config"]["moustache"] = True
    elif written == "0.1.0":
        header["code"] = written
    else:
        del header["code"]
    save_file(tensors, state, {"caliper": json.dumps(header)})
    train(folder)
    version = (
        "an earlier version of Caliper" if written == "without a word" else f"Caliper {header.get('code')}"
    )
    words = f"started afresh from step 0: its checkpoint was written by {version}"
    assert words in said(folder)
    assert words in capsys.readouterr().out, "the log"
    assert weights(folder) == weights(straight)


def test_progress_is_thinned_but_keeps_ends_and_messages(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.jsonl")
    for step in range(1, 1001):
        progress.say("training", step, 1000, message="half" if step == 500 else None)
    progress.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["step"] in (1, 500, 1000)] == [1, 500, 1000]
    assert len(lines) < 20


# --- As processes ---


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.rewards.train", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
    )


def steps_of(folder: Path) -> int:
    path = folder / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if '"training"' in line), default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def long_run(make_run: MakeRun, tiny_encoder: Path) -> Path:
    return make_run(tiny_encoder, "bt", name="long", epochs=10, checkpoint_seconds=0.0)


@pytest.mark.slow
def test_killed_at_any_moment_again_and_again_equals_straight(make_run: MakeRun, tiny_encoder: Path) -> None:
    """Killed while a checkpoint is half written, before and after its rename, and twice at a random time."""
    config: dict[str, object] = {
        "epochs": 8,
        "seed": 4,
        "patience": 6,
        "token_budget": 300,
    }
    broken = make_run(tiny_encoder, "oprm", name="broken", checkpoint_seconds=0.0, **config)
    straight = make_run(tiny_encoder, "oprm", name="straight", checkpoint_seconds=3600.0, **config)
    expected = train(straight)
    run = subprocess.run(
        [sys.executable, "-m", "tests.rewards.training.killed", str(broken), "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    deaths = json.loads(run.stdout.splitlines()[-1])
    assert {"half written", "not renamed", "renamed"} <= set(deaths)
    assert weights(broken) == weights(straight)
    metrics = json.loads((broken / "metrics.json").read_text())
    assert metrics["early_stopping"] == expected["early_stopping"]
    assert metrics["held_out"] == expected["held_out"]


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_exits_143(long_run: Path) -> None:
    config = json.loads((long_run / "config.json").read_text())
    (long_run / "config.json").write_text(json.dumps(config | {"checkpoint_seconds": 3600, "epochs": 5000}))
    process = start(long_run)
    wait_for(lambda: steps_of(long_run) > 3)
    process.terminate()
    assert process.wait(DEADLINE) == 143
    assert (long_run / "checkpoint" / "state.safetensors").exists()
    assert not (long_run / "error.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's message about a dead parent is Linux's")
def test_a_run_whose_worker_is_killed_ends_by_itself(long_run: Path) -> None:
    config = json.loads((long_run / "config.json").read_text())
    (long_run / "config.json").write_text(json.dumps(config | {"epochs": 5000}))
    parent_code = (
        "import os, subprocess, sys\n"
        f"os.environ[{PARENT_VARIABLE!r}] = str(os.getpid())\n"
        "child = subprocess.Popen([sys.executable, '-m', 'workers.rewards.train', sys.argv[1]])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, str(long_run)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_for(lambda: steps_of(long_run) > 3)
    parent.kill()
    parent.wait(DEADLINE)
    parent.stdout.close()

    def gone() -> bool:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"  # dead, and nobody here reaps orphans

    wait_for(gone)
    assert (long_run / "checkpoint" / "state.safetensors").exists()


def test_checkpoints_that_take_long_are_seldom(
    make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def slowly(*_: object) -> None:
        written.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(loop, "checkpoint", slowly)
    train(make_run(tiny_encoder, "bt", epochs=10, checkpoint_seconds=0.001))
    between = [
        later - earlier for earlier, later in itertools.pairwise(written[:-1])
    ]  # the last is the end's
    assert min(between, default=1.0) >= 1.0
