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
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import (
    CUT_SHARES,
    STARTER,
    Estimate,
    code_digest,
    load_cell,
    ratio,
    run_cells,
)
from benchmarks.datasets import DATA
from benchmarks.figures import (
    BARS,
    Plan,
    Results,
    Section,
    Variant,
    accuracy,
    bar,
    calibration,
    compared,
    joined,
    near_accuracy,
    row_of,
    tie_auroc,
)
from workers.rewards.evaluation import metrics, robustness

FROZEN = {"tuning": "frozen"}
# The larger sets: fewer or larger steps than the defaults, the same for every method that is compared.
FROZEN_VOTES = {"tuning": "frozen", "epochs": 12}
FROZEN_LARGE = {"tuning": "frozen", "epochs": 12, "token_budget": 8192}
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)
LEVEL_SHARES = tuple(reversed(CUT_SHARES))


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


def topics(plan: Plan) -> Section:
    """ukp_strict, with the debate and the stance as the prompt."""
    data = {"load": "ukp_strict", "topics": True}
    votes = {**data, "change": {"votes": 1.0}}
    variants = [
        plan.variant("oprm, topic read, trained on votes", votes, 6, {"method": "oprm"}),
        plan.variant("bt, topic read", data, 6, {"method": "bt"}),
    ]

    return Section(
        "topics",
        "UKPConvArg1 strict, debate and stance as the prompt, 6 folds of whole debates",
        variants,
        lambda results: accuracy_bars(results, variants),
    )


def larger(plan: Plan) -> Section:
    """ukp_strict with a larger encoder: how much of what is missing is the base model's."""
    data = {"load": "ukp_strict", "change": {"votes": 1.0}}
    encoder = Path(plan.encoder).name
    variants = [
        plan.variant("oprm, trained on votes", data, 6, {"method": "oprm"}),
        plan.variant(
            f"oprm, trained on votes, {encoder}", data, 6, {"method": "oprm", "base_model": plan.encoder}
        ),
    ]

    def conclude(results: Results) -> list[str]:
        said = accuracy_bars(results, variants)
        said += against_first(results, variants, "accuracy", "near-equal accuracy")
        for variant in variants:
            said += robust(results, variant.name)
        return said

    return Section("larger", f"UKPConvArg1 strict, {encoder}, 6 folds of whole debates", variants, conclude)


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
    }
    variants = [plan.variant(name, data, 3, {**base, **config}) for name, config in settings.items()]
    return Section(
        "haf_weights",
        "haf's weights, as in section haf",
        variants,
        lambda results: against_first(results, variants, "accuracy"),
    )


def against_first(results: Results, variants: list[Variant], *figures: str) -> list[str]:
    """The other variants, each compared with the first."""
    first, *others = variants
    return [line for other in others for line in compared(results, other.name, first.name, *figures)]


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
        f"of {(~spam).sum()} people; AUROC {metrics.auroc(rate, spam):.3f}."
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
    on_rated("oprm, with strength", {"strengths": True}, {"method": "oprm", "use_strength": True})
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


def training(plan: Plan) -> Section:
    data = {"load": "ukp_strict"}
    settings: dict[str, dict[str, Any]] = {
        "bt, tuned": {},
        "the base model's dropout": {"dropout": None},
        "learning rate halved": {"learning_rate": 7.5e-5},
        "learning rate doubled": {"learning_rate": 3e-4},
        "head's learning rate 3e-3": {"head_learning_rate": 3e-3},
        "token budget 1,024, two epochs": {"token_budget": 1024, "epochs": 2, "learning_rate": 1e-4},
        "token budget 4,096, four epochs": {"token_budget": 4096, "epochs": 4, "learning_rate": 2e-4},
        "no warm-up": {"warmup": 0.0},
    }
    variants = [plan.variant(name, data, 3, {"method": "bt", **config}) for name, config in settings.items()]
    return Section(
        "training",
        "Defaults of the training, UKPConvArg1 strict, tuned",
        variants,
        lambda results: against_first(results, variants, "accuracy", "NLL"),
    )


POOLED: dict[str, dict[str, Any]] = {
    "qa_feedback": {"load": "qa_feedback", "passages": False},
    "pandalm": {"load": "pandalm"},
    "autoj": {"load": "autoj"},
    "hh_rlhf": {"load": "hh_rlhf"},
}
POOLED_TUNED = ("qa_feedback", "pandalm")  # the others would take an hour more


def pooling(plan: Plan) -> Section:
    """UKPConvArg1's arguments stand without a prompt, so it has no say here."""
    variants = [
        plan.variant(
            f"{name}, {tuning}, {over}", data, 3, {"method": "bt", "pool_prompt": pool_prompt, **settings}
        )
        for tuning, settings in (("frozen", FROZEN_LARGE), ("tuned", {}))
        for name, data in POOLED.items()
        if tuning == "frozen" or name in POOLED_TUNED
        for over, pool_prompt in (("whole text", True), ("response", False))
    ]

    def conclude(results: Results) -> list[str]:
        return [
            line
            for whole, response in zip(variants[::2], variants[1::2], strict=True)
            for line in compared(results, response.name, whole.name, "accuracy", "NLL")
        ]

    return Section(
        "pooling",
        "An encoder's mean over prompt and response, or over the response in view of its prompt; bt, 3 folds",
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
    "training": training,
    "pooling": pooling,
    "topics": topics,
    "larger": larger,
}
ON_REQUEST = (
    "haf_weights",
    "qa_tuned",
    "training",
    "pooling",
    "topics",
    "larger",
)  # slower than what they tell


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
    parser.add_argument("--encoder", default=Plan.encoder, help="hub id or path, for section larger")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there: the benchmark reads the public data from it", file=sys.stderr)
        return 2
    started = time.monotonic()
    plan = Plan(options.seeds, options.quick, options.encoder)
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
        f"{metrics.NEAR_EQUAL_LENGTH} characters apart; NLL and Brier against vote shares after calibration on other "
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
