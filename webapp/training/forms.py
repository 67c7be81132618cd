"""The form that starts a training by hand. What is left empty is the project's, or the trainer's default."""

from typing import Any

from django import forms

from webapp.corpus.models import Method, Project, Tuning
from webapp.training.services import BOUNDS


def _number(name: str, label: str, help_text: str = "", *, whole: bool = True) -> Any:
    low, high = BOUNDS[name]
    if whole:
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


class RunForm(forms.Form):
    """Few options in sight; the template puts those of MORE under “More options”."""

    MORE = ("base_model", "tuning", "epochs", "seed", "learning_rate", "max_length", "holdout")

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
    learning_rate = _number("learning_rate", "Learning rate", whole=False)
    max_length = _number("max_length", "Longest text, in tokens")
    holdout = _number("holdout", "Held-out share", "Of the groups, 0 to 0.9. Default 0.2.", whole=False)

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
