"""Form fields of training options, made from their bounds; an empty one is the trainer's default."""

from typing import Any

from django import forms

from webapp.corpus.options import BOUNDS, CHOICES, WHOLE


class BaseModelInput(forms.TextInput):
    """A text with names to take from, which templates/corpus/field.html writes beside it: hub ids can't be listed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offered: list[str] = []

    def offer(self, names: list[str], field: str) -> None:
        self.offered = names
        self.attrs["list"] = f"id_{field}_offered"


def number_field(name: str, label: str, help_text: str = "") -> Any:
    low, high = BOUNDS[name]
    if name in WHOLE:
        field: forms.Field = forms.IntegerField(
            label=label, required=False, min_value=int(low), max_value=int(high), help_text=help_text
        )
    else:
        field = forms.FloatField(
            label=label, required=False, min_value=low, max_value=high, help_text=help_text
        )
        field.widget.attrs["step"] = "any"
    field.widget.attrs["placeholder"] = "default"
    return field


_WORDS = {
    "each": "every judgement teaches",
    "majority": "one verdict a pair, the majority's",
    "intersect": "intersect: in order, within both levels",
    "flood": "flood: in order, up to the levels' outer ends",
    "rectangle": "rectangle: within both levels",
    "none": "none: any order, as OPRM",
    "scalar": "one number, as Bradley-Terry",
    "ordinal": "ratings 1 to 9, as OPRM",
    "product": "product: intersect, with level terms",
    "paper": "paper: flood, without level terms",
    "rft": "fine-tuning on its own right answers (RFT)",
    "grpo": "reinforcement (GRPO)",
    "meta": "a meta model that picks votes",
    "rft,grpo": "RFT, then GRPO",
    "rft,meta": "RFT and a meta model that picks votes",
    "grpo,meta": "GRPO and a meta model that picks votes",
    "rft,grpo,meta": "RFT, GRPO and a meta model that picks votes",
}


def choice_field(name: str, label: str, help_text: str) -> Any:
    choices = [
        ("", f"default ({_WORDS[CHOICES[name][0]]})"),
        *((word, _WORDS[word]) for word in CHOICES[name][1:]),
    ]
    return forms.ChoiceField(label=label, required=False, choices=choices, help_text=help_text)


class SwitchField(forms.TypedChoiceField):
    """On, off, or neither: True, False, None."""

    def __init__(self, *, on: str, off: str, **kwargs: Any) -> None:
        choices = [("", "default"), ("on", on), ("off", off)]
        super().__init__(choices=choices, coerce=lambda word: word == "on", empty_value=None, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value)


class TrainingOptionsForm(forms.Form):
    """PROJECT_OPTIONS: what a project keeps for its retrains, and a run started by hand may change."""

    reliability = SwitchField(
        required=False,
        label="Annotators' reliability",
        on="weigh by an estimated error rate",
        off="all count alike",
        help_text="Whether people who seem to click without reading count less; by default they do, once two people "
        "have labelled.",
    )
    votes = choice_field(
        "votes",
        "Votes of a pair",
        "With the majority alone, disagreement teaches nothing and nobody's reliability is estimated.",
    )
    hardening = number_field(
        "hardening",
        "Hardening share",
        "Of the responses, 0 to 1, that get a copy with injected text; 0.3 is a good start.",
    )
    patience = number_field(
        "patience",
        "Patience of early stopping",
        "Evaluations without progress before training stops and keeps the best step; 0 trains to the end.",
    )
    preset = choice_field(
        "preset",
        "Preset (RgFT)",
        "Sets region masks and level terms in one choice: the product's, or those of RgFT's paper.",
    )
