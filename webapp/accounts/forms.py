"""Forms of one's own account and of a forgotten password."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, PasswordResetForm
from django.core.cache import cache
from django.core.validators import MaxLengthValidator

from webapp.accounts.models import User
from webapp.http import HtmxHttpRequest

logger = logging.getLogger(__name__)

MAIL_AGAIN_SECONDS = 300

# Mail is sent beside the request: how long an answer takes must not tell whether an address is known.
mailing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mail")


def check_own_password(request: HtmxHttpRequest, password: str) -> None:
    """Ask for a signed-in person's password again, under the same limits as at the sign-in."""
    if authenticate(request, username=request.user.get_username(), password=password) != request.user:
        raise forms.ValidationError("That is not your password.", code="password_incorrect")


class SignInForm(AuthenticationForm):
    """Name and password. A name that is longer than any can't be counted as a failure of somebody, and is no name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["username"]
        field.validators.append(MaxLengthValidator(field.max_length))  # type: ignore[attr-defined]


class OwnPasswordForm(PasswordChangeForm):
    """A new password, against the old one."""

    def __init__(self, request: HtmxHttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request.user, *args, **kwargs)
        self.request = request
        # The page has other forms too.
        self.fields["old_password"].widget.attrs.pop("autofocus", None)

    def clean_old_password(self) -> str:
        check_own_password(self.request, self.cleaned_data["old_password"])
        return self.cleaned_data["old_password"]


class EmailForm(forms.ModelForm):
    """Where a link for a forgotten password is sent. The password is asked for: whoever sits at somebody's open page
    could else send that link to themselves."""

    password = forms.CharField(
        label="Your password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    class Meta:
        model = User
        fields = ["email"]
        labels = {"email": "E-mail address"}

    def __init__(self, request: HtmxHttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_password(self) -> str:
        check_own_password(self.request, self.cleaned_data["password"])
        return self.cleaned_data["password"]


class ForgottenForm(PasswordResetForm):
    """Send a link to an address that somebody's account has; at most one in MAIL_AGAIN_SECONDS."""

    def send_mail(self, *args: Any, **kwargs: Any) -> None:
        context: dict[str, Any] = args[2]
        if cache.add(f"reset-mail:{context['user'].pk}", True, MAIL_AGAIN_SECONDS):
            mailing.submit(super().send_mail, *args, **kwargs)
