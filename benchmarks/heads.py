"""Settings of the head on a frozen MiniLM, each on the same folds: accuracy, levels, peaks, length, seconds.

    python -m benchmarks.heads [--sets ukp_strict ...] [--methods bt oprm] [--folds 3] [--try KEY=JSON[,KEY=JSON] ...]

Whole groups are held out; fold k is trained with seed k. A setting is what config.json says; "defaults" is none. Heads
are trained as cross-fitting trains them (training/crossfit.py), on features that are encoded once, and measured as
trained, without calibration; figures pool the folds. "with length" is the correlation over decisive verdicts between
the side that is preferred and the difference of log lengths: of the model's order, and of people's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import load
from benchmarks.datasets import Rows
from benchmarks.quality.figures import Plan
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.evaluation.metrics import evaluate_run, pair_votes, peaks
from workers.rewards.models.predict import distributions, predictions
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.training.crossfit import Part, train_fold
from workers.rewards.training.prepare import Run, prepare
from workers.rewards.training.progress import Stop

SETS: dict[str, dict[str, Any]] = {
    "ukp_strict": {"load": "ukp_strict"},
    "ukp_votes": {"load": "ukp_votes"},
    "ro-en": {"load": "mlqe", "language_pair": "ro-en", "pairs_per_item": 1},
    "en-de": {"load": "mlqe", "language_pair": "en-de", "pairs_per_item": 1},
    "pandalm": {"load": "pandalm"},
    "demonstration": {"load": "demonstration"},
}
COLUMNS = (
    "accuracy", "longer wins", "NLL", "level accuracy", "RPS", "peaks", "with length", "people's", "seconds",
)  # fmt: skip


def prepared(rows: Rows, held_out: list[str], config: dict[str, Any]) -> Run:
    """A run before its first step, its features at hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_snapshot(path / "snapshot", *rows)
        told = {"tuning": "frozen", "held_out_groups": held_out, **config}
        (path / "config.json").write_text(json.dumps(told), encoding="utf-8")
        run = prepare(path, Stop())
        assert run is not None
        run.progress.close()
        return run


def measured(run: Run, rows: Rows, held_out: list[str], head: RewardModel) -> dict[str, tuple[float, int]]:
    """Figures of the held-out rows with the number of examples that each stands for."""
    assert run.features is not None
    table = predictions(run.labels.snapshot.responses, run.texts.rows, distributions(head, run.features))
    score = {row["response_id"]: float(row["score"]) for row in table}
    inside = {row["response_id"]: row for row in rows.responses if row["group"] in held_out}
    judgements = [
        {"annotator": "", **row}
        for row in rows.judgements
        if {row["response_a"], row["response_b"]} <= inside.keys()
    ]
    p = {
        row["response_id"]: row["p"] for row in table if row["p"] is not None and row["response_id"] in inside
    }
    found = evaluate_run(
        responses=list(inside.values()),
        judgements=judgements,
        levels=[row for row in rows.levels if row["response_id"] in inside],
        scores=score,
        probs=p or None,
        kind=run.config.kind,
        tie=None if head.tie is None else head.tie.item(),
        temperature=1.0,
        partition=run.config.partition,
        seed=0,
    )
    pairs, levels = found["pairs"], found["levels"]
    figures = {
        "accuracy": (pairs["accuracy"]["value"], pairs["accuracy"]["n"]),
        "longer wins": (pairs["length_baseline"]["value"], pairs["accuracy"]["n"]),
        "NLL": (pairs["nll"]["value"], pairs["nll"]["n"]),
    }
    if levels is not None:
        figures |= {"level accuracy": (levels["accuracy"], levels["n"]), "RPS": (levels["rps"], levels["n"])}
    if p:
        figures["peaks"] = (float(np.mean(peaks(list(p.values())))), len(p))
    votes = pair_votes(judgements)
    sides = [(votes.ids[a], votes.ids[b]) for a, b in zip(votes.first, votes.second, strict=True)]
    longer = np.array([np.log1p(len(inside[a]["text"])) - np.log1p(len(inside[b]["text"])) for a, b in sides])
    order = np.sign([score[a] - score[b] for a, b in sides])
    decisive = votes.vote != 0.5
    pair = votes.pair_of[decisive]
    for name, said in (("with length", order[pair]), ("people's", 2 * votes.vote[decisive] - 1)):
        figures[name] = (float(np.corrcoef(said, longer[pair])[0, 1]), len(pair))
    return figures


def tried(name: str, methods: Sequence[str], count: int, settings: Sequence[dict[str, Any]]) -> None:
    """Print a line for each method and setting."""
    data = SETS[name]
    rows = load(data["load"], **{key: value for key, value in data.items() if key != "load"})
    folds = Plan([0], quick=False).folds(rows.groups, count)
    for method in methods:
        found: list[list[dict[str, tuple[float, int]]]] = [[] for _ in settings]
        for number, held_out in enumerate(folds):
            run = prepared(rows, held_out, {"method": method, "seed": number})
            part = Part(run.labels.data, run.loss.data)
            for each, setting in zip(found, settings, strict=True):
                started = time.process_time()
                changed = dataclasses.replace(run, config=dataclasses.replace(run.config, **setting))
                head = train_fold(changed, part, 1.0, lambda done, total: None)
                seconds = time.process_time() - started
                each.append({**measured(run, rows, held_out, head), "seconds": (seconds, 1)})
        for setting, each in zip(settings, found, strict=True):
            cells = [
                f"{np.average([f[c][0] for f in each], weights=[f[c][1] for f in each]):.3f}"
                if c in each[0]
                else ""
                for c in COLUMNS
            ]
            said = ", ".join(f"{key} {value}" for key, value in setting.items()) or "defaults"
            print(f"| {name} | {method} | {said} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets", nargs="+", choices=list(SETS), default=["ukp_strict", "pandalm", "demonstration"]
    )
    parser.add_argument("--methods", nargs="+", default=["bt", "oprm"])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--try", nargs="*", default=[], dest="tries", metavar="KEY=JSON,...")
    options = parser.parse_args()
    settings: list[dict[str, Any]] = [{}]
    for words in options.tries:
        parts = (part.split("=", 1) for part in words.split(","))
        settings.append({key: json.loads(value) for key, value in parts})
    print(f"| set | method | setting | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 3)}")
    for name in options.sets:
        tried(name, options.methods, options.folds, settings)


if __name__ == "__main__":
    main()
