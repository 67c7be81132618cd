"""What a training can be told: its method, and its options with their bounds."""

import math
from collections.abc import Mapping
from typing import Any

from django.db import models


class Method(models.TextChoices):
    """The objectives a reward model is trained with (METHODS.md section 2)."""

    BT = "bt", "Bradley-Terry"
    CLF = "clf", "Classifier (CLF)"
    OPRM = "oprm", "Ordinal (OPRM)"
    RGFT = "rgft", "Region-guided ordinal (RgFT)"
    HAF = "haf", "Hybrid (HaF-RM)"


class Tuning(models.TextChoices):
    FROZEN = "frozen", "frozen base model, new head"
    TUNED = "tuned", "all weights"
    LORA = "lora", "LoRA adapters"


BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "epochs": (1, 1000),
    "learning_rate": (0.0, 1.0),
    "max_length": (32, 32_768),
    "holdout": (0.0, 0.9),
    "hardening": (0.0, 1.0),
    "patience": (0, 1000),
}
"""The numbers that a person may set, with their bounds; the others keep the trainer's defaults."""

WHOLE = ("seed", "epochs", "max_length", "patience")

CHOICES: dict[str, tuple[str, ...]] = {
    "votes": ("each", "majority"),
    "region": ("intersect", "flood", "rectangle", "none"),
    "haf_head": ("scalar", "ordinal"),
}
"""The words that a person may choose, the trainer's default first."""

FLAGS = ("reliability",)

METHOD_OF = {"region": Method.RGFT, "haf_head": Method.HAF}
"""Options that only one method knows."""

TRAINER_OPTIONS = (*BOUNDS, *FLAGS, *CHOICES)
"""What the trainer has defaults for."""

OPTIONS = ("base_model", "tuning", *TRAINER_OPTIONS)
"""What may be set by the form, by `manage.py train` and by run_start."""

PROJECT_OPTIONS = ("reliability", "votes", "hardening", "patience")
"""What a project's settings offer of TRAINER_OPTIONS: every method knows these."""


class RunRefused(Exception):
    """A run that cannot start as asked. `field` names the form field it belongs to, if one does."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something: no empty fields."""
    return {name: value for name, value in options.items() if value not in (None, "")}


def check_options(method: str, given: Mapping[str, Any]) -> None:
    """Names, ranges, words, and whether the method knows the option. Raises RunRefused with the option's name."""
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise RunRefused(f"Unknown option {unknown[0]!r}. Known: {', '.join(OPTIONS)}.")
    for name, (low, high) in BOUNDS.items():
        value = given.get(name)
        if value is None:
            continue
        whole = name in WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise RunRefused(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.", name)
        if not (math.isfinite(value) and low <= value <= high):
            raise RunRefused(f"{name} is {value:g}; it must lie between {low:g} and {high:g}.", name)
    for name, words in CHOICES.items():
        if (value := given.get(name)) is not None and value not in words:
            raise RunRefused(f"{name} is {value!r}; choose one of {', '.join(words)}.", name)
    for name in FLAGS:
        if (value := given.get(name)) is not None and not isinstance(value, bool):
            raise RunRefused(f"{name} must be true or false, not {value!r}.", name)
    for name, owner in METHOD_OF.items():
        if name in given and method != owner:
            raise RunRefused(
                f"{name} is an option of {owner.label} alone. Leave it at its default for {Method(method).label}.",
                name,
            )
