"""The model card of an exported model: what it is, how to use it, how good it was measured to be, and where not.

Figures come from the run's metrics.json; what it doesn't hold, the card doesn't claim. They have the names that they
have on the version's page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..models.base_models import STARTER, hub_id, public_name
from .usage import use

Row = Mapping[str, Any]

OBJECTIVES = {
    "bt": "Bradley-Terry: -log sigmoid(r_a - r_b) for every judgement that prefers a over b",
    "clf": (
        "order-consistent classifier (arXiv 2411.04991): binary cross-entropy of each single response, preferred 1 "
        "and rejected 0; the logit is the reward"
    ),
    "oprm": (
        "ordinal probabilistic reward model (arXiv 2602.12660): a distribution over the ratings 1 to 9, trained on "
        "-log P(rating of the preferred > rating of the other)"
    ),
    "rgft": (
        "region flooding tuning (arXiv 2602.12660): a distribution over the ratings 1 to 9, trained on -log of the "
        "probability of the region of rating pairs that verdict and quality levels allow"
    ),
    "haf": (
        "HaF-RM (arXiv 2407.04185): a preference loss on the reward plus alpha times a policy term on the same "
        "backbone; only the reward is measured here"
    ),
    "grm": (
        "generative reward model (SPCT, arXiv 2504.02495): it writes principles and critiques and scores the responses "
        "1 to 9; its probabilities are the votes of several such texts"
    ),
    "judge": (
        "none: a language model as it is writes principles and critiques and scores the responses 1 to 9; its "
        "probabilities are the votes of several such texts"
    ),
}

_BETA_CDF = """\
a, b, c = {a!r}, {b!r}, {c!r}
below = p.cumsum(1)[:, :-1].clamp_min(1e-12).log()  # log P(rating <= k), k = 1..8
above = p.flip(1).cumsum(1).flip(1)[:, 1:].clamp_min(1e-12).log()  # log P(rating > k)
reached = torch.sigmoid(a * below - b * above + c)
calibrated = torch.cat([torch.zeros_like(p[:, :1]), reached, torch.ones_like(p[:, :1])], 1).diff(dim=1)  # [B, 9]
print((calibrated @ torch.arange(1.0, 10.0, dtype=p.dtype)).tolist())
"""

_TEMPERATURE = """\
difference = (rewards[0] - rewards[1]) / {temperature!r}
p_first = torch.sigmoid(difference - {tie!r})  # the first is preferred
p_second = torch.sigmoid(-difference - {tie!r})  # the second is; what is left of 1 is a tie
print(p_first.item(), p_second.item())
"""


def _caliper_use(config: Row) -> str:
    lines = [
        "`reward_config.json` names method, scale, template and calibration; `metrics.json` holds all that was "
        "measured.",
        "With Caliper's `workers.rewards` (plain PyTorch):",
        "",
        "    python -m workers.rewards.score MODEL_DIR RESPONSES",
    ]
    if config["method"] != "judge":  # which has no weights to export
        lines.append(
            "    python -m workers.rewards.export MODEL_DIR OUT_DIR    # a folder for plain transformers"
        )
    return "\n".join(lines)


def model_card(
    config: Row,
    metrics: Row | None,
    report: Row | None,
    *,
    title: str | None = None,
    made: str | None = None,
    usage: str | None = None,
) -> str:
    """README.md. `config` is reward_config.json; `report` is export_model's, None for a model in Caliper's own format.

    `title` and `made` (when, by which run) are the worker's, who knows project and version. `usage`: what an export's
    reader does with it, where that isn't to score a response.
    """
    run = (metrics or {}).get("config") or {}
    parts = [
        *([_front_matter(config, report)] if report else []),
        _what(config, run, report, title, made, metrics),
        _section("Use", usage or (use(config, report) if report else _caliper_use(config))),
        _section("Training data", _data(metrics, run)),
        _section("Held-out results", _results(metrics)),
        _section("Calibration", _calibration(config, metrics, raw=report is not None)),
        _section("Robustness", _robustness(metrics)),
        *([_section("Settings", _settings(run))] if run else []),
        _section("Limits", _limits(config, metrics)),
    ]
    return "\n\n".join(parts) + "\n"


def _weights(below: Row) -> str:
    """Where a model with adapters has its weights; `below` is reward_config.json's "base"."""
    if (on_hub := hub_id(below["name"])) is None:
        return "adapters and head; the base model below them lies in the folder `base`"
    return (
        f"adapters and head; {on_hub} below them is loaded at `{below['revision']}`, or from a folder `base`"
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _front_matter(config: Row, report: Row) -> str:
    lines = ["---", "library_name: transformers"]
    pipeline = "text-generation" if report["auto_class"] == "AutoModelForCausalLM" else "text-classification"
    lines.append(f"pipeline_tag: {pipeline}")
    if (base := hub_id(config.get("base_model"))) is not None:
        lines.append(f"base_model: {base}")
    tags = ["reward-model", "preference", "caliper", config["method"]]
    if report["trust_remote_code"]:
        tags.append("custom_code")
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _base(config: Row) -> str:
    """The base model in words; where it came from the hub with the commit that was loaded."""
    name = public_name(config.get("base_model"))
    if (on_hub := hub_id(name)) is not None:
        revision = config.get("base_revision")
        return on_hub + (f", revision `{revision}`" if revision else "")
    if name == STARTER:
        return "a tiny language model made from the project's own texts"
    prefix, _, rest = name.partition(":")
    return {"folder": f"{rest} (a local model)", "version": f"{rest} of the same project"}.get(prefix, name)


def _generative(config: Row, metrics: Row | None) -> list[str]:
    """How a generative model votes, and what its stages kept."""
    if (asked := config.get("generative")) is None:
        return []
    counts = ((metrics or {}).get("generative") or {}).get("stages") or {}
    lines = [
        f"- Votes: {asked['samples']} texts a response at temperature {asked['sampling_temperature']:g}, of up to "
        f"{asked['max_new_tokens']:,} tokens{', the best half by a meta model' if asked['meta'] else ''}"
    ]
    if asked["model"]:
        lines.append(f"- Asked: {asked['model']}, through an endpoint that the operator named")
    if asked["stages"]:
        lines.append(f"- Stages: {asked['stages'].replace(',', ', ')}")
    for stage, counted in counts.items():
        told = ", ".join(
            f"{name.replace('_', ' ')} {n:,}" for name, n in counted.items() if isinstance(n, int)
        )
        lines.append(f"- Stage {stage}: {told}")
    return lines


def _what(
    config: Row, run: Row, report: Row | None, title: str | None, made: str | None, metrics: Row | None
) -> str:
    output = (
        "critiques of them, and from several such texts votes: shares of the ratings 1 (worst) to 9 (best)"
        if "generative" in config
        else "one number, the reward: higher is better, and only differences between responses mean something"
        if config["kind"] == "scalar"
        else "a probability for each of the ratings 1 (worst) to 9 (best); the reward is the expected rating"
    )
    lines = [
        f"# {title or 'Reward model (' + config['method'] + ')'}",
        "",
        f"It reads a conversation and {'one to four responses' if 'generative' in config else 'a response'} and gives "
        f"{output}. Made with Caliper.",
        "",
        f"- Base model: {_base(config)}",
        f"- Objective: {OBJECTIVES[config['method']]}",
    ]
    if config["method"] == "rgft" and run:
        said = f"region {run.get('region')}, level terms {run.get('level_terms')}"
        lines.append(f"- Preset: {(metrics or {}).get('preset') or 'own settings'} ({said})")
    if made:
        lines.append(f"- Made: {made}")
    lines += _generative(config, metrics)
    if cuts := config.get("level_cuts"):
        bad, normal = (f"{cut:.3f}" for cut in cuts)
        lines.append(
            f"- Levels: bad ends at a reward of {bad}, normal at {normal}; sigmoid({bad} - reward) is P(bad), "
            f"sigmoid({normal} - reward) is P(bad or normal)"
        )
    if config["kind"] == "ordinal" and config.get("partition"):
        bad, normal = config["partition"]
        lines.append(f"- Levels: bad is 1 to {bad}, normal {bad + 1} to {normal}, good {normal + 1} to 9")
    tuning = {
        "frozen": "the head alone",
        "tuned": "all weights",
        "lora": f"LoRA adapters{', merged,' if report else ''} and the head",
        "qlora": f"LoRA adapters beside weights of four bits{', merged,' if report else ''} and the head",
    }
    if run.get("tuning") in tuning and config["method"] != "judge":
        lines.append(
            f"- Trained: {tuning[run['tuning']]}; {run.get('epochs')} epochs, seed {run.get('seed')}"
        )
    if (below := config.get("base")) is not None and not report:
        lines.append(f"- Weights: {_weights(below)}")
    if report:
        remote = ", with `trust_remote_code=True`: modeling_caliper.py" if report["trust_remote_code"] else ""
        lines.append(f"- Loads as: `{report['auto_class']}` ({report['architecture']}){remote}")
    lines += [
        f"- Model digest: `{config.get('digest')}`",
        "- Licence: that of the base model applies to these weights, and the labels may have terms of their own; "
        "whoever shares this model chooses a licence that fits both",
    ]
    return "\n".join(lines)


_CALIBRATIONS = {
    "temperature": "Temperature scaling",
    "beta_cdf": "A monotone recalibration of the rating distribution, a beta curve over its cumulative shares",
}


def _settings(run: Row) -> str:
    shown = {**run, "base_model": public_name(run.get("base_model"))}
    return f"```json\n{json.dumps(shown, indent=1)}\n```"


def _data(metrics: Row | None, run: Row) -> str:
    training = (metrics or {}).get("training") or {}
    if training.get("judgements") is None:
        return "Not recorded with this model."
    lines = [
        f"- {training['judgements']} judgements and {training.get('levels', 0)} quality levels of "
        f"{training.get('responses', 0)} responses; the rest of the snapshot was held out or left out"
    ]
    if run.get("snapshot_digest"):
        lines.append(f"- Snapshot digest: `{run['snapshot_digest']}`")
    dropped = {name: n for name, n in (training.get("dropped") or {}).items() if n}
    if dropped:
        lines.append(
            "- Left out: " + ", ".join(f"{n} ({name.replace('_', ' ')})" for name, n in dropped.items())
        )
    lines.append(f"- Texts cut to fit: {training.get('truncated', 0)}")
    lines += [f"- {note}" for note in ((metrics or {}).get("reading") or {}).get("notes") or ()]
    return "\n".join(lines)


_MEASURES = (
    ("ece", "Calibration error (ECE)"),
    ("ece_equal_mass", "Calibration error, bins of equal mass"),
    ("nll", "Log loss against vote shares (NLL)"),
    ("brier", "Squared error against vote shares (Brier)"),
)


def _results(metrics: Row | None) -> str:
    held_out = (metrics or {}).get("held_out") or {}
    pairs, levels = held_out.get("pairs") or {}, held_out.get("levels") or {}
    extremes = held_out.get("auroc_good_bad") or (metrics or {}).get("auroc_good_bad")
    split = (metrics or {}).get("split") or {}
    if not (pairs or levels or extremes):
        return "None: nothing was held out, or metrics.json was not at hand. Nothing is known of its quality."
    near = pairs.get("near_equal_length") or {}
    found = [
        ("Pair accuracy", pairs.get("accuracy"), pairs),
        ("Accuracy of “the longer one wins”", pairs.get("length_baseline"), pairs),
        (f"Pair accuracy, lengths within {near.get('max_difference')} characters", near, pairs),
        ("Human ceiling (leave one out)", pairs.get("human_ceiling"), pairs),
        *((name, pairs.get(key), pairs) for key, name in _MEASURES if key != "ece_equal_mass"),
        ("Level accuracy", levels.get("accuracy"), levels),
        ("Accuracy of always guessing the most common level", levels.get("constant"), levels),
        ("Level agreement (weighted kappa)", levels.get("quadratic_kappa"), levels),
        ("Level error (ranked probability score, RPS; 0 is best)", levels.get("rps"), levels),
        ("Coverage of the central 80 %", levels.get("coverage"), levels),
        ("AUROC good against bad", extremes, {}),
    ]
    rows = []
    for name, entry, group in found:
        entry = entry if isinstance(entry, Mapping) else {"value": entry}
        if entry.get("value") is not None:
            floor = entry.get("floor")
            best = "" if floor is None else f" (at best {_number(floor)}, for people's votes differ)"
            rows.append((name, _interval(entry) + best, entry.get("n", group.get("n"))))
    unit = split.get("unit")
    by = f"Whole {unit}s were held out" if unit in ("group", "prompt") else "The split was not by prompt"
    table = _table(("measure", "value", "n"), rows)
    notes = [split["note"]] if split.get("note") else []
    if shared := split.get("shared_prompts"):
        notes.append(f"{shared} held-out responses answer a prompt whose text was also trained on.")
    note = "".join(f"\n\n{text}" for text in notes)
    return f"{by}; intervals are 95 %, clustered by group.\n\n{table}{note}"


def _calibration(config: Row, metrics: Row | None, *, raw: bool) -> str:
    """`raw`: what loads the model gives its own logits, and the card has the code that calibrates them."""
    found = ((metrics or {}).get("held_out") or {}).get("calibration") or {}
    applied = config.get("calibration") or {}
    method = applied.get("method")
    text = "None was fitted; the probabilities are the network's own."
    if name := method or found.get("method"):
        text = _CALIBRATIONS.get(name, f"`{name}`")
        parameters = (applied or found).get("parameters") or {}
        numbers = [f"{key} {_value(value):.3g}" for key, value in parameters.items() if value is not None]
        text += f" ({', '.join(numbers)}), which keeps the order."
        if found.get("fitted_on"):
            text += f" Fitted on {found['fitted_on']} held-out pairs."
    if raw and method is not None:
        text += (
            "\n\n**The logits above are uncalibrated.** The results above are those after calibration (its parameters "
            "also stand in config.json under `caliper`):\n\n```python\n"
        )
        if method == "beta_cdf":
            text += _BETA_CDF.format(**applied["parameters"]) + "```"
        else:
            temperature, tie = applied["parameters"]["temperature"], config.get("tie") or 0.0
            text += _TEMPERATURE.format(temperature=temperature, tie=tie) + "```"
    before, after = found.get("before"), found.get("after")
    if before and after:
        rows = [
            (name, _number(_value(before[key])), _number(_value(after[key])))
            for key, name in _MEASURES
            if before.get(key) is not None and after.get(key) is not None
        ]
        text += f"\n\n{_table(('cross-fitted, held out', 'before', 'after'), rows)}"
    if found.get("note"):
        text += f"\n\n{found['note']}"
    return text


def _robustness(metrics: Row | None) -> str:
    report = (metrics or {}).get("robustness")
    if not report:
        return "Not measured with this model."
    unit = {"rating": "ratings", "sd": "standard deviations of the scores"}.get(
        report.get("unit"), "score units"
    )
    suite = "its suite of injected text, empty answers, padding and order"
    parts = [f"Passed {suite}." if report.get("passed") else f"**Failed {suite}:**\n"]
    parts += [f"- {line}" for line in report.get("failures") or ()]
    attacks = report.get("attacks") or {}
    if attacks:
        rows = [
            (name, _number(row.get("mean_shift")), _number(row.get("flip_rate")), row.get("n"))
            for name, row in attacks.items()
        ]
        parts.append(
            "\n" + _table(("text added to a response", f"mean shift ({unit})", "orders flipped", "n"), rows)
        )
    length = report.get("length") or {}
    if length.get("correlation") is not None:
        parts.append(f"\nCorrelation of score and length: {_number(length['correlation'])}.")
    return "\n".join(parts)


def _limits(config: Row, metrics: Row | None) -> str:
    lines = [
        "- It has learnt nothing of this project's labels: what it holds for good is its own model's, beside the "
        "guidelines that it was given."
        if config["method"] == "judge"
        else "- It has learnt the preferences of the people who judged, in their language and on their kind of "
        "prompts; elsewhere nothing is known of it.",
        "- Scores of different models, or of a retrained one, are not on one scale.",
        "- Length and style sway reward models: compare with the row “the longer one wins” above before trusting it, "
        "and watch length when optimising against it. A policy trained against any reward model finds its mistakes, so "
        "measure it again on your own texts first.",
    ]
    if config["kind"] == "scalar" and not config.get("level_cuts"):
        lines.append("- A reward has no zero: compare responses to one prompt, and set no fixed threshold.")
    if not metrics:
        lines.append("- No measurement came with this model.")
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *(line(row) for row in rows)])


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _value(entry: Any) -> Any:
    return entry.get("value") if isinstance(entry, Mapping) else entry


def _interval(entry: Row) -> str:
    if entry.get("low") is None or entry.get("high") is None:
        return _number(entry["value"])
    return f"{_number(entry['value'])} [{_number(entry['low'])}, {_number(entry['high'])}]"
