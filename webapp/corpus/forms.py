"""Forms of the project's own pages: settings, people, invitations."""

from typing import Any

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.db.models import QuerySet

from webapp.accounts.models import User
from webapp.corpus.base_models import (
    FOLDER,
    base_model_choices,
    base_model_folder,
    base_model_named,
    base_model_public,
    folder_model,
    version_named,
)
from webapp.corpus.models import Membership, Project
from webapp.corpus.option_fields import BaseModelInput, TrainingOptionsForm
from webapp.corpus.options import ENDPOINT, LEARNING, PROJECT_OPTIONS, Method, RunRefused, given_options
from webapp.corpus.reason_tags import MAX_REASON_TAGS, MAX_TAG_CHARACTERS, TagRefused, check_tags


class TagsField(forms.CharField):
    """Reasons, one a line."""

    widget = forms.Textarea(attrs={"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        # Only line feeds end a line: a stray separator of another kind is refused by name, not cut at.
        lines = str(value or "").replace("\r\n", "\n").split("\n")
        try:
            return check_tags(line for line in lines if line.strip())
        except TagRefused as refusal:
            raise forms.ValidationError(str(refusal)) from None


class ProjectForm(TrainingOptionsForm, forms.ModelForm):
    """Everything an admin sets in a project. Hours and counts of 0 switch a trigger off."""

    methods = forms.MultipleChoiceField(
        choices=[(method.value, method.label) for method in LEARNING],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="Methods that automatic retrains train",
    )
    main_method = forms.ChoiceField(
        choices=Method.choices,
        label="Main method",
        help_text="Whose predictions lists and the overview show first. RgFT learns from levels, so that its ratings "
        "are bad, normal or good; where people give no levels choose OPRM, whose ratings are relative. "
        "A judge is started by hand alone.",
    )
    reason_tags = TagsField(
        required=False,
        label="Reasons to tick",
        help_text=f"One a line, at most {MAX_REASON_TAGS} of {MAX_TAG_CHARACTERS} characters: “false”, “too long”. "
        "Each card of a pair offers them for A and for B. What was ticked stays when a reason is taken away here.",
    )

    class Meta:
        model = Project
        fields = [
            "name", "description", "guidelines",
            "asks", "overlap", "reservation_minutes", "reason_tags", "load_images", "bad_to", "normal_to",
            "pairing", "pairing_limit",
            "base_model", "causal_base_model", "tuning",
            "machine_labels", "retrain_after_labels", "retrain_every_hours", "min_judgements", "gate_max_drop",
        ]  # fmt: skip
        labels = {
            "asks": "What annotators are asked",
            "overlap": "Judgements wanted per item",
            "reservation_minutes": "Minutes a card stays reserved",
            "load_images": "Load images",
            "machine_labels": "Learn from machine annotators too",
            "pairing": "Which responses are paired",
            "pairing_limit": "At most",
            "bad_to": "“bad” ends at rating",
            "normal_to": "“normal” ends at rating",
            "base_model": "Base model",
            "causal_base_model": "Causal base model (HaF-RM, generative, judge)",
            "tuning": "What is trained",
            "retrain_after_labels": "Retrain after so many new labels",
            "retrain_every_hours": "Retrain every so many hours",
            "min_judgements": "Fewest labels to train on",
            "gate_max_drop": "Largest drop of held-out accuracy the gate lets through",
        }
        help_texts = {
            "base_model": "A text encoder or a causal language model: one of those offered, or a hub id (org/name or "
            "org/name@revision).",
            "causal_base_model": "A causal language model; “starter” is a tiny one made from this project's texts. "
            "A generative model or a judge needs an instruct model, which knows how to answer.",
        }
        widgets = {
            "guidelines": forms.Textarea(attrs={"rows": 10}),
            "base_model": BaseModelInput(),
            "causal_base_model": BaseModelInput(),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.update(self.instance.training_options)
        for name in ("base_model", "causal_base_model"):
            self.fields[name].widget.offer(base_model_choices(judges=name == "causal_base_model"), name)
            if base_model_public(self.initial[name]) != self.initial[name]:
                # A path, as older versions took it.
                self.initial[name] = ""
                self.fields[
                    name
                ].help_text = f"The folder set here may not be used any more. {self.fields[name].help_text}"
        self.fields["methods"].initial = self.instance.methods
        self.fields["main_method"].initial = self.instance.main_method

    def clean_base_model(self) -> str:
        return self._base_model("base_model")

    def clean_causal_base_model(self) -> str:
        return self._base_model("causal_base_model")

    def _base_model(self, field: str) -> str:
        try:
            name = base_model_named(self.cleaned_data[field])
        except RunRefused as refusal:
            raise forms.ValidationError(str(refusal)) from None
        if field == "causal_base_model" and name.startswith(FOLDER):
            folder = base_model_folder(name)
            if folder is not None and folder_model(folder).backbone == "encoder":
                raise forms.ValidationError(f"{name} is a text encoder: choose a causal language model.")
        if field == "base_model" and name.startswith(ENDPOINT):
            raise forms.ValidationError(
                f"{name} can be asked but not trained: name it as the causal base model, which judges ask."
            )
        if version_named(name):
            # Retrains would pile up on each other, and which labels were held out would depend on all before.
            raise forms.ValidationError(
                "A version is a start for a single run: choose it on the Training page, and a base model here."
            )
        return name

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        chosen, main = data.get("methods", []), data.get("main_method")
        if main:
            # The first of the list is the main one; choosing it as main implies training it.
            self.instance.methods = [main, *[name for name in chosen if name != main]]
        options = {name: data.get(name) for name in PROJECT_OPTIONS}
        self.instance.training_options = given_options({**self.instance.training_options, **options})
        return data


class AddressForm(forms.ModelForm):
    """Name and address of a new project; address.js fills the address from the name as it is typed."""

    class Meta:
        model = Project
        fields = ["name", "slug"]
        labels = {"slug": "Address"}
        help_texts = {
            "slug": "Small letters, digits and hyphens. The project's pages are at /p/ADDRESS/ for good."
        }
        error_messages = {"slug": {"unique": "Another project has this address. Choose another one."}}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["slug"].error_messages["invalid"] = (
            "An address has only letters, digits, hyphens and underscores: no spaces, dots or accents."
        )
        self.fields["slug"].widget.attrs.update({"data-address-of": "id_name", "autocapitalize": "none"})


class ProjectNewForm(AddressForm):
    """The few things a new project needs; everything else has a default on its settings page."""

    class Meta(AddressForm.Meta):
        fields = ["name", "slug", "asks", "overlap"]
        labels = {
            **AddressForm.Meta.labels,
            "asks": "What annotators are asked",
            "overlap": "Judgements wanted per item",
        }


class ProjectCopyForm(AddressForm):
    """What a copy of a project does not take over."""

    people = forms.BooleanField(
        required=False,
        label="With the same people and roles",
        help_text="Names that came with imported or simulated labels stay behind.",
    )


class RoleForm(forms.Form):
    """Give somebody known one more role."""

    username = forms.CharField(max_length=150, label="Name they sign in with")
    role = forms.ChoiceField(choices=Membership.Role.choices)

    def __init__(self, *args: Any, known: QuerySet[User], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known = known
        self.user: User | None = None

    def clean_username(self) -> str:
        name = self.cleaned_data["username"].strip()
        self.user = self.known.filter(username=name).first()
        if self.user is None:
            # One answer whether there is such an account or not.
            raise forms.ValidationError(
                f"“{name}” is nobody whom you can give a role by name: that works for people of the projects that "
                "you are admin of. For anybody else make an invitation link; people with an account can use it too."
            )
        return name


class InvitationForm(forms.Form):
    """Links for new people: one for each line of notes, one without any."""

    MOST = 100

    role = forms.ChoiceField(choices=Membership.Role.choices)
    note = forms.CharField(
        required=False,
        label="For whom (your notes)",
        help_text="One line a person makes one link a person, all in the same role. Only admins see the notes.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def clean_note(self) -> list[str]:
        notes = [line.strip() for line in self.cleaned_data["note"].splitlines() if line.strip()]
        if len(notes) > self.MOST:
            raise forms.ValidationError(f"At most {self.MOST} links at a time: these are {len(notes)} lines.")
        for number, note in enumerate(notes, start=1):
            if len(note) > 120:
                raise forms.ValidationError(f"Line {number} has {len(note)} characters: shorten it to 120.")
        return notes or [""]


class JoinForm(UserCreationForm):
    """The account somebody makes from an invitation link."""

    class Meta:
        model = User
        fields = ["username", "first_name", "last_name"]
        labels = {"username": "Name to sign in with"}
