"""What a training can be told: its method, and its options with their bounds."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.db import models


class Method(models.TextChoices):
    """The objectives a reward model is trained with (docs/methods.md)."""

    BT = "bt", "Bradley-Terry"
    CLF = "clf", "Classifier (CLF)"
    OPRM = "oprm", "Ordinal (OPRM)"
    RGFT = "rgft", "Region Flooding Tuning (RgFT)"
    HAF = "haf", "Hybrid (HaF-RM)"
    GRM = "grm", "Generative (SPCT)"
    JUDGE = "judge", "Judge (no training)"

    @property
    def short(self) -> str:
        """In one word, for where several stand in a row: “Ordinal (OPRM)” is OPRM."""
        named = {Method.GRM: "GRM", Method.JUDGE: "Judge"}
        return named.get(self) or str(self.label).rpartition("(")[2].rstrip(")")


GENERATIVE = (Method.GRM, Method.JUDGE)
"""Those that write their judgement; their votes are read from it. They need a causal language model."""

ENDPOINT = "endpoint:"
"""With what the name of a served model begins, which an operator offers to judges (webapp.corpus.endpoints)."""

LEARNING = tuple(method for method in Method if method != Method.JUDGE)
"""Those that learn from labels. A judge learns nothing: no label is too few for it, and no new one changes it."""


class Tuning(models.TextChoices):
    FROZEN = "frozen", "frozen base model, new head"
    TUNED = "tuned", "all weights"
    LORA = "lora", "LoRA adapters"
    QLORA = "qlora", "LoRA adapters on a 4-bit base"


ADAPTED = (Tuning.LORA, Tuning.QLORA)
"""Adapters learn, over a causal base model that stays as it is."""


BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "epochs": (1, 1000),
    "learning_rate": (0.0, 1.0),
    "max_length": (32, 32_768),
    "holdout": (0.0, 0.9),
    "hardening": (0.0, 1.0),
    "patience": (0, 1000),
    "crossfit": (0, 5),
    "strength_margin": (0.0, 100.0),
    "centring": (0.0, 100.0),
    "smoothness": (0.0, 100.0),
    "alpha": (0.0, 100.0),
    "beta": (1e-6, 100.0),
    "head_learning_rate": (0.0, 1.0),
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 1.0),
    "clip_norm": (1e-6, 1e6),
    "token_budget": (1, 100_000_000),
    "micro_batch_tokens": (1, 100_000_000),
    "head_hidden": (0, 65_536),
    "lora_rank": (1, 4096),
    "lora_alpha": (1, 65_536),
    "dropout": (0.0, 0.9),
    "checkpoint_seconds": (0.0, 86_400.0),
    "samples": (1, 64),
    "sampling_temperature": (0.0, 2.0),
    "max_new_tokens": (16, 16_384),
    "kl": (0.0, 10.0),
    "group": (2, 64),
    "grpo_steps": (1, 100_000),
    "grpo_learning_rate": (0.0, 1.0),
    "cost_limit": (0.0, 1_000_000.0),
    "token_limit": (1, 10**12),
}
"""The numbers that a person may set, with their bounds."""

WHOLE = (
    "seed", "epochs", "max_length", "patience", "token_budget", "micro_batch_tokens", "head_hidden", "lora_rank",
    "lora_alpha", "crossfit", "samples", "max_new_tokens", "group", "grpo_steps", "token_limit",
)  # fmt: skip

CHOICES: dict[str, tuple[str, ...]] = {
    "votes": ("each", "majority"),
    "region": ("intersect", "flood", "rectangle", "none"),
    "haf_head": ("scalar", "ordinal"),
    "backbone": ("auto", "encoder", "causal"),
    "level_terms": ("all", "unpaired", "none"),
    "strength": ("margin", "thresholds", "none"),
    "preset": ("product", "paper"),
    "optimizer": ("adamw", "adamw_8bit"),
    "report_to": ("none", "tensorboard", "trackio", "wandb", "mlflow"),
    "stages": ("rft,grpo", "rft", "grpo", "meta", "rft,meta", "grpo,meta", "rft,grpo,meta"),
}
"""The words that a person may choose, the trainer's default first (of OPRM's level_terms it is none)."""

PRESETS: dict[str, dict[str, Any]] = {
    "product": {"region": "intersect", "level_terms": "all"},
    "paper": {"region": "flood", "level_terms": "none", "smoothness": 0.0},
}
"""What one choice sets for RgFT, as in workers.rewards.config."""

FLAGS = ("reliability", "pool_prompt", "gradient_checkpointing", "shard")

FOLDS = 5
"""Of cross-fitted predictions; what `crossfit` is but for 0."""

NULL_MEANS = ("dropout",)
"""Options for which null is a value of its own: the base model's own dropout. For the others it is the default."""

