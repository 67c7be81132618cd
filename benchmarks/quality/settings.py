"""Sections that vary one setting: the base model, reliability, regions, defaults, what an encoder pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import (
    STARTER,
)
from benchmarks.quality.figures import (
    Plan,
    Results,
    Section,
    accuracy_bars,
    against_first,
    compared,
    robust,
)
from benchmarks.quality.methods import FROZEN, FROZEN_LARGE
from workers.rewards.evaluation import metrics


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
                settings = {"method": method, **FROZEN_LARGE, **config}
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


def level_terms(plan: Plan) -> Section:
    """Levels as terms of their own for the methods whose paper knows none, beside cut points that are fitted after."""
    data = {"load": "mlqe", "language_pair": "ro-en", "pairs_per_item": 1}
    variants = []
    for method in ("bt", "clf", "oprm"):
        for terms in ("none", "all"):
            config = {"method": method, "level_terms": terms, **FROZEN_LARGE}
            if terms == "all" or method == "oprm":
                variants.append(plan.variant(f"{method}, level terms {terms}", data, 3, config))
            variants.append(
                plan.variant(f"{method}, level terms {terms}, cut points fitted", data, 3, config, 1.0)
            )

    def conclude(results: Results) -> list[str]:
        said = []
        for method in ("bt", "clf", "oprm"):
            name, before = f"{method}, level terms all", f"{method}, level terms none, cut points fitted"
            said += compared(results, name, before, "accuracy", "NLL", "RPS", "level accuracy")
            said += compared(results, name, f"{name}, cut points fitted", "RPS")
        return said

    return Section(
        "level_terms", "mlqe_pe ro-en, whose levels teach, 3 folds of documents, frozen", variants, conclude
    )


def defaults(plan: Plan) -> Section:
    plain, rated = {"load": "ukp_strict"}, {"load": "mlqe", "language_pair": "ro-en", "pairs_per_item": 1}
    variants = [
        plan.variant(f"bt, centring {weight:g}", plain, 3, {"method": "bt", "centring": weight, **FROZEN})
        for weight in (0.0, 0.01, 0.1)
    ]

    def on_rated(name: str, data: dict[str, Any], config: dict[str, Any]) -> None:
        levels = 1.0 if config["method"] == "bt" else None
        config = {"level_terms": "none", **FROZEN_LARGE, **config}
        variants.append(plan.variant(name, {**rated, **data}, 3, config, levels))

    for margin in (0.25, 0.5, 1.0):
        strong = {"method": "bt", "strength_margin": margin}
        on_rated(f"bt, strength margin {margin:g}", {"strengths": True}, strong)
    on_rated("bt, strength thresholds", {"strengths": True}, {"method": "bt", "strength": "thresholds"})
    on_rated("oprm, with strength", {"strengths": True}, {"method": "oprm", "strength": "margin"})
    for method in ("bt", "oprm"):
        on_rated(f"{method}, orders alone", {}, {"method": method})
        on_rated(f"{method}, both bad said", {"change": {"both_bad": 1.0}}, {"method": method})

    def conclude(results: Results) -> list[str]:
        said = []
        for weight in ("0", "0.1"):
            said += compared(results, f"bt, centring {weight}", "bt, centring 0.01", "accuracy", "NLL")
        strengths = [f"strength {how}" for how in ("margin 0.25", "margin 0.5", "margin 1", "thresholds")]
        for name in (*strengths, "both bad said"):
            said += compared(results, f"bt, {name}", "bt, orders alone", "accuracy", "NLL", "RPS")
        said += compared(
            results, "bt, strength thresholds", "bt, strength margin 1", "accuracy", "NLL", "RPS"
        )
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
