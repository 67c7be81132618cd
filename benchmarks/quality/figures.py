"""What the quality benchmark measures of its cells, and the sentences that it draws from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.cells import CUT_SHARES, Cell, Estimate, Floats, Measured, load, ratio
from workers.rewards.evaluation import metrics, robustness

BARS = {"accuracy": 0.84, "near": 0.77, "ece": 0.03}


@dataclass
class Variant:
    """A row of the table: the same configuration on each fold. `levels` says whose level masses are measured."""

    name: str
    cells: list[Cell]
    levels: float | None = (
        None  # share of the levels that cut points on the reward are fitted on; None: own masses
    )


@dataclass
class Section:
    """Rows that belong together and what is to be concluded from them."""

    name: str
    title: str
    variants: list[Variant]
    conclude: Callable[[Results], list[str]]


@dataclass
class Results:
    """Measured folds by variant name; a variant that could not run is absent."""

    folds: dict[str, list[Measured]] = field(default_factory=dict)
    levels: dict[str, float | None] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        return all(name in self.folds for name in names)


@dataclass
class Plan:
    """What the options ask for. `encoder`: a larger one than MiniLM, by hub id or path."""

    seeds: list[int]
    quick: bool
    encoder: str = "sentence-transformers/all-mpnet-base-v2"

    def folds(self, groups: Sequence[str], count: int) -> list[list[str]]:
        """The groups in `count` folds of nearly equal number, shuffled once; --quick keeps two of them."""
        order = sorted(groups)
        random.Random(0).shuffle(order)
        folds = [sorted(order[number::count]) for number in range(count)]
        return folds[:2] if self.quick else folds

    def variant(
        self,
        name: str,
        data: dict[str, Any],
        count: int,
        config: dict[str, Any],
        levels: float | None = None,
    ) -> Variant:
        """The configuration on `count` folds of a data set (pl_humor makes its folds itself)."""
        if self.quick:
            # fewer responses and passes: shows that all works, not how well
            config = {**config, "epochs": 1 if config.get("tuning") != "frozen" else 5}
            data = {**data, "change": {**data.get("change", {}), "pairs": 0.4}}
        cells = []
        loaded = {key: value for key, value in data.items() if key not in ("load", "change")}
        if data["load"] == "pl_humor":
            arguments = [{**data, "fold": number} for number in range(2 if self.quick else count)]
            held = [
                [g for g in load("pl_humor", **loaded, fold=n).groups if g[:4] == "held"]
                for n in range(len(arguments))
            ]
        else:
            held = self.folds(load(data["load"], **loaded).groups, count)
            arguments = [data] * len(held)
        for number, (one, groups) in enumerate(zip(arguments, held, strict=True)):
            settings = {
                "seed": self.seeds[number % len(self.seeds)],
                "held_out_groups": groups,
                "checkpoint_seconds": 120,
                "crossfit": 0,  # these folds are crossed already
            }
            cells.append(Cell(one, {**config, **settings}))
        return Variant(name, cells, levels)


# --- Figures ---

Parts = tuple[Floats, Floats, Sequence[str]]


def joined(folds: list[Measured], part: Callable[[Measured], tuple[Floats, Floats, Any]]) -> Parts:
    parts = [part(fold) for fold in folds]
    return (
        np.concatenate([top for top, _, _ in parts]),
        np.concatenate([bottom for _, bottom, _ in parts]),
        np.concatenate([cluster for _, _, cluster in parts]),  # type: ignore[return-value]
    )


def accuracy(fold: Measured) -> tuple[Floats, Floats, Any]:
    return fold.right, fold.votes, fold.cluster


def near_accuracy(fold: Measured) -> tuple[Floats, Floats, Any]:
    return fold.right * fold.near, fold.votes * fold.near, fold.cluster


def length_accuracy(fold: Measured) -> tuple[Floats, Floats, Any]:
    return fold.right_by_length, fold.votes, fold.cluster


def nll(fold: Measured) -> tuple[Floats, Floats, Any]:
    return fold.nll, np.ones(len(fold.nll)), fold.cluster


def brier(fold: Measured) -> tuple[Floats, Floats, Any]:
    return fold.brier, np.ones(len(fold.brier)), fold.cluster


def rps(levels: float | None) -> Callable[[Measured], tuple[Floats, Floats, Any]]:
    def part(fold: Measured) -> tuple[Floats, Floats, Any]:
        return fold.rps(_masses(fold, levels)), np.ones(len(fold.level)), fold.level_cluster

    return part


def level_accuracy(levels: float | None) -> Callable[[Measured], tuple[Floats, Floats, Any]]:
    def part(fold: Measured) -> tuple[Floats, Floats, Any]:
        right = (np.argmax(_masses(fold, levels), axis=1) == fold.level).astype(np.float64)
        return right, np.ones(len(right)), fold.level_cluster

    return part


def _masses(fold: Measured, levels: float | None) -> Floats:
    return fold.level_own if levels is None else fold.level_cut[CUT_SHARES.index(levels)]


def kappa(folds: list[Measured], levels: float | None) -> float | None:
    """Quadratic-weighted kappa of the pooled labels."""
    masses = np.concatenate([_masses(fold, levels) for fold in folds])
    value = metrics.level_scores(masses, np.concatenate([fold.level for fold in folds]))
    return value["quadratic_kappa"]


def tie_auroc(folds: list[Measured]) -> float | None:
    """How well P(tie) tells pairs that people called a tie from those that they ordered (one judgement a pair)."""
    single = [(fold.p_tie, fold.ties, fold.ties + fold.votes == 1) for fold in folds]
    p = np.concatenate([p[one] for p, _, one in single])
    tied = np.concatenate([ties[one] for _, ties, one in single]) > 0
    return metrics.auroc(p, tied) if len(p) and np.ptp(p) > 0 else None


def calibration(folds: list[Measured], when: str, name: str) -> float | None:
    """A figure "before" or "after" calibration as metrics.json has it, mean over folds weighted by pairs.

    Not pooled: errors of opposite sign in two folds would cancel in an ECE.
    """
    figures = [fold.metrics["held_out"]["calibration"][when][name] for fold in folds]
    if any(figure is None or figure["value"] is None for figure in figures):
        return None
    return float(
        np.average([figure["value"] for figure in figures], weights=[figure["n"] for figure in figures])
    )


def row_of(section: str, variant: Variant, folds: list[Measured]) -> dict[str, Any]:
    """One row of the table; None where the data cannot say it."""
    row: dict[str, Any] = {"section": section, "variant": variant.name, "runs": len(folds)}
    if len(folds[0].share):
        row["accuracy"] = ratio(*joined(folds, accuracy))
        row["longer wins"] = ratio(*joined(folds, length_accuracy))
        row["near-equal"] = ratio(*joined(folds, near_accuracy))
        row["NLL"] = ratio(*joined(folds, nll))
        row["Brier"] = ratio(*joined(folds, brier))
        for name in ("nll", "brier"):
            floors = [(f.metrics["held_out"]["pairs"][name]["floor"], len(f.share)) for f in folds]
            row[f"{name} floor"] = float(np.average([v for v, _ in floors], weights=[n for _, n in floors]))
        row["NLL before"] = calibration(folds, "before", "nll")
        row["ECE before"] = calibration(folds, "before", "ece")
        row["ECE after"] = calibration(folds, "after", "ece")
        ceilings = [fold.metrics["held_out"]["pairs"]["human_ceiling"] for fold in folds]
        if all(ceilings):
            row["people"] = float(
                np.average([c["value"] for c in ceilings], weights=[c["n"] for c in ceilings])
            )
        if any(fold.ties.any() for fold in folds):
            row["tie AUROC"] = tie_auroc(folds)
    if len(folds[0].level) and np.isfinite(_masses(folds[0], variant.levels)).all():
        row["level accuracy"] = ratio(*joined(folds, level_accuracy(variant.levels)))
        row["kappa"] = kappa(folds, variant.levels)
        row["RPS"] = ratio(*joined(folds, rps(variant.levels)))
    row["s/run"] = float(np.mean([fold.metrics["training"]["seconds"] for fold in folds]))
    return row


# --- Sentences ---


def difference(
    results: Results, first: str, second: str, part: Callable[[Measured], tuple[Floats, Floats, Any]] | str
) -> Estimate:
    """First minus second, row by row on the same folds. `part` "rps" takes each variant's own way to the levels."""

    def chosen(name: str) -> Callable[[Measured], tuple[Floats, Floats, Any]]:
        if callable(part):
            return part
        return {"rps": rps, "levels": level_accuracy}[part](results.levels[name])

    top_a, bottom, cluster = joined(results.folds[first], chosen(first))
    top_b, bottom_b, _ = joined(results.folds[second], chosen(second))
    if not np.array_equal(bottom, bottom_b):
        raise ValueError(f"{first} and {second} were measured on different rows")
    return ratio(top_a - top_b, bottom, cluster)


