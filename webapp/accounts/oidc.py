"""Single sign-on by OpenID Connect, where it is on.

Who comes from the provider is known by the provider's own subject, never by an e-mail address: addresses here are not
proven, so whoever wrote somebody else's into their account would be handed that person's sign-in. Somebody with an
account connects the two on the account page.
"""

from typing import Any

from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.http import HttpRequest
from django.urls import reverse


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    """Everybody whom the provider lets in gets an account; it has no project until an invitation is used."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True

    def get_connect_redirect_url(self, request: HttpRequest, socialaccount: Any) -> str:
        return reverse("accounts:account")