METHODS_OF: dict[str, tuple[Method, ...]] = {
    "region": (Method.RGFT,),
    "preset": (Method.RGFT,),
    "haf_head": (Method.HAF,),
    "alpha": (Method.HAF,),
    "beta": (Method.HAF,),
    "samples": GENERATIVE,
    "sampling_temperature": GENERATIVE,
    "max_new_tokens": GENERATIVE,
    "stages": (Method.GRM,),
    "kl": (Method.GRM,),
    "group": (Method.GRM,),
    "grpo_steps": (Method.GRM,),
    "grpo_learning_rate": (Method.GRM,),
    "cost_limit": (Method.JUDGE,),
    "token_limit": (Method.JUDGE,),
}
"""Options that only some methods know."""

_SAMPLING = (
    "base_model", "tuning", "seed", "max_length", "micro_batch_tokens", "checkpoint_seconds", "samples",
    "sampling_temperature", "max_new_tokens",
)  # fmt: skip
KNOWN: dict[str, tuple[str, ...]] = {
    Method.GRM: (
        *_SAMPLING, "epochs", "learning_rate", "holdout", "warmup", "weight_decay", "clip_norm", "optimizer",
        "token_budget", "lora_rank", "lora_alpha", "dropout", "gradient_checkpointing", "stages", "kl", "group",
        "grpo_steps", "grpo_learning_rate",
    ),
    Method.JUDGE: (*_SAMPLING, "cost_limit", "token_limit"),
}  # fmt: skip
"""All that a method knows, where that is less than what is not another's. What it doesn't know would do nothing."""


def knows(method: str, name: str) -> bool:
    """Whether an option means something to a method."""
    return method in METHODS_OF.get(name, Method) and name in KNOWN.get(method, (name,))


TRAINER_OPTIONS = tuple(name for name in (*BOUNDS, *FLAGS, *CHOICES) if name != "preset")
"""What the trainer has defaults for."""

OPTIONS = ("base_model", "tuning", "preset", *TRAINER_OPTIONS)
"""What may be set by the form, by `manage.py train` and by run_start."""

NAMED = (
    "base_model", "tuning", "seed", "epochs", "learning_rate", "max_length", "holdout", "hardening", "patience",
    "reliability", "votes", "preset", "region", "haf_head", "crossfit", "samples", "sampling_temperature",
    "max_new_tokens", "stages", "kl", "group", "grpo_steps", "cost_limit", "token_limit",
)  # fmt: skip
"""Those with a form field and a command-line option of their own."""

FURTHER = tuple(name for name in OPTIONS if name not in NAMED)
"""The others: lines KEY = VALUE of the form, `--set KEY=VALUE` of the command."""

PROJECT_OPTIONS = ("reliability", "votes", "hardening", "patience", "preset")
"""What a project's settings offer. Each is for those of its methods that know it."""


class RunRefused(Exception):
    """A run that cannot start as asked. `field` names the form field it belongs to, if one does."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something: no empty fields."""
    return {
        name: value
        for name, value in options.items()
        if value not in (None, "") or (value is None and name in NULL_MEANS)
    }


