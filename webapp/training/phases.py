"""One percentage over all phases of a training. What each phase is worth is what it took last time."""

import itertools
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

# In running order. Of a snapshot and of the start nothing is told in steps.
FROZEN = {
    "loading": 6.0,
    "embedding": 44.0,
    "training": 22.0,
    "scoring": 3.0,
    "evaluating": 23.0,
    "cross-fitting": 20.0,
    "saving": 2.0,
}
TUNED = {
    "loading": 2.0,
    "embedding": 0.0,
    "training": 76.0,
    "scoring": 4.0,
    "evaluating": 16.0,
    "cross-fitting": 0.0,
    "saving": 2.0,
}
# Of grm with all its stages; of judge with none of them.
GENERATIVE = {
    "loading": 2.0,
    "sampling": 20.0,
    "fine-tuning": 15.0,
    "reinforcing": 35.0,
    "meta": 8.0,
    "scoring": 15.0,
    "evaluating": 3.0,
    "saving": 2.0,
}
STAGE_OF = {"sampling": ("rft", "meta"), "fine-tuning": ("rft",), "reinforcing": ("grpo",), "meta": ("meta",)}
# It ends at 100 when the version is stored, not before.
MOST = 99
MAX_BYTES = 4 * 1024 * 1024


def fixed_shares(tuning: str, folded: bool = False) -> dict[str, float]:
    """`folded`: tuned and cross-fitted, five trainings on four fifths of the labels each."""
    if tuning == "frozen":
        return dict(FROZEN)
    return {**TUNED, "cross-fitting": 4 * TUNED["training"] if folded else 0.0}


def generative_shares(stages: str) -> dict[str, float]:
    """Of a grm with these stages ("rft,grpo"), or of a judge, which has none."""
    gone_through = stages.split(",")
    return {
        phase: share
        for phase, share in GENERATIVE.items()
        if phase not in STAGE_OF or any(stage in gone_through for stage in STAGE_OF[phase])
    }


def shares_of(folder: Path, otherwise: dict[str, float]) -> dict[str, float]:
    """Seconds of each phase of a finished run, from its progress.jsonl; `otherwise` where it isn't there."""
    seconds = dict.fromkeys(otherwise, 0.0)
    try:
        with (folder / "progress.jsonl").open("rb") as file:
            lines = file.read(MAX_BYTES).splitlines()
        said = [
            (record["phase"], datetime.fromisoformat(record["time"])) for record in map(json.loads, lines)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise
    for (phase, moment), (_, following) in itertools.pairwise(said):
        if phase in seconds:
            seconds[phase] += max(0.0, (following - moment).total_seconds())
    longest = max(otherwise, key=otherwise.__getitem__)
    return seconds if seconds.get("training", seconds[longest]) > 0 else otherwise


def overall(phase: str, step: int, total: int, shares: Mapping[str, float]) -> int:
    """The percentage that a phase stands for, 0..MOST; 0 for phases that tell nothing.

    "saving" comes twice: what is saved before the evaluation has no total. An evaluation is several passes, each of
    which counts its own steps: a pass counts for half.
    """
    if phase == "storing predictions":
        return MOST
    if phase not in shares or (phase == "saving" and not total):
        return 0
    names = list(shares)
    before = sum(shares[name] for name in names[: names.index(phase)])
    fraction = min(1.0, step / total) if total else 0.0
    within = shares[phase] * (fraction / 2 if phase == "evaluating" else fraction)
    return min(MOST, int(100 * (before + within) / (sum(shares.values()) or 1.0)))
