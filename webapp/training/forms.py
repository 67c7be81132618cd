"""The form that starts a training by hand. It begins with the project's options."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms

from webapp.corpus.base_models import base_model_choices, base_model_named, base_model_public
from webapp.corpus.endpoints import endpoints
from webapp.corpus.models import Project
from webapp.corpus.option_fields import BaseModelInput, TrainingOptionsForm, choice_field, number_field
from webapp.corpus.options import (
    FOLDS,
    FURTHER,
    LEARNING,
    NAMED,
    PROJECT_OPTIONS,
    Method,
    RunRefused,
    Tuning,
    further_settings,
    knows,
    preset_of,
)
from webapp.training.estimates import judge_estimate
from webapp.training.models import ModelVersion, TrainingRun, public_config
from webapp.training.services import LIMITS
from webapp.words import duration

MOST_VERSIONS = 50
CROSSFIT_HELP = (
    f"Frozen heads have them always. For a tuned base model {FOLDS} more are trained, each without a fifth of the "
    "groups, and predict what they have not seen: a training takes up to five times as long."
)


class RunForm(TrainingOptionsForm):
    """Few options in sight; the template puts those of MORE under “More options”."""

    MORE = NAMED

    method = forms.ChoiceField(choices=Method.choices)
    base_model = forms.CharField(
        required=False,
        max_length=300,
        label="Base model",
        widget=BaseModelInput,
        help_text="One of those offered, or a hub id (org/name or org/name@revision): an encoder, a causal language "
        "model, a reward model or LoRA adapters. “starter” is a tiny causal model made from this project's texts; a "
        "version's name goes on from its weights and holds out the same groups.",
    )
    tuning = forms.ChoiceField(required=False, label="Tuning", choices=[("", "default"), *Tuning.choices])
    epochs = number_field("epochs", "Epochs")
    seed = number_field("seed", "Seed", "Another seed, another run.")
    learning_rate = number_field("learning_rate", "Learning rate")
    max_length = number_field("max_length", "Longest text, in tokens")
    holdout = number_field("holdout", "Held-out share", "Of the groups, 0 to 0.9. Default 0.2.")
    region = choice_field(
        "region",
        "Region masks (RgFT)",
        "Which ratings a preference with levels allows; it goes before the preset.",
    )
    haf_head = choice_field("haf_head", "Reward head (HaF)", "With ratings it also predicts levels.")
    crossfit = forms.BooleanField(
        required=False,
        label="Held-out predictions of every judged response",
        help_text=CROSSFIT_HELP,
    )
    samples = number_field(
        "samples", "Votes a response", "Judgements written for each response, in drawn orders. Default 8."
    )
    sampling_temperature = number_field(
        "sampling_temperature", "Temperature of the votes", "0 writes the likeliest judgement. Default 0.5."
    )
    max_new_tokens = number_field(
        "max_new_tokens", "Longest judgement, in tokens", "One that is cut can't be read. Default 1024."
    )
    stages = choice_field("stages", "Stages", "What is learnt, in running order, before it votes.")
    kl = number_field("kl", "Weight of the KL term", "Holds GRPO near the model it began with. Default 0.01.")
    group = number_field("group", "Judgements a prompt", "That GRPO compares with each other. Default 4.")
    grpo_steps = number_field("grpo_steps", "Steps of GRPO", "Default: once over the prompts, 900 at most.")
    cost_limit = number_field(
        "cost_limit",
        "Cost limit",
        "In the currency of the endpoint's prices. At the limit it stops; nothing is lost.",
    )
    token_limit = number_field("token_limit", "Token limit", "Of an endpoint: prompts and answers together.")
    further = forms.CharField(
        required=False,
        max_length=4000,
        label="Further settings",
        widget=forms.Textarea({"rows": 3, "spellcheck": "false", "placeholder": "warmup = 0.05"}),
        help_text=f"One KEY = VALUE a line, VALUE as JSON. Keys: {', '.join(FURTHER)}.",
    )

    def __init__(
        self, *args: Any, project: Project, earlier: TrainingRun | None = None, **kwargs: Any
    ) -> None:
        """`earlier`: a run to start again; the form begins with its settings in place of the project's."""
        super().__init__(*args, **kwargs)
        self.earlier = earlier
        self.project_options = project.training_options
        self.fields["method"].initial = project.main_method
        if earlier is None:
            self.initial.update(project.training_options)
        else:
            # A path, which older versions took, is neither told nor allowed.
            public = public_config(earlier.config)
            config = {name: value for name, value in public.items() if earlier.config.get(name) == value}
            self.initial = {name: config.get(name, "") for name in self.MORE} | {
                "method": earlier.method,
                "crossfit": bool(config.get("crossfit")),
            }
            if (preset := preset_of(earlier.method, config)) == "paper":
                self.initial |= {"preset": preset, "region": ""}
        for name in LIMITS:
            self.fields[name].widget.attrs["placeholder"] = "none"
        for name in self.MORE:
            # pages.js hides what the chosen method doesn't know
            # of a judge's tuning there is one
            methods = [
                method.value
                for method in Method
                if knows(method, name) and (method, name) != (Method.JUDGE, "tuning")
            ]
            if len(methods) < len(Method):
                self.fields[name].widget.attrs["data-methods"] = " ".join(methods)
        field = self.fields["base_model"].widget
        causal = base_model_public(project.causal_base_model)
        field.attrs["placeholder"] = f"{base_model_public(project.base_model)} (HaF, GRM, judge: {causal})"

    def tell_costs(self, costs: Sequence[tuple[str, timedelta]]) -> None:
        """What cross-fitting would take on the labels of now, for each kind of training that is known."""
        if costs:
            known = "; ".join(f"{name} {duration(takes)}" for name, takes in costs)
            self.fields["crossfit"].help_text = f"{CROSSFIT_HELP} Here about: {known}."

    def tell_endpoints(self, project: Project) -> None:
        """About what a judge over each endpoint would ask and cost, with the numbers in the form."""
        typed = {name: self[name].value() for name in ("samples", "max_new_tokens")}
        # not validated yet: Python refuses to read a number of thousands of digits
        config = {
            name: int(text)
            for name, value in typed.items()
            if (text := str(value)).isdecimal() and len(text) < 6
        }
        told = [f"{each.name} {judge_estimate(project, each, config)}" for each in endpoints()]
        if told:
            # the form's own fields have handed their texts on where errors were looked for
            self["base_model"].help_text += " A judge may ask an endpoint instead."
            self["cost_limit"].help_text += f" Here a judge takes about: {'; '.join(told)}."

    def offer(self, versions: Sequence[ModelVersion]) -> None:
        """The base models that the page shows, the newest of the project's versions among them."""
        names = [
            version.start_name
            for version in versions[:MOST_VERSIONS]
            if version.is_there and version.held_out_groups and version.method in LEARNING
        ]
        self.fields["base_model"].widget.offer([*base_model_choices(), *names], "base_model")

    def clean_base_model(self) -> str:
        name: str = self.cleaned_data["base_model"]
        try:
            return base_model_named(name) if name else ""
        except RunRefused as refusal:
            raise forms.ValidationError(str(refusal)) from None

    def clean_crossfit(self) -> int | None:
        return FOLDS if self.cleaned_data["crossfit"] else None

    def clean_further(self) -> dict[str, Any]:
        try:
            return further_settings(self.cleaned_data["further"].splitlines())
        except RunRefused as refusal:
            raise forms.ValidationError(str(refusal)) from None

    def refuse(self, refusal: RunRefused) -> None:
        """Show why the run can't start beside the field that it is about."""
        field = "further" if refusal.field in FURTHER else refusal.field
        self.add_error(field if field in self.fields else None, str(refusal))

    def more_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.MORE]

    @property
    def more_open(self) -> bool:
        """Whether something under “More options” was filled in or is wrong, or a run is started again."""
        if self.earlier is not None:
            return True
        return self.is_bound and any(
            self.data.get(name) or self.errors.get(name) for name in (*self.MORE, "further")
        )

    def overrides(self) -> dict[str, Any]:
        """What was sent, for run_start: a field that was emptied asks for the trainer's default, not the project's.

        The project's own stand in the form whatever the method; to one that doesn't know them they mean nothing.
        """
        method = self.cleaned_data["method"]
        named = {
            name: self.cleaned_data[name]
            for name in self.MORE
            if name in self.data and (knows(method, name) or not self._is_projects(name))
        }
        return named | self.cleaned_data["further"]

    def _is_projects(self, name: str) -> bool:
        return name in PROJECT_OPTIONS and self.cleaned_data[name] == self.project_options.get(name)


class LimitsForm(forms.Form):
    """The budget with which a judge over an endpoint goes on; an empty field is no limit."""

    cost_limit = number_field("cost_limit", "Cost limit")
    token_limit = number_field("token_limit", "Token limit")

    def __init__(self, data: Any = None, *, run: TrainingRun) -> None:
        super().__init__(data, initial={name: run.config.get(name) for name in LIMITS})
        for field in self.fields.values():
            field.widget.attrs["placeholder"] = "none"