PARTS: dict[str, tuple[Any, bool]] = {  # figure: what it is made of, and whether less is better
    "accuracy": (accuracy, False),
    "near-equal accuracy": (near_accuracy, False),
    "NLL": (nll, True),
    "Brier": (brier, True),
    "RPS": ("rps", True),
    "level accuracy": ("levels", False),
}


def compared(results: Results, first: str, second: str, *figures: str) -> list[str]:
    """A sentence for each figure: does `first` help against `second`?"""
    if not results.has(first, second):
        return [f"{first} against {second}: not run."]
    said = []
    for figure in figures:
        part, less_is_better = PARTS[figure]
        gap = difference(results, first, second, part)
        if not gap.excludes_zero:
            verdict = "no difference shown (the interval covers 0)"
        else:
            verdict = "helps" if (gap.value < 0) == less_is_better else "HURTS"
        said.append(f"{first} against {second}, {figure}: {_signed(gap)}: {verdict}.")
    return said


def _signed(gap: Estimate) -> str:
    if gap.low is None:
        return f"{gap.value:+.4f}"
    return f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"


def bar(what: str, value: float | None, bar: float, less: bool = False) -> str:
    if value is None or not np.isfinite(value):
        return f"{what}: not measured (bar {bar})."
    reached = value <= bar if less else value >= bar
    return f"{what}: {value:.3f}, bar {bar} {'reached' if reached else 'MISSED'}."


