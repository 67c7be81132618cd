"""The model card that lies in a model packed in Caliper's own format."""

import json
from typing import Any

from webapp.corpus.base_models import base_model_public
from webapp.training import reports
from webapp.training.metrics import Cell, metric_rows
from webapp.training.models import ModelVersion

# Estimates of people stay with the project: the model may go anywhere.
PERSONAL = ("annotators", "annotator_count")


def public_metrics(version: ModelVersion) -> dict[str, Any]:
    """metrics.json without what it says about single people, and without a path of this server."""
    public = {name: value for name, value in version.metrics.items() if name not in PERSONAL}
    if isinstance(config := public.get("config"), dict):
        public["config"] = public_config(config)
    return public


def public_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings as people may see them: a path, which older versions took as a base model, is not told."""
    return {**config, "base_model": base_model_public(config.get("base_model", "unknown"))}


def model_card(version: ModelVersion) -> str:
    """README.md: what the model is, what it was trained on, what it was measured to be worth, and its limits."""
    run = version.run
    config = public_config(run.config)
    facts = version.metrics.get("training") or {}
    lines = [
        f"# {version.get_method_display()} v{version.number} of {version.project.name}",
        "",
        "A reward model made with Caliper. It gives a response "
        + (
            "a distribution over the ratings 1 (worst) to 9 (best)."
            if version.kind == "ordinal"
            else "a number of which only differences count."
        ),
        "",
        f"- Base model: {config['base_model']}{_revision(version)}, tuning: {config.get('tuning', 'unknown')}",
        f"- Made: {version.created_at:%Y-%m-%d}, run {run.pk}, model digest `{version.digest}`",
    ]
    if run.snapshot is not None:
        lines.append(f"- Trained on a snapshot of labels with digest `{run.snapshot.digest}`")
    if facts.get("judgements") is not None:
        lines.append(
            f"- Of these {facts['judgements']} judgements and {facts.get('levels', 0)} levels "
            f"of {facts.get('responses', 0)} responses; the rest was held out or left out"
        )
    lines += ["", "## Use", "", *_USE, "", "## Measured on held-out labels", ""]
    rows = metric_rows(version.metrics)
    lines += [f"- {row.name}: {_cell(row.new, share=row.share)}" for row in rows] or ["Nothing was held out."]
    lines += ["", "## Calibration", "", _calibration(version), "", "## Robustness", "", *_robustness(version)]
    lines += ["", "## Settings", "", "```json", json.dumps(config, indent=1), "```", "", *_LIMITS, ""]
    return "\n".join(lines)


_USE = (
    "`reward_config.json` names method, scale, template and calibration; `metrics.json` holds all that was measured. "
    "With Caliper's `workers.rewards` (plain PyTorch):",
    "",
    "    python -m workers.rewards.score MODEL_DIR RESPONSES",
    "    python -m workers.rewards.export MODEL_DIR OUT_DIR    # a folder for plain transformers",
)
_LIMITS = (
    "## Limits",
    "",
    "It predicts what the people of one project preferred, on texts like theirs. Measure it again on yours before you "
    "optimise against it: what raises a reward is not always better. The base model's licence goes on.",
)


def _revision(version: ModelVersion) -> str:
    """The commit of the hub that was loaded, where the base model came from there."""
    revision = version.artifact.get("base_revision")
    return f" (revision `{revision}`)" if revision else ""


def _cell(cell: Cell, *, share: bool) -> str:
    if cell.value is None:
        return "could not be computed"

    def number(value: float) -> str:
        return f"{100 * value:.1f} %" if share else f"{value:.3f}"

    interval = (
        ""
        if cell.low is None or cell.high is None
        else f" (95 % interval {number(cell.low)} to {number(cell.high)})"
    )
    return number(cell.value) + interval + ("" if cell.n is None else f", n = {cell.n}")


def _calibration(version: ModelVersion) -> str:
    found = reports.calibration(version.metrics)
    if found is None or not found.after:
        return "Not calibrated: probabilities are the network's own."
    before, after = (
        ", ".join(
            f"{row.name} {value:.3f}" for row in found.rows if (value := getattr(row, side)) is not None
        )
        for side in ("before", "after")
    )
    return f"By {found.method} ({found.parameters}). Before: {before}. After, cross-fitted: {after}."


def _robustness(version: ModelVersion) -> list[str]:
    found = reports.robustness(version.metrics)
    if found is None:
        return ["Not examined."]
    if found.passed:
        return ["Passed its suite of injected text, empty answers, padding and order."]
    return ["Failed its suite:", "", *(f"- {failure}" for failure in found.failures)]
