"""Addresses of django-allauth's views that are used here, and only those. Their names are allauth's."""

import logging
from typing import Any

from allauth.account import views as account_views
from django.conf import settings
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import include, path
from django.views.generic import RedirectView

logger = logging.getLogger(__name__)

urlpatterns: list[Any] = [
    path(
        "sign-in/",
        login_not_required(RedirectView.as_view(pattern_name="accounts:sign-in", query_string=True)),
        name="account_login",
    ),
    path("sign-out/", login_not_required(auth_views.LogoutView.as_view()), name="account_logout"),
    path("inactive/", account_views.account_inactive, name="account_inactive"),
    path("again/", account_views.reauthenticate, name="account_reauthenticate"),
]

if settings.OIDC_ISSUER:
    import requests
    from allauth.socialaccount import views as social_views
    from allauth.socialaccount.providers.openid_connect import views as oidc_views

    @login_not_required
    def oidc_start(request: HttpRequest, provider_id: str) -> HttpResponse:
        """A page that goes on to the provider by itself.

        A redirect would not do: browsers hold it to the policy of the form that led to it (form-action 'self'), and so
        every further redirect among the provider's hosts.
        """
        try:
            response = oidc_views.login(request, provider_id)
        except requests.RequestException:
            logger.exception("single sign-on: %s does not answer as it should", settings.OIDC_ISSUER)
            return render(request, "socialaccount/authentication_error.html", status=502)
        if isinstance(response, HttpResponseRedirect):
            return render(
                request, "accounts/sso_continue.html", {"url": response.url, "name": settings.OIDC_NAME}
            )
        return response

    only = {"provider_id": "oidc"}
    urlpatterns += [
        path("oidc/login/", oidc_start, only, name="openid_connect_login"),
        path("oidc/login/callback/", oidc_views.callback, only, name="openid_connect_callback"),
        path("connected/", social_views.connections, name="socialaccount_connections"),
        path("cancelled/", social_views.login_cancelled, name="socialaccount_login_cancelled"),
        path("error/", social_views.login_error, name="socialaccount_login_error"),
        path("new/", social_views.signup, name="socialaccount_signup"),
    ]

if settings.TOTP:
    urlpatterns += [path("codes/", include("allauth.mfa.urls"))]
