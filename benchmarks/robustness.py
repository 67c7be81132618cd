"""How far injected text moves a score, without and with hardening, and what hardening costs.

    python -m benchmarks.robustness [--methods bt oprm] [--hardening 0 0.3] [--characters N] [--set KEY=VALUE ...]

UKPConvArg1 strict with the topic as the prompt, four of its 16 debates held out.  `--characters` keeps only the texts
up to that length, for a machine that has little time.  Prints, for each run, accuracy and seconds, then every attack:
mean shift, and the share of orders that flip (workers/rewards/robustness.py).  Goals: flips at most 1 %, shifts
below 0.2, degenerate answers in bad.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.datasets import Rows, load_ukp_strict
from benchmarks.ukp_accuracy import folds_of
from workers.rewards.data import write_snapshot
from workers.rewards.train import train


def prepared(rows: Rows, characters: int) -> Rows:
    """Texts up to a length, with the topic as what was asked."""
    kept = {
        row["response_id"]: {
            **row,
            "messages": [{"role": "user", "content": row["prompt_id"].replace("-", " ").replace("_", ": ")}],
        }
        for row in rows.responses
        if len(row["text"]) <= characters
    }
    judgements = [row for row in rows.judgements if {row["response_a"], row["response_b"]} <= kept.keys()]
    return Rows(list(kept.values()), judgements, [])


def run(rows: Rows, config: dict[str, Any]) -> dict[str, Any]:
    """metrics.json of one run."""
    folds = folds_of(rows.groups)
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder) / "snapshot", *rows)
        config = {"held_out_groups": folds[0] + folds[1], "checkpoint_seconds": 3600, **config}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return train(Path(folder))


def report(metrics: dict[str, Any]) -> str:
    """The run as lines of text."""
    robustness, accuracy = metrics["robustness"], metrics["held_out"]["pairs"]["accuracy"]
    training = metrics["training"]
    effects = robustness["attacks"].values()
    lines = [
        f"{metrics['method']}, hardening {metrics['config']['hardening']:g}: accuracy {accuracy['value']:.3f} of "
        f"{accuracy['n']}, {training['seconds']:.0f} s, {training['tokens']} tokens, "
        f"{training['hardening_copies']} copies; mean of the attacks: |shift| "
        f"{sum(abs(effect['mean_shift']) for effect in effects) / len(effects):.3f} {robustness['unit']}, flips "
        f"{sum(effect['flip_rate'] for effect in effects) / len(effects):.1%} of {robustness['orders']} orders; "
        f"{'passed' if robustness['passed'] else 'FAILED'}"
    ]
    for name, effect in robustness["attacks"].items():
        new = (
            ""
            if effect["trained"] or not metrics["config"]["hardening"]
            else "  (none of its kind in training)"
        )
        lines.append(f"  {name:18} shift {effect['mean_shift']:+.3f}  flips {effect['flip_rate']:6.1%}{new}")
    for name, answer in robustness["degenerate"].items():
        if answer["n"]:
            lines.append(f"  {name:18} in bad {answer['in_bad_share']:.0%} of {answer['n']}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["bt", "oprm"])
    parser.add_argument("--hardening", nargs="+", type=float, default=[0.0, 0.3])
    parser.add_argument("--characters", type=int, default=100_000)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="other keys of config.json")
    options = parser.parse_args()
    try:
        rows = prepared(load_ukp_strict(), options.characters)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    print(f"UKPConvArg1 strict: {len(rows.responses)} texts, {len(rows.judgements)} pairs", flush=True)
    for method in options.methods:
        for share in options.hardening:
            print(report(run(rows, {"method": method, "hardening": share, **extra})), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