def project_options(options: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A project's options for one of its methods."""
    return {
        name: value for name, value in options.items() if name not in PROJECT_OPTIONS or knows(method, name)
    }


def preset_of(method: str, config: Mapping[str, Any]) -> str:
    """Which of PRESETS a run's settings are; empty for settings of their own, and for the other methods."""
    if method != Method.RGFT:
        return ""
    chosen = PRESETS["product"] | {key: value for key, value in config.items() if value is not None}
    return next((name for name, settings in PRESETS.items() if settings.items() <= chosen.items()), "")


def preset_words(method: str, config: Mapping[str, Any]) -> str:
    """The preset of an RgFT run with what it sets, in words; empty for the other methods."""
    if method != Method.RGFT:
        return ""
    region, terms = (config.get(key) or default for key, default in PRESETS["product"].items())
    learned = {"all": "all level terms", "unpaired": "level terms of unpaired responses"}
    return f"{preset_of(method, config) or 'own settings'}: {region}, {learned.get(terms, 'no level terms')}"


def further_settings(lines: Iterable[str]) -> dict[str, Any]:
    """Lines KEY = VALUE, of which VALUE is JSON, as options. Raises RunRefused for the field “further”."""
    found: dict[str, Any] = {}
    for line in lines:
        if not line.strip():
            continue
        key, equals, text = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise RunRefused(
                f"“{line.strip()[:80]}” is no setting. Write KEY = VALUE: warmup = 0.05.", "further"
            )
        if key in NAMED:
            raise RunRefused(
                f"{key} has a field of its own (--{key.replace('_', '-')}). Set it there.", "further"
            )
        if key not in FURTHER:
            near = difflib.get_close_matches(key, FURTHER, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FURTHER)}."
            raise RunRefused(f"Unknown setting {key[:80]!r} (= {text[:80]}). {hint}", "further")
        if key in found:
            raise RunRefused(f"{key} is set twice. Keep one of the lines.", "further")
        try:
            value = json.loads(text, parse_constant=_no_json)
        except (ValueError, RecursionError):
            raise RunRefused(
                f"{key} is {text[:80] or 'empty'}, which is no JSON. {_wanted(key)}, or null.", "further"
            ) from None
        if value is not None:
            _check_value(key, value)
        found[key] = value
    return found


def _no_json(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity, which Python's reader takes


def _wanted(name: str) -> str:
    """What to write for a further setting."""
    if name in CHOICES:
        return "Write one of " + ", ".join(f'"{word}"' for word in CHOICES[name])
    if name in FLAGS:
        return "Write true or false"
    low, high = BOUNDS[name]
    return f"Write a {'whole ' if name in WHOLE else ''}number from {low:g} to {high:g}"


def check_options(method: str, given: Mapping[str, Any]) -> None:
    """Names, ranges, words, and whether the method knows the option. Raises RunRefused with the option's name."""
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise RunRefused(f"Unknown option {unknown[0]!r}. Known: {', '.join(OPTIONS)}.")
    for name, value in given.items():
        if value is not None:
            _check_value(name, value)
    if given.get("strength") == "thresholds" and (
        method not in (Method.BT, Method.HAF) or given.get("haf_head") == "ordinal"
    ):
        raise RunRefused(
            "strength = thresholds lie on the difference of two rewards (Bradley-Terry, or HaF-RM with a scalar head). "
            "Choose margin or none.",
            "strength",
        )
    if given.get("shard") and given.get("tuning") == Tuning.FROZEN:
        raise RunRefused(
            "shard divides weights that learn, but the base model is frozen. Leave shard out, or train all weights or "
            "LoRA adapters.",
            "further",
        )
    for name in given:
        if not knows(method, name):
            raise RunRefused(_not_known(method, name), name)


def _not_known(method: str, name: str) -> str:
    """Why an option is refused for a method that would do nothing with it."""
    label = Method(method).label
    if method in METHODS_OF.get(name, Method):
        return f"{name} means nothing to {label}. Leave it out."
    owners = " and ".join(str(owner.label) for owner in METHODS_OF[name])
    return f"{name} is an option of {owners} alone. Leave it at its default for {label}."


def _check_value(name: str, value: Any) -> None:
    if name in BOUNDS:
        low, high = BOUNDS[name]
        whole = name in WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise RunRefused(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.", name)
        if not low <= value <= high:
            raise RunRefused(f"{name} is {_shown(value)}; it must lie between {low:g} and {high:g}.", name)
    elif name in CHOICES and value not in CHOICES[name]:
        raise RunRefused(f"{name} is {value!r}; choose one of {', '.join(CHOICES[name])}.", name)
    elif name in FLAGS and not isinstance(value, bool):
        raise RunRefused(f"{name} must be true or false, not {value!r}.", name)


def _shown(number: float) -> str:
    """A number for a message; a whole one may be too large for a float."""
    try:
        return f"{number:g}"
    except OverflowError:
        return "too large"
