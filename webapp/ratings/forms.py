"""The form of the page “Try it”: a prompt, one to eight responses, and the version that reads them."""

from collections.abc import Sequence
from typing import Any

from django import forms

from webapp.corpus.conversations import Message
from webapp.importing.fields import RowError
from webapp.importing.jsontext import decode
from webapp.importing.shapes.messages import messages_of
from webapp.training.models import ModelVersion

RESPONSES = 8
SHOWN = 2
"""Boxes that are in sight from the start."""
TEXT_LENGTH = 100_000


class PastedText(forms.CharField):
    """A text as it was pasted: nothing is stripped, and line ends are \\n, whatever the form made of them."""

    def __init__(self, label: str, rows: int) -> None:
        super().__init__(
            label=label,
            strip=False,
            required=False,
            max_length=TEXT_LENGTH,
            widget=forms.Textarea({"rows": rows}),
        )

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")


class TrialForm(forms.Form):
    """`messages` and `responses` (by the number of their box) of what was pasted."""

    version = forms.ChoiceField(label="Model")
    prompt = PastedText("Prompt", 4)
    as_messages = forms.BooleanField(
        label="The prompt is JSON: a list of {role, content} messages", required=False
    )

    def __init__(self, versions: Sequence[ModelVersion], *args: Any, **options: Any) -> None:
        """`versions`: those that can be chosen, what the form begins with first."""
        super().__init__(*args, **options)
        self.versions = {version.address: version for version in versions}
        field = self.fields["version"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [
            (name, f"{version.short_method} v{version.number}{', serves' if version.is_serving else ''}")
            for name, version in self.versions.items()
        ]
        for number in range(1, RESPONSES + 1):
            self.fields[f"response_{number}"] = PastedText(f"Response {number}", 4)

    @property
    def boxes(self) -> list[forms.BoundField]:
        return [self[f"response_{number}"] for number in range(1, RESPONSES + 1)]

    @property
    def first_boxes(self) -> list[forms.BoundField]:
        return self.boxes[:SHOWN]

    @property
    def more_boxes(self) -> list[forms.BoundField]:
        return self.boxes[SHOWN:]

    @property
    def more_filled(self) -> bool:
        """Whether a box that begins folded has a text."""
        return any(box.value() for box in self.more_boxes)

    @property
    def problems(self) -> list[str]:
        """Every error in words, with the name of its field."""
        found = []
        for name, errors in self.errors.items():
            label = f"{self.fields[name].label}: " if name in self.fields else ""
            found += [f"{label}{error}" for error in errors]
        return found

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        responses = {number: data.get(f"response_{number}") for number in range(1, RESPONSES + 1)}
        self.responses = {number: text for number, text in responses.items() if text}
        if not self.responses and not self.errors:
            self.add_error(None, "Paste at least one response.")
        self.messages: list[Message] = []
        prompt = data.get("prompt") or ""
        if data.get("as_messages"):
            try:
                self.messages = messages_of("prompt", decode(prompt))
            except RowError as error:
                self.add_error("prompt", f"{error.field} {error.message} {error.remedy}")
            except (ValueError, RecursionError):
                self.add_error("prompt", "This is not JSON. Write a list of {role, content} messages.")
        elif prompt:
            self.messages = [{"role": "user", "content": prompt}]
        return data

    @property
    def chosen(self) -> ModelVersion:
        return self.versions[self.cleaned_data["version"]]
