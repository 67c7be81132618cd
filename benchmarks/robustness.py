"""How far injected text moves a score, without and with hardening, and what hardening costs.

    python -m benchmarks.robustness [--methods bt oprm] [--hardening 0 0.3] [--folds 0 1] [--set KEY=VALUE ...]

UKPConvArg1 strict with the topic as the prompt; a fold holds out four of its 16 debates.  `--characters N` keeps only
the texts up to N characters, for a machine that has little time.  Prints, over the folds, accuracy and seconds, then
every attack: mean shift, and the share of orders that flip (workers/rewards/robustness.py).  Goals: flips at most 1 %,
shifts below 0.2, degenerate answers in bad.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.datasets import Rows, load_ukp_strict
from benchmarks.ukp_accuracy import folds_of, pooled
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.training.loop import train


def up_to(rows: Rows, characters: int) -> Rows:
    """The texts up to a length, and the pairs of two such."""
    responses = [row for row in rows.responses if len(row["text"]) <= characters]
    kept = {row["response_id"] for row in responses}
    judgements = [row for row in rows.judgements if {row["response_a"], row["response_b"]} <= kept]
    return Rows(responses, judgements, [])


def run(rows: Rows, fold: int, config: dict[str, Any]) -> dict[str, Any]:
    """metrics.json of one run."""
    folds = folds_of(rows.groups)
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(Path(folder) / "snapshot", *rows)
        held_out = folds[2 * fold] + folds[2 * fold + 1]
        config = {"held_out_groups": held_out, "checkpoint_seconds": 3600, **config}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return train(Path(folder))


def report(runs: Sequence[dict[str, Any]]) -> str:
    """The runs of one configuration, together, as lines of text."""
    pairs = [metrics["held_out"]["pairs"] for metrics in runs]
    training = [metrics["training"] for metrics in runs]
    suites = [metrics["robustness"] for metrics in runs]
    hardening = runs[0]["config"]["hardening"]

    def figure(name: str) -> str:
        if all(part[name] is None for part in pairs):
            return "unknown"
        value, count = pooled(pairs, name)
        return f"{value:.3f} of {count}"

    lines = [
        f"{runs[0]['method']}, hardening {hardening:g}: accuracy {figure('accuracy')}, at nearly equal length "
        f"{figure('near_equal_length')}, {mean(part['seconds'] for part in training):.0f} s, "
        f"{mean(part['tokens'] for part in training):.0f} tokens, "
        f"{mean(part['hardening_copies'] for part in training):.0f} copies; the suite passed in "
        f"{sum(suite['passed'] for suite in suites)} of {len(suites)} runs"
    ]
    for name, attack in suites[0]["attacks"].items():
        new = "" if attack["trained"] or not hardening else "  (none of its kind in training)"
        effects = [suite["attacks"][name] for suite in suites]
        lines.append(
            f"  {name:18} shift {mean(effect['mean_shift'] for effect in effects):+.3f} {suites[0]['unit']}  flips "
            f"{mean(effect['flip_rate'] for effect in effects):6.2%} of {effects[0]['orders']} orders{new}"
        )
    for name in suites[0]["degenerate"]:
        answers = [suite["degenerate"][name] for suite in suites]
        count = sum(answer["n"] for answer in answers)
        if count:
            bad = sum(answer["n"] * answer["in_bad_share"] for answer in answers if answer["n"])
            lines.append(f"  {name:18} in bad {bad:.0f} of {count}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["bt", "oprm"])
    parser.add_argument("--hardening", nargs="+", type=float, default=[0.0, 0.3])
    parser.add_argument("--folds", nargs="+", type=int, choices=range(4), default=[0])
    parser.add_argument("--characters", type=int, default=100_000)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="other keys of config.json")
    options = parser.parse_args()
    try:
        rows = up_to(load_ukp_strict(topics=True), options.characters)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    print(f"UKPConvArg1 strict: {len(rows.responses)} texts, {len(rows.judgements)} pairs", flush=True)
    for method in options.methods:
        for share in options.hardening:
            config = {"method": method, "hardening": share, **extra}
            print(report([run(rows, fold, config) for fold in options.folds]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
