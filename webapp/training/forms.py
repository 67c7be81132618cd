"""The form that starts a training by hand. What is left empty is the project's, or the trainer's default."""

from typing import Any

from django import forms

from webapp.corpus.models import Method, Project, Tuning
from webapp.training.services import BOUNDS, CHOICES, OPTIONS, WHOLE


def _number(name: str, label: str, help_text: str = "") -> Any:
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
    "intersect": "intersect: in order, within both levels",
    "flood": "flood: in order, up to the levels' outer ends",
    "rectangle": "rectangle: within both levels",
    "none": "none: any order, as OPRM",
    "scalar": "one number, as Bradley-Terry",
    "ordinal": "ratings 1 to 9, as OPRM",
    "dpo": "DPO",
    "hinge": "hinge",
    "ipo": "IPO",
    "slic": "SLiC",
    "simpo": "SimPO (no reference model)",
}


def _choice(name: str, label: str, help_text: str) -> Any:
    choices = [
        ("", f"default ({_WORDS[CHOICES[name][0]]})"),
        *((word, _WORDS[word]) for word in CHOICES[name][1:]),
    ]
    return forms.ChoiceField(label=label, required=False, choices=choices, help_text=help_text)


class RunForm(forms.Form):
    """Few options in sight; the template puts those of MORE under “More options”."""

    MORE = OPTIONS

    method = forms.ChoiceField(choices=Method.choices)
    base_model = forms.CharField(
        required=False,
        max_length=300,
        label="Base model",
        help_text="Hub id or path; “starter” is a tiny causal model made from this project's texts.",
    )
    tuning = forms.ChoiceField(required=False, label="Tuning", choices=[("", "default"), *Tuning.choices])
    epochs = _number("epochs", "Epochs")
    seed = _number("seed", "Seed", "Another seed, another run.")
    learning_rate = _number("learning_rate", "Learning rate")
    max_length = _number("max_length", "Longest text, in tokens")
    holdout = _number("holdout", "Held-out share", "Of the groups, 0 to 0.9. Default 0.2.")
    hardening = _number(
        "hardening",
        "Hardening share",
        "Of the responses, 0 to 1, that get a copy with injected text. 0.2 is a good start.",
    )
    patience = _number(
        "patience",
        "Patience of early stopping",
        "Evaluations without progress before it stops and keeps the best step. 0: train to the end.",
    )
    reliability = forms.TypedChoiceField(
        required=False,
        label="Annotators' reliability",
        choices=[("", "default"), ("on", "weigh by an estimated error rate"), ("off", "all count alike")],
        coerce=lambda word: word == "on",
        empty_value=None,
        help_text="Whether judgements of people who seem to click without reading count less. Default: for rewards "
        "(BT, classifier, HaF), not for rating distributions, where the estimate misleads.",
    )
    region = _choice("region", "Region masks (RgFT)", "Which ratings a preference with levels allows.")
    haf_head = _choice("haf_head", "Reward head (HaF)", "With ratings it also predicts levels.")
    policy_loss = _choice(
        "policy_loss", "Policy loss (HaF)", "The second term, on the language model itself."
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["method"].initial = project.main_method
        self.fields["base_model"].widget.attrs["placeholder"] = (
            f"{project.base_model} (HaF: {project.causal_base_model})"
        )

    def more_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.MORE]

    @property
    def more_open(self) -> bool:
        """Whether something under “More options” was filled in or is wrong."""
        return self.is_bound and any(self.data.get(name) or self.errors.get(name) for name in self.MORE)

    def overrides(self) -> dict[str, Any]:
        """What was filled in, for run_start."""
        return {
            name: self.cleaned_data[name] for name in self.MORE if self.cleaned_data[name] not in (None, "")
        }
