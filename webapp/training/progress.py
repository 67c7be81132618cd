"""What a run's page shows of its folder: loss curve, times, the end of the log. Read-only, and content without it."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from webapp.paths import without_paths
from webapp.training.models import TrainingRun

MAX_BYTES = 8 * 1024 * 1024
MAX_RECORDS = 2000
LOG_LINES = 40
AFRESH = "started afresh"
# Phases that learn by a loss, and the others whose steps tell what time is left.
LEARNING = ("training", "fine-tuning")
TIMED = (*LEARNING, "sampling", "reinforcing", "meta", "scoring")


@dataclass(frozen=True)
class Progress:
    """Of progress.jsonl: (step, loss) of the training phase in order of steps, and the time that is left of the phase.

    `rewards`, `kls`: (step, value) of reinforcement. `validation`: (step, NLL) of early stopping's looks, if any.
    """

    points: list[tuple[int, float]]
    left: timedelta | None
    validation: list[tuple[int, float]] = field(default_factory=list)
    # Why it did not go on from its checkpoint, after a resume.
    afresh: str = ""
    rewards: list[tuple[int, float]] = field(default_factory=list)
    kls: list[tuple[int, float]] = field(default_factory=list)


def read_progress(run: TrainingRun) -> Progress:
    """Progress of a run; empty where the folder is not at hand (a worker on another machine, a run not started)."""
    try:
        with (run.folder / "progress.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return Progress([], None)
    stride = max(1, len(lines) // MAX_RECORDS)
    losses: dict[int, float] = {}
    looks: dict[int, float] = {}
    rewards: dict[int, float] = {}
    kls: dict[int, float] = {}
    times: list[tuple[datetime, int, int]] = []
    afresh = ""
    for number, line in enumerate(lines):
        # Looks and messages are few and none is to be lost; of the other lines a share tells the same.
        kept = b'"validation"' in line or AFRESH.encode() in line
        if number % stride and number != len(lines) - 1 and not kept:
            continue
        try:
            record = json.loads(line)
            phase = record["phase"]
            if phase not in TIMED:
                continue
            step, total, loss = int(record["step"]), int(record["total"]), record.get("loss")
            reward, kl = record.get("reward"), record.get("kl")
            moment = datetime.fromisoformat(record["time"])
            nll = (record.get("validation") or {}).get("nll")
            message = record.get("message") or ""
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if isinstance(nll, (int, float)) and math.isfinite(nll):
            looks[step] = float(nll)
        if message.startswith(AFRESH):
            afresh = message
        if phase == run.phase:
            times.append((moment, step, total))
        drawn = [(losses, loss)] if phase in LEARNING else [(rewards, reward), (kls, kl)]
        # After a resume some steps come again; the later word stands.
        for curve, value in drawn:
            if isinstance(value, (int, float)) and math.isfinite(value):
                curve[step] = float(value)
    return Progress(
        sorted(losses.items()),
        _left(run, times),
        sorted(looks.items()),
        afresh,
        sorted(rewards.items()),
        sorted(kls.items()),
    )


def _left(run: TrainingRun, times: list[tuple[datetime, int, int]]) -> timedelta | None:
    """Time left of the phase at the speed since this start; None before it can be told."""
    if run.started_at is None:
        return None
    since = [entry for entry in times if entry[0] >= run.started_at]
    if len(since) < 2:
        return None
    (first, first_step, _), (last, last_step, total) = since[0], since[-1]
    if last_step <= first_step or not total:
        return None
    return (last - first) / (last_step - first_step) * max(0, total - last_step)


def read_log(folder: Path, *, lines: int = LOG_LINES) -> str:
    """The end of the run's log, without paths of this server; empty if there is none."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return without_paths("\n".join(file.read().decode(errors="replace").splitlines()[-lines:]))
    except OSError:
        return ""


def log_lines(run: TrainingRun) -> Iterator[str]:
    """All lines of a run's log, without paths of this server, as they are read. Raises OSError where there is none."""
    return _shown((run.folder / "log.txt").open("rb"))


def _shown(log: BinaryIO) -> Iterator[str]:
    with log:
        for line in log:
            yield without_paths(line.decode(errors="replace"))
