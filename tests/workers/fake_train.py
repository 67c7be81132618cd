"""Stands in for `python -m workers.rewards.train`: the run folder's contract, without a model.

`fake_train.py MODE RUN_DIR`. Modes: ok, accuracy=0.4, slow, stubborn, refuse, crash, die, outside, corrupt,
no-metrics, bad-predictions, quiet (crash without error.json).
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STEPS = 200


def main() -> int:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())
    print(f"fake training: {mode}", flush=True)
    if mode == "refuse":
        fail(folder, "refused", "method rgft learns from levels, and this snapshot has none")
        print("refused: method rgft learns from levels, and this snapshot has none", file=sys.stderr)
        return 2
    if mode == "crash":
        fail(folder, "crashed", "ValueError: the loss is not finite at step 3; lower learning_rate")
        return 1
    if mode == "quiet":
        print("Illegal instruction", file=sys.stderr)
        return 7
    if mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "outside":
        os.kill(os.getpid(), signal.SIGTERM)
    checkpoint = folder / "checkpoint" / "step"
    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    asked: list[int] = []
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    steps = STEPS if mode in ("slow", "stubborn") else 3
    parent = os.getppid()
    for step in range(start + 1, steps + 1):
        say(folder, "training", step, steps, loss=1 / step)
        if mode in ("slow", "stubborn"):
            time.sleep(0.05)
        if asked or (mode == "slow" and os.getppid() != parent):
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.write_text(str(step))
            return 143
    finish(folder, config, mode, resumed_from=start)
    return 0


def say(folder: Path, phase: str, step: int, total: int, loss: float | None = None) -> None:
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), "phase": phase, "step": step}
    line |= {"total": total, "loss": loss, "tokens_per_second": 1000.0, "message": None}
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def fail(folder: Path, kind: str, message: str) -> None:
    (folder / "error.json").write_text(json.dumps({"kind": kind, "message": message}))


def finish(folder: Path, config: dict[str, Any], mode: str, *, resumed_from: int) -> None:
    ordinal = config["method"] in ("oprm", "rgft")
    ids = pq.read_table(folder / "snapshot" / "responses.parquet")["response_id"].to_pylist()
    rows = [
        {
            "response_id": name,
            "score": float("nan") if mode == "bad-predictions" else float(number),
            "expected": 5.0 if ordinal else None,
            "spread": 1.0 if ordinal else None,
            "p": [1 / 9] * 9 if ordinal else None,
            "split": "train" if number % 2 else "held_out",
            "truncated": False,
        }
        for number, name in enumerate(ids)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    if mode == "corrupt":
        (model / "model.safetensors").write_bytes(b"weihgts")
    reward_config = {
        "format": 1,
        "method": config["method"],
        "kind": "ordinal" if ordinal else "scalar",
        "tie": None if ordinal else 0.3,
        "temperature": 1.5,
        "files": files,
        "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
    }
    (model / "reward_config.json").write_text(json.dumps(reward_config))
    value = float(mode.removeprefix("accuracy=")) if mode.startswith("accuracy=") else 0.8
    accuracy = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 60}
    pairs = {"n": 60, "groups": 6, "accuracy": accuracy, "length_baseline": {**accuracy, "value": 0.55}}
    pairs |= {
        "nll": {"value": 0.5, "floor": 0.4, "n": 60},
        "ece": {"value": float("nan"), "n": 60, "bins": []},
    }
    metrics = {
        "format": 1,
        "kind": reward_config["kind"],
        "method": config["method"],
        "held_out": {"pairs": pairs, "levels": None, "auroc_good_bad": None},
        "training": {"steps": 3, "resumed_from": resumed_from},
    }
    if mode != "no-metrics":
        (folder / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    raise SystemExit(main())
