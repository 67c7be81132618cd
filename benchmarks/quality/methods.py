"""Sections that put the methods beside each other, a data set each."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cells import (
    CUT_SHARES,
    STARTER,
)
from benchmarks.quality.figures import (
    BARS,
    Plan,
    Results,
    Section,
    Variant,
    accuracy_bars,
    bar,
    calibration,
    compared,
    robust,
    tie_auroc,
)

FROZEN = {"tuning": "frozen"}
# The larger sets, as the figures in docs/measurements.md were made (the default was 40 then and is 10 now).
FROZEN_LARGE = {"tuning": "frozen", "epochs": 12}
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)
LEVEL_SHARES = tuple(reversed(CUT_SHARES))


def strict(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    votes = {**data, "change": {"votes": 1.0}}
    variants = [plan.variant(f"{method}, tuned", data, 6, {"method": method}) for method in ("bt", "oprm")]
    variants += [
        plan.variant("bt, trained on votes", votes, 6, {"method": "bt"}),
        plan.variant("oprm, trained on votes", votes, 6, {"method": "oprm"}),
    ]

    def conclude(results: Results) -> list[str]:
        said = accuracy_bars(results, variants)
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
        plan.variant(f"{method}, frozen", data, 3, {"method": method, **FROZEN_LARGE})
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
                said.append(bar(f"{name}, ECE after calibration, {words}", value, BARS["ece"], less=True))
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
                config = {"method": method, "level_terms": "none", **FROZEN_LARGE}
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
