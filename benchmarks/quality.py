"""How good the reward models are on public data: one table, then sentences computed from it.

    python -m benchmarks.quality [--only SECTION ...] [--seeds 0 1 2] [--quick] [--json FILE] [--cache DIR] [--jobs N]

Groups (debates, questions, documents, texts) are held out as a whole, in folds drawn once; fold k is trained with
seed k mod the number of seeds.  Figures pool the held-out rows of all folds, intervals draw whole groups, and
differences between variants are taken row by row on the same folds.  Every run is an ordinary run folder, kept in
--cache by its data, configuration and code: an interrupted benchmark goes on where it stopped.

"tuned" trains all weights of the MiniLM and stands where the bars ask for it; the many-celled comparisons train heads
on its frozen embeddings, so they rank methods, and say little about the level that a tuned model would reach.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import (
    CUT_SHARES,
    STARTER,
    Cell,
    Estimate,
    Floats,
    Measured,
    code_digest,
    load,
    load_cell,
    ratio,
    run_cells,
)
from benchmarks.datasets import DATA
from workers.rewards import evaluate, robustness

BARS = {"accuracy": 0.84, "near": 0.77, "ece": 0.03}
FROZEN = {"tuning": "frozen"}
# The larger sets: fewer or larger steps than the defaults, the same for every method that is compared.
FROZEN_VOTES = {"tuning": "frozen", "epochs": 12}
FROZEN_LARGE = {"tuning": "frozen", "epochs": 12, "token_budget": 8192}
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)
LEVEL_SHARES = tuple(reversed(CUT_SHARES))


@dataclass
class Variant:
    """A row of the table: the same configuration on each fold.  `levels` says whose level masses are measured."""

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
    """What the options ask for."""

    seeds: list[int]
    quick: bool

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
            }
            cells.append(Cell(one, {**config, **settings}))
        return Variant(name, cells, levels)


# -- figures ---------------------------------------------------------------------------------------------------

Parts = tuple[Floats, Floats, Sequence[str]]


def _joined(folds: list[Measured], part: Callable[[Measured], tuple[Floats, Floats, Any]]) -> Parts:
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
    # level_scores takes ratings; one rating stands for each level here
    ratings = np.zeros((len(masses), evaluate.RATINGS))
    ratings[:, [0, 4, 8]] = masses
    value = evaluate.level_scores(ratings, np.concatenate([fold.level for fold in folds]), (3, 6))
    return value["quadratic_kappa"]


def tie_auroc(folds: list[Measured]) -> float | None:
    """How well P(tie) tells pairs that people called a tie from those that they ordered (one judgement a pair)."""
    single = [(fold.p_tie, fold.ties, fold.ties + fold.votes == 1) for fold in folds]
    p = np.concatenate([p[one] for p, _, one in single])
    tied = np.concatenate([ties[one] for _, ties, one in single]) > 0
    return evaluate.auroc(p, tied) if len(p) and np.ptp(p) > 0 else None


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
        row["accuracy"] = ratio(*_joined(folds, accuracy))
        row["longer wins"] = ratio(*_joined(folds, length_accuracy))
        row["near-equal"] = ratio(*_joined(folds, near_accuracy))
        row["NLL"] = ratio(*_joined(folds, nll))
        row["Brier"] = ratio(*_joined(folds, brier))
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
        row["level accuracy"] = ratio(*_joined(folds, level_accuracy(variant.levels)))
        row["kappa"] = kappa(folds, variant.levels)
        row["RPS"] = ratio(*_joined(folds, rps(variant.levels)))
    row["s/run"] = float(np.mean([fold.metrics["training"]["seconds"] for fold in folds]))
    return row


# -- sentences -------------------------------------------------------------------------------------------------


def difference(
    results: Results, first: str, second: str, part: Callable[[Measured], tuple[Floats, Floats, Any]] | str
) -> Estimate:
    """First minus second, row by row on the same folds.  `part` "rps" takes each variant's own way to the levels."""

    def chosen(name: str) -> Callable[[Measured], tuple[Floats, Floats, Any]]:
        if callable(part):
            return part
        return {"rps": rps, "levels": level_accuracy}[part](results.levels[name])

    top_a, bottom, cluster = _joined(results.folds[first], chosen(first))
    top_b, bottom_b, _ = _joined(results.folds[second], chosen(second))
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


