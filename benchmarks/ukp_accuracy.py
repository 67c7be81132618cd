"""Accuracy of bt and oprm on UKPConvArg1 strict with the tuned MiniLM, whole debates held out.

    python -m benchmarks.ukp_accuracy [--folds N|all] [--methods bt oprm] [--data FILE] [--set KEY=VALUE ...]

A topic is named "<debate>_<stance>"; the 16 debates are the groups, so both stances of a debate are held out
together.  Folds are drawn once (seed 0): each holds out two debates.  A fold is an ordinary run folder trained by
workers.rewards.train.  The figures pool the held-out pairs of all folds run.  Bar: at least .82.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.datasets import DATA, load_ukp_strict
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.training.loop import train

BAR = 0.82
DEBATES_PER_FOLD = 2


def folds_of(debates: list[str]) -> list[list[str]]:
    """The 16 debates in 8 folds, shuffled once."""
    order = sorted(debates)
    random.Random(0).shuffle(order)
    return [order[start : start + DEBATES_PER_FOLD] for start in range(0, len(order), DEBATES_PER_FOLD)]


def pooled(results: list[dict[str, Any]], name: str) -> tuple[float, int]:
    """Mean of a held-out figure over folds, weighted by its count."""
    parts = [result[name] for result in results if result[name] is not None]
    count = sum(part["n"] for part in parts)
    return sum(part["value"] * part["n"] for part in parts) / count, count


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", default="2", help="how many folds, or all (8); default 2")
    parser.add_argument("--methods", nargs="+", default=["bt", "oprm"])
    parser.add_argument("--data", type=Path, default=DATA / "ukp_convarg1" / "strict.jsonl.gz")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=JSON", help="hyper-parameters of config.json"
    )
    options = parser.parse_args()
    if not options.data.is_file():
        print(f"{options.data} is not there; give --data", file=sys.stderr)
        return 2
    rows = load_ukp_strict(options.data)
    folds = folds_of(rows.groups)
    chosen = folds if options.folds == "all" else folds[: int(options.folds)]
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    print(
        f"UKPConvArg1 strict: {len(rows.judgements)} pairs, {len(rows.responses)} texts; "
        f"{len(chosen)} of {len(folds)} folds, "
        f"{DEBATES_PER_FOLD} debates held out in each; {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    reached = True
    for method in options.methods:
        started, process_started = time.monotonic(), time.process_time()
        results = []
        for held_out in chosen:
            with tempfile.TemporaryDirectory() as folder:
                run_dir = Path(folder)
                write_snapshot(run_dir / "snapshot", *rows)
                config = {"method": method, "held_out_groups": held_out, "checkpoint_seconds": 3600, **extra}
                (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
                metrics = train(run_dir)
            pairs = metrics["held_out"]["pairs"]
            training = metrics["training"]
            results.append(pairs)
            accuracy = pairs["accuracy"]
            print(
                f"  {method} {' + '.join(held_out)[:70]}: accuracy {accuracy['value']:.3f} "
                f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}] of {accuracy['n']}, longer wins "
                f"{pairs['length_baseline']['value']:.3f}, {training['judgements_per_second']:.0f} judgements/s, "
                f"{training['seconds']:.0f} s",
                flush=True,
            )
        overall, count = pooled(results, "accuracy")
        length, _ = pooled(results, "length_baseline")
        near, near_count = pooled(results, "near_equal_length")
        ece, _ = pooled(results, "ece")
        # between folds: whole debates are the clusters, too few in one fold for an interval of its own to mean much
        values = [pairs["accuracy"]["value"] for pairs in results]
        interval = (
            f" +- {1.96 * statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
        )
        print(
            f"{method}: accuracy {overall:.3f}{interval} of {count} pairs, longer wins {length:.3f}, "
            f"near-equal length (< 60 characters apart) {near:.3f} of {near_count}, ECE {ece:.3f}, "
            f"{time.monotonic() - started:.0f} s ({time.process_time() - process_started:.0f} s of CPU); "
            f"bar {BAR} {'reached' if overall >= BAR else 'MISSED'}",
            flush=True,
        )
        reached = reached and overall >= BAR
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
