"""The form that makes a token."""

from typing import Any

from django import forms

from webapp.accounts.models import ApiToken, User
from webapp.api.tokens import DAYS
from webapp.corpus.models import Project


class TokenForm(forms.Form):
    """What a new token is called, what it may do, and for how long."""

    name = forms.CharField(
        max_length=80, label="What it is for", help_text="So that you know later what may be revoked."
    )
    scopes = forms.MultipleChoiceField(
        choices=ApiToken.Scope.choices,
        initial=["read"],
        widget=forms.CheckboxSelectMultiple,
        label="What it may do",
        help_text="Never more than you may: a token acts for you, with your roles.",
    )
    project = forms.ModelChoiceField(
        Project.objects.none(),
        required=False,
        to_field_name="slug",
        empty_label="all of mine",
        label="In which project",
    )
    days = forms.TypedChoiceField(
        choices=[*((days, f"{days} days") for days in DAYS), ("", "no end: until you revoke it")],
        required=False,
        coerce=int,
        empty_value=None,
        initial=DAYS[1],
        label="For how long",
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["project"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = Project.objects.for_user(user)