def _bar(what: str, value: float | None, bar: float, less: bool = False) -> str:
    if value is None or not np.isfinite(value):
        return f"{what}: not measured (bar {bar})."
    reached = value <= bar if less else value >= bar
    return f"{what}: {value:.3f}, bar {bar} {'reached' if reached else 'MISSED'}."


# -- sections --------------------------------------------------------------------------------------------------


def strict(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    votes = {**data, "change": {"votes": 1.0}}
    variants = [plan.variant(f"{method}, tuned", data, 6, {"method": method}) for method in ("bt", "oprm")]
    variants += [
        plan.variant("bt, trained on votes", votes, 6, {"method": "bt"}),
        plan.variant("oprm, trained on votes", votes, 6, {"method": "oprm"}),
    ]

    def conclude(results: Results) -> list[str]:
        said = []
        for variant in variants:
            if results.has(variant.name):
                folds = results.folds[variant.name]
                whole, near = ratio(*_joined(folds, accuracy)), ratio(*_joined(folds, near_accuracy))
                said.append(_bar(f"{variant.name}, accuracy", whole.value, BARS["accuracy"]))
                said.append(
                    _bar(f"{variant.name}, accuracy at nearly equal length", near.value, BARS["near"])
                )
        for first, second in (
            ("oprm, tuned", "bt, tuned"),
            ("bt, trained on votes", "bt, tuned"),
            ("oprm, trained on votes", "oprm, tuned"),
        ):
            said += compared(results, first, second, "accuracy", "near-equal accuracy")
        for variant in variants:
            said += robust(results, variant.name)
        return said

    return Section("ukp_strict", "UKPConvArg1 strict, 6 folds of whole debates", variants, conclude)


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


def votes(plan: Plan) -> Section:
    data = {"load": "ukp_votes"}
    variants = [plan.variant(f"{method}, tuned", data, 3, {"method": method}) for method in ("bt", "oprm")]
    return Section(
        "votes",
        "UKPConvArg1, all 84,445 votes with ties, 3 folds of whole debates",
        variants,
        lambda results: _calibrated(results, "oprm, tuned", "bt, tuned"),
    )


def humor(plan: Plan) -> Section:
    data = {"load": "pl_humor"}
    variants = [
        plan.variant(f"{method}, frozen", data, 3, {"method": method, **FROZEN_VOTES})
        for method in ("bt", "oprm")
    ]
    return Section(
        "humor",
        "pl_humor, votes, 3 folds of texts (30 % each, pairs across the split left out)",
        variants,
        lambda results: _calibrated(results, "oprm, frozen", "bt, frozen"),
    )


def _calibrated(results: Results, ordinal: str, scalar: str) -> list[str]:
    said = []
    after: dict[str, dict[str, float | None]] = {}
    for name in (ordinal, scalar):
        if results.has(name):
            folds = results.folds[name]
            figures = ("ece", "ece_equal_mass", "nll", "brier")
            after[name] = {figure: calibration(folds, "after", figure) for figure in figures}
            for figure, words in (("ece", "ten equal bins"), ("ece_equal_mass", "bins of equal mass")):
                value = after[name][figure]
                said.append(_bar(f"{name}, ECE after calibration, {words}", value, BARS["ece"], less=True))
    if len(after) == 2:
        for figure in ("ece", "nll", "brier"):
            a, b = after[ordinal][figure], after[scalar][figure]
            if a is not None and b is not None:
                better = "better" if a < b else "NOT better"
                said.append(
                    f"{ordinal} after calibration, {figure} {a:.4f} against {b:.4f} of {scalar} with temperature: "
                    f"{better}."
                )
    return said + compared(results, ordinal, scalar, "NLL", "Brier", "accuracy")


def qa(plan: Plan, tuning: str = "frozen") -> Section:
    # 256 tokens hold little beside the passages, so the prompt is the question alone
    data = {"load": "qa_feedback", "passages": False}
    settings = FROZEN_LARGE if tuning == "frozen" else {}
    variants = [
        plan.variant(f"{method}, {tuning}", data, 3, {"method": method, **settings})
        for method in ("bt", "oprm", "clf")
    ]
    bt, oprm = f"bt, {tuning}", f"oprm, {tuning}"

    def conclude(results: Results) -> list[str]:
        said = []
        for name in (bt, oprm):
            if results.has(name):
                folds = results.folds[name]
                tied = np.concatenate([fold.ties > 0 for fold in folds])
                p = np.concatenate([fold.p_tie for fold in folds])
                said.append(
                    f"{name}: mean P(tie) {p[tied].mean():.3f} where people tied ({tied.sum()}), "
                    f"{p[~tied].mean():.3f} elsewhere ({(~tied).sum()}); AUROC {tie_auroc(folds) or float('nan'):.3f} "
                    "(.5 is chance)."
                )
        return said + compared(results, oprm, bt, "accuracy", "NLL")

    name = "qa" if tuning == "frozen" else "qa_tuned"
    return Section(name, f"qa_feedback, 500 questions in 3 folds, ties kept, {tuning}", variants, conclude)


def qa_tuned(plan: Plan) -> Section:
    return qa(plan, "tuned")


def mlqe(plan: Plan) -> Section:
    variants: list[Variant] = []
    for language_pair in ("ro-en", "en-de"):
        data = {"load": "mlqe", "language_pair": language_pair, "pairs_per_item": 1}
        for share in LEVEL_SHARES:
            label = f"{language_pair}, {share:.0%} of levels"
            for method in ("bt", "oprm"):  # they see no level: trained once, cut points for each share
                config = {"method": method, **FROZEN_LARGE}
                variants.append(plan.variant(f"{label}: {method} with cut points", data, 3, config, share))
            few = {**data, "change": {"levels": share}}
            for name, terms in (("rgft", "unpaired"), ("rgft, all level terms", "all")):
                config = {"method": "rgft", "level_terms": terms, **FROZEN_LARGE}
                variants.append(plan.variant(f"{label}: {name}", few, 3, config))
                if terms == "all":  # the same runs once more
                    variants.append(plan.variant(f"{label}: {name}, with cut points", few, 3, config, 1.0))

    def conclude(results: Results) -> list[str]:
        said = []
        for language_pair in ("ro-en", "en-de"):
            for share in LEVEL_SHARES:
                label = f"{language_pair}, {share:.0%} of levels"
                for other in ("bt with cut points", "oprm with cut points"):
                    for mine in ("rgft", "rgft, all level terms"):
                        said += compared(results, f"{label}: {mine}", f"{label}: {other}", "RPS")
                said += compared(
                    results, f"{label}: rgft, all level terms", f"{label}: bt with cut points", "accuracy"
                )
        return said

    return Section(
        "mlqe",
        "mlqe_pe, levels = terciles of each rater's 0-100, pairs from mean ratings, 3 folds of documents, frozen",
        variants,
        conclude,
    )


def haf(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    base = {"base_model": STARTER, "epochs": 2}
    settings: dict[str, dict[str, Any]] = {
        "bt, starter LM": {"method": "bt"},
        "haf, starter LM": {"method": "haf"},
        "oprm, starter LM": {"method": "oprm"},
        "haf with ordinal head, starter LM": {"method": "haf", "haf_head": "ordinal"},
    }
    variants = [plan.variant(name, data, 3, {**base, **config}) for name, config in settings.items()]

    def conclude(results: Results) -> list[str]:
        return compared(results, "haf, starter LM", "bt, starter LM", "accuracy", "NLL") + compared(
            results, "haf with ordinal head, starter LM", "oprm, starter LM", "accuracy", "NLL"
        )

    return Section(
        "haf",
        "UKPConvArg1 strict, starter LM (a few million weights, UKP's own texts), 3 folds",
        variants,
        conclude,
    )


def haf_weights(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    base = {"base_model": STARTER, "epochs": 2, "method": "haf"}
    settings: dict[str, dict[str, Any]] = {
        "haf, starter LM": {},
        "haf, alpha 0.05": {"alpha": 0.05},
        "haf, alpha 1": {"alpha": 1.0},
        "haf, beta 0.5": {"beta": 0.5},
        "haf, simpo": {"policy_loss": "simpo"},
        "haf, ipo": {"policy_loss": "ipo"},
    }
    variants = [plan.variant(name, data, 3, {**base, **config}) for name, config in settings.items()]

    def conclude(results: Results) -> list[str]:
        return [
            line
            for name in list(settings)[1:]
            for line in compared(results, name, "haf, starter LM", "accuracy")
        ]

    return Section("haf_weights", "haf's weights, as in section haf", variants, conclude)


def noise(plan: Plan) -> Section:
    # UKP strict has one annotator, with whom reliability has nothing to weigh
    variants = [
        plan.variant(
            f"{method}, {share:.0%} flipped",
            {"load": "ukp_strict", "change": {"flip": share}},
            3,
            {"method": method, **FROZEN},
        )
        for share in NOISE
        for method in ("bt", "clf", "oprm")
    ]

    def conclude(results: Results) -> list[str]:
        said = []
        for share in NOISE:
            label = f"{share:.0%} flipped"
            for method in ("clf", "oprm"):
                said += compared(results, f"{method}, {label}", f"bt, {label}", "accuracy")
        return said

    return Section(
        "noise", "UKPConvArg1 strict, training verdicts flipped at random, frozen", variants, conclude
    )


def frozen(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    variants = [
        plan.variant(f"{method}, {tuning}", data, 6, {"method": method, **settings})
        for tuning, settings in (("frozen", FROZEN), ("tuned", {}))
        for method in ("bt", "oprm")
    ]

    def conclude(results: Results) -> list[str]:
        return [
            line
            for method in ("bt", "oprm")
            for line in compared(
                results, f"{method}, tuned", f"{method}, frozen", "accuracy", "near-equal accuracy"
            )
        ]

    return Section(
        "frozen", "UKPConvArg1 strict, frozen against tuned (the runs of ukp_strict)", variants, conclude
    )


def reliability(plan: Plan) -> Section:
    variants = []
    for spam in (0.0, 0.2):
        data = {"load": "ukp_votes", **({"change": {"spammers": spam}} if spam else {})}
        label = f", {spam:.0%} spam" if spam else ""
        for method in ("bt", "oprm"):
            for name, config in (
                ("with reliability", {"reliability": True}),
                ("without", {"reliability": False}),
                ("majority", {"reliability": False, "votes": "majority"}),
            ):
                settings = {"method": method, **FROZEN_VOTES, **config}
                variants.append(plan.variant(f"{method}{label}, {name}", data, 3, settings))

    def conclude(results: Results) -> list[str]:
        said = []
        for label in ("", ", 20% spam"):
            for method in ("bt", "oprm"):
                plain = f"{method}{label}, without"
                said += compared(results, f"{method}{label}, with reliability", plain, "accuracy", "NLL")
                said += compared(results, plain, f"{method}{label}, majority", "accuracy", "NLL")
        for method in ("bt", "oprm"):
            said += spammers_found(results, f"{method}, 20% spam, with reliability")
        return said

    return Section(
        "reliability",
        "UKPConvArg1 votes, annotator reliability and votes one by one, and with 20 % simulated spam, frozen",
        variants,
        conclude,
    )


def spammers_found(results: Results, name: str) -> list[str]:
    """What the fitted error rates say of the made-up people, among those whom metrics.json lists."""
    if not results.has(name):
        return []
    people = [person for fold in results.folds[name] for person in fold.metrics["annotators"] or []]
    spam = np.array([person["annotator"].startswith("spammer") for person in people], dtype=bool)
    rate = np.array([person["error_rate"] for person in people])
    if not spam.any() or spam.all():
        return [f"{name}: no spammer, or nobody else, among the annotators listed."]
    return [
        f"{name}: fitted error rate {rate[spam].mean():.2f} of {spam.sum()} spammers listed, {rate[~spam].mean():.2f} "
        f"of {(~spam).sum()} people; AUROC {evaluate.auroc(rate, spam):.3f}."
    ]


def regions(plan: Plan) -> Section:
    every = {"load": "mlqe", "language_pair": "ro-en", "pairs_per_item": 1}
    variants = [plan.variant("oprm, all pairs", every, 3, {"method": "oprm", **FROZEN_LARGE}, 0.2)]
    data = {**every, "change": {"levels": 0.2}}
    for region in ("none", "flood", "intersect", "rectangle"):
        for terms in ("none", "all"):
            config = {"method": "rgft", "region": region, "level_terms": terms, **FROZEN_LARGE}
            variants.append(plan.variant(f"region {region}, level terms {terms}", data, 3, config))
    few = {**every, "change": {"levels": 0.5, "pairs": 0.5}}
    for terms in ("none", "unpaired", "all"):
        config = {"method": "rgft", "level_terms": terms, **FROZEN_LARGE}
        variants.append(plan.variant(f"half of the items paired, level terms {terms}", few, 3, config))

    def conclude(results: Results) -> list[str]:
        control = "region none, level terms none"
        # dropping the pairs that levels contradict, by itself
        said = compared(results, control, "oprm, all pairs", "accuracy")
        for region in ("flood", "intersect", "rectangle"):
            said += compared(results, f"region {region}, level terms none", control, "accuracy", "RPS")
            said += compared(
                results,
                f"region {region}, level terms all",
                "region none, level terms all",
                "accuracy",
                "RPS",
            )
        said += compared(
            results, "region flood, level terms none", "region intersect, level terms none", "accuracy", "RPS"
        )
        said += compared(results, "region none, level terms all", control, "accuracy", "RPS")
        paired = "half of the items paired, level terms"
        said += compared(results, f"{paired} unpaired", f"{paired} none", "accuracy", "RPS")
        said += compared(results, f"{paired} all", f"{paired} unpaired", "accuracy", "RPS")
        return said

    return Section("regions", "mlqe_pe ro-en, rgft's regions and level terms, frozen", variants, conclude)


def defaults(plan: Plan) -> Section:
    plain, rated = {"load": "ukp_strict"}, {"load": "mlqe", "language_pair": "ro-en", "pairs_per_item": 1}
    variants = [
        plan.variant(f"bt, centring {weight:g}", plain, 3, {"method": "bt", "centring": weight, **FROZEN})
        for weight in (0.0, 0.01, 0.1)
    ]

    def on_rated(name: str, data: dict[str, Any], config: dict[str, Any]) -> None:
        levels = 1.0 if config["method"] == "bt" else None
        variants.append(plan.variant(name, {**rated, **data}, 3, {**FROZEN_LARGE, **config}, levels))

    for margin in (0.25, 0.5, 1.0):
        strong = {"method": "bt", "strength_margin": margin}
        on_rated(f"bt, strength margin {margin:g}", {"strengths": True}, strong)
    on_rated("oprm, with strength", {"strengths": True}, {"method": "oprm"})
    for method in ("bt", "oprm"):
        on_rated(f"{method}, orders alone", {}, {"method": method})
        on_rated(f"{method}, both bad said", {"change": {"both_bad": 1.0}}, {"method": method})

    def conclude(results: Results) -> list[str]:
        said = []
        for weight in ("0", "0.1"):
            said += compared(results, f"bt, centring {weight}", "bt, centring 0.01", "accuracy", "NLL")
        for name in ("strength margin 0.25", "strength margin 0.5", "strength margin 1", "both bad said"):
            said += compared(results, f"bt, {name}", "bt, orders alone", "accuracy", "NLL", "RPS")
        for name in ("with strength", "both bad said"):
            said += compared(results, f"oprm, {name}", "oprm, orders alone", "accuracy", "NLL", "RPS")
        return said

    return Section(
        "defaults",
        "Other defaults, frozen: centring on UKPConvArg1 strict; on mlqe_pe ro-en strengths (terciles of the gap "
        'of means) and "both bad" in place of the order where both are',
        variants,
        conclude,
    )


SECTIONS: dict[str, Callable[[Plan], Section]] = {
    "ukp_strict": strict,
    "votes": votes,
    "humor": humor,
    "qa": qa,
    "mlqe": mlqe,
    "haf": haf,
    "noise": noise,
    "frozen": frozen,
    "reliability": reliability,
    "regions": regions,
    "defaults": defaults,
    "haf_weights": haf_weights,
    "qa_tuned": qa_tuned,
}
ON_REQUEST = ("haf_weights", "qa_tuned")  # slower than what they tell


# -- the table -------------------------------------------------------------------------------------------------

COLUMNS = (
    "variant",
    "runs",
    "n",
    "accuracy",
    "longer wins",
    "near-equal",
    "people",
    "NLL before",
    "NLL",
    "Brier",
    "ECE before",
    "ECE after",
    "tie AUROC",
    "level accuracy",
    "kappa",
    "RPS",
    "s/run",
)


def printed(row: dict[str, Any], column: str) -> str:
    """A cell of the table as text; empty where there is nothing to say."""
    value = row.get("accuracy") if column == "n" else row.get(column)
    if value is None:
        return ""
    if column == "n":
        return str(value.n)
    if column in ("NLL", "Brier"):
        return f"{value.value:.3f} ({row[column.lower() + ' floor']:.3f})"
    if isinstance(value, Estimate):
        if column in ("longer wins", "near-equal") or value.low is None:
            return f"{value.value:.3f}"
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    if isinstance(value, float):
        return f"{value:.0f}" if column == "s/run" else f"{value:.3f}"
    return str(value)


def print_table(rows: list[dict[str, Any]], titles: dict[str, str]) -> None:
    """One markdown table; a section's title is a row of its own."""
    lines = [list(COLUMNS)]
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1]["section"] != row["section"]:
            lines.append([f"**{row['section']}**: {titles[row['section']]}"])
        lines.append([printed(row, column) for column in COLUMNS])
    whole = [line for line in lines if len(line) == len(COLUMNS)]
    widths = [max(len(line[place]) for line in whole) for place in range(len(COLUMNS))]
    for number, line in enumerate(lines):
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        print("| " + " | ".join([*padded, *[""] * (len(COLUMNS) - len(line))]).rstrip() + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def plain(value: Any) -> Any:
    """For JSON."""
    return vars(value) if isinstance(value, Estimate) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    standard = [name for name in SECTIONS if name not in ON_REQUEST]
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=standard, help=f"default: {' '.join(standard)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="two folds, fewer pairs and epochs: does it work?"
    )
    parser.add_argument("--json", type=Path, help="also write rows and sentences here")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "caliper-quality")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there: the benchmark reads the public data from it", file=sys.stderr)
        return 2
    started = time.monotonic()
    plan = Plan(options.seeds, options.quick)
    sections = [SECTIONS[name](plan) for name in options.only]
    cells = {
        cell.key: cell
        for section in sections
        for variant in section.variants
        for cell in variant.cells
        if not cell.missing
    }
    failed = run_cells(cells.values(), options.cache, options.jobs)

    rows: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for section in sections:
        results = Results()
        lines: list[str] = []
        for variant in section.variants:
            missing = sorted({name for cell in variant.cells for name in cell.missing})
            errors = [failed[cell.key] for cell in variant.cells if cell.key in failed]
            if missing:
                lines.append(f"{variant.name}: not run, this version knows no {', '.join(missing)}.")
            elif errors:
                lines.append(f"{variant.name}: not run, {errors[0]}")
            else:
                folds = [load_cell(cell, options.cache) for cell in variant.cells]
                results.folds[variant.name], results.levels[variant.name] = folds, variant.levels
                rows.append(row_of(section.name, variant, folds))
        said[section.name] = lines + section.conclude(results)

    print(
        f"Caliper, quality: seeds {' '.join(map(str, plan.seeds))}, code {code_digest()[:12]}, "
        f"{time.monotonic() - started:.0f} s now{', QUICK: no figure means anything' if plan.quick else ''}.  "
        "Accuracy over decisive votes with 95 % intervals over groups; near-equal: under "
        f"{evaluate.NEAR_EQUAL_LENGTH} characters apart; NLL and Brier against vote shares after calibration on other "
        "held-out groups, people's own floor in brackets; people: one person against the majority of the others."
    )
    print_table(rows, {section.name: section.title for section in sections})
    for section in sections:
        print(f"\n{section.name}: {section.title}")
        for line in said[section.name]:
            print(f"- {line}")
    unhelpful = [
        line for lines in said.values() for line in lines if "no difference shown" in line or "HURTS" in line
    ]
    print(f"\nNo help shown, or harm, in {len(unhelpful)} of {sum(map(len, said.values()))} statements:")
    for line in unhelpful:
        print(f"- {line}")
    if options.json:
        report = {
            "seeds": plan.seeds,
            "quick": plan.quick,
            "code": code_digest(),
            "rows": [{name: plain(value) for name, value in row.items()} for row in rows],
            "sentences": said,
        }
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