def accuracy_bars(results: Results, variants: list[Variant]) -> list[str]:
    """Accuracy of each variant, and at nearly equal length, beside the bars of UKPConvArg1 strict."""
    said = []
    for variant in variants:
        if results.has(variant.name):
            folds = results.folds[variant.name]
            whole, near = ratio(*joined(folds, accuracy)), ratio(*joined(folds, near_accuracy))
            said.append(bar(f"{variant.name}, accuracy", whole.value, BARS["accuracy"]))
            said.append(bar(f"{variant.name}, accuracy at nearly equal length", near.value, BARS["near"]))
    return said


def robust(results: Results, name: str) -> list[str]:
    """What the robustness suite of each run says, hardening off."""
    if not results.has(name):
        return []
    reports = [fold.metrics["robustness"] for fold in results.folds[name]]
    worst = []
    for attack in reports[0]["attacks"]:
        flips = max(report["attacks"][attack]["flip_rate"] for report in reports)
        shift = max((report["attacks"][attack]["mean_shift"] for report in reports), key=abs)
        if flips > robustness.FLIP_GOAL or abs(shift) >= robustness.SHIFT_GOAL:
            worst.append(
                f"{attack} (at worst {flips:.1%} of orders flip, shift {shift:+.2f} {reports[0]['unit']})"
            )
    for answer in reports[0]["degenerate"]:
        shares = [report["degenerate"][answer]["in_bad_share"] for report in reports]
        if any(share is not None and share < 1 for share in shares):
            worst.append(f"{answer} answers not in bad in {sum(share != 1 for share in shares)} runs")
    passed = sum(report["passed"] for report in reports)
    return [
        f"{name}: the robustness suite passed in {passed} of {len(reports)} runs"
        f"{'; missed: ' + ', '.join(worst) if worst else ''}."
    ]


def against_first(results: Results, variants: list[Variant], *figures: str) -> list[str]:
    """The other variants, each compared with the first."""
    first, *others = variants
    return [line for other in others for line in compared(results, other.name, first.name, *figures)]
