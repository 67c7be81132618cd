"""How django-allauth is to behave here, where single sign-on (oidc.py) or the second factor (codes.py) is on."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from webapp.accounts.addresses import counted_address
from webapp.accounts.models import User


def password_accepted(request: HttpRequest, user: Any, redirect_url: str) -> HttpResponse:
    """The password was right: ask for the code where somebody has a second factor, else sign them in."""
    login = Login(user=user, redirect_url=redirect_url, email_verification="none")
    return perform_password_login(request, {"username": user.get_username()}, login)


class AccountAdapter(DefaultAccountAdapter):
    """Accounts come from invitations and from the provider, never from allauth's own sign-up."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        return counted_address(request) or "0.0.0.0"  # noqa: S104 - a name for "unknown", nothing is bound to it

    def add_message(
        self, request: HttpRequest, level: int, template: Any = None, *more: Any, **kwargs: Any
    ) -> None:
        # Signing in and out says enough by itself.
        template = kwargs.pop("message_template", template)
        if template not in ("account/messages/logged_in.txt", "account/messages/logged_out.txt"):
            super().add_message(request, level, template, *more, **kwargs)

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        methods = super().get_reauthentication_methods(user)
        if not methods:
            raise PermissionDenied(
                "You have no password here, so your second factor is your provider's to ask for."
            )
        return methods

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        return redirect("account_inactive")
