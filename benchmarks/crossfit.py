"""What cross-fitting a tuned base model costs, and what it tells: bt on UKPConvArg1 strict, without folds and with.

    python -m benchmarks.crossfit [--data FILE] [--set KEY=VALUE ...]

The same training twice. The first column of accuracies is over the pairs that were trained on: by the model that has
seen them, and out of fold. Beside it the held-out pairs, which both have from the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.datasets import DATA, load_ukp_strict
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.training.loop import train


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA / "ukp_convarg1" / "strict.jsonl.gz")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=JSON", help="hyper-parameters of config.json"
    )
    options = parser.parse_args()
    if not options.data.is_file():
        print(f"{options.data} is not there; give --data", file=sys.stderr)
        return 2
    rows = load_ukp_strict(options.data)
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    print(f"{len(rows.judgements)} pairs; {os.cpu_count()} cores, {torch.get_num_threads()} threads; {extra}")
    print("| crossfit | whole run, s | CPU, s | folds, s | trained-on pairs | held-out pairs |")
    print("|---|---|---|---|---|---|")
    for folds in (0, 5):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder)
            write_snapshot(run_dir / "snapshot", *rows)
            config = {"method": "bt", "tuning": "tuned", "split_salt": "ukp", "crossfit": folds, **extra}
            (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
            started, cpu = time.monotonic(), time.process_time()
            metrics = train(run_dir)
            took, cpu = time.monotonic() - started, time.process_time() - cpu
            told = {
                row["response_id"]: row for row in pq.read_table(run_dir / "predictions.parquet").to_pylist()
            }
        right = []
        for row in rows.judgements:
            a, b = told[row["response_a"]], told[row["response_b"]]
            if a["split"] != "held_out":
                apart = np.sign(a["score"] - b["score"]) * (1 if row["verdict"] == "a" else -1)
                right.append(0.5 + 0.5 * apart)
        spent = metrics["crossfit"]["seconds"] if metrics["crossfit"] else 0
        held_out = metrics["held_out"]["pairs"]["accuracy"]
        print(
            f"| {folds} | {took:.0f} | {cpu:.0f} | {spent:.0f} | {np.mean(right):.3f} of {len(right)} | "
            f"{held_out['value']:.3f} of {held_out['n']} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
