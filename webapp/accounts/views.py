"""Signing in, and one's own account."""

from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm, SetPasswordForm
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.views.decorators.http import require_POST

from webapp.accounts import services
from webapp.accounts.forms import EmailForm, ForgottenForm, OwnPasswordForm, SignInForm
from webapp.accounts.models import User
from webapp.accounts.throttling import failures_forget
from webapp.http import HtmxHttpRequest


class SignInView(auth_views.LoginView):
    """Name and password; with a second factor, its code is asked for next."""

    authentication_form = SignInForm
    template_name = "accounts/sign_in.html"
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        if not settings.TOTP:
            return super().form_valid(form)
        from webapp.accounts import sso

        return sso.password_accepted(self.request, form.get_user(), self.get_success_url())

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        more = {"mail": settings.MAIL_IS_ON, "oidc_name": settings.OIDC_NAME if settings.OIDC_ISSUER else ""}
        return super().get_context_data(**kwargs) | more


class ForgottenView(auth_views.PasswordResetView):
    """Ask for a link by mail. The answer is the same whether or not an account has the address."""

    form_class = ForgottenForm
    template_name = "accounts/forgotten.html"
    email_template_name = "accounts/forgotten_mail.txt"
    subject_template_name = "accounts/forgotten_subject.txt"
    success_url = reverse_lazy("accounts:forgotten-sent")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not settings.MAIL_IS_ON:
            raise Http404("Mail is not configured.")
        return super().dispatch(request, *args, **kwargs)


class ResetView(auth_views.PasswordResetConfirmView):
    """Set a new password by a link that came by mail or from the operator; then sign in with it."""

    template_name = "accounts/reset.html"
    success_url = reverse_lazy("accounts:sign-in")

    def form_valid(self, form: "SetPasswordForm[User]") -> HttpResponse:
        response = super().form_valid(form)
        user = cast(User, self.user)
        services.sessions_end(user=user)
        failures_forget(username=user.username)
        messages.success(self.request, "Your new password is set. Sign in with it.")
        return response


def _account_page(request: HtmxHttpRequest, **forms: BaseForm) -> HttpResponse:
    user = request.user
    context = {
        "form": OwnPasswordForm(request) if user.has_usable_password() else None,
        "email_form": EmailForm(request, instance=user) if settings.MAIL_IS_ON else None,
        "sessions": user.sessions.all(),
        "here": request.session.session_key,
        "tokens": user.api_tokens.live().count(),
        "totp": settings.TOTP and user.has_usable_password(),
        "oidc_name": settings.OIDC_NAME if settings.OIDC_ISSUER else "",
        "connected": services.is_connected(user),
        **forms,
    }
    return render(request, "accounts/account.html", context, status=422 if forms else 200)


def account(request: HtmxHttpRequest) -> HttpResponse:
    """Name, a form for a new password, and where one is signed in."""
    if request.method != "POST":
        return _account_page(request)
    form = OwnPasswordForm(request, request.POST)
    if not form.is_valid():
        return _account_page(request, form=form)
    form.save()
    # Keeps this session signed in, under a new key; all others end.
    update_session_auth_hash(request, form.user)
    services.sessions_end(user=request.user, keep=request.session.session_key)
    messages.success(request, "Your password is changed. Other devices were signed out.")
    return redirect("accounts:account")


@require_POST
def email_change(request: HtmxHttpRequest) -> HttpResponse:
    if not settings.MAIL_IS_ON:
        raise Http404("Mail is not configured.")
    # Another object than the request's user: a refused address must not be shown as theirs.
    form = EmailForm(request, request.POST, instance=User.objects.get(pk=request.user.pk))
    if not form.is_valid():
        return _account_page(request, email_form=form)
    form.save()
    messages.success(request, "Your e-mail address is changed.")
    return redirect("accounts:account")


@require_POST
def session_end(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    """End one of one's own sessions; ending this one is a sign-out."""
    ended = services.sessions_end(user=request.user, only=pk)
    messages.success(request, "That device is signed out." if ended else "That session had ended already.")
    return redirect("accounts:account")


@require_POST
def sessions_end_others(request: HtmxHttpRequest) -> HttpResponse:
    ended = services.sessions_end(user=request.user, keep=request.session.session_key)
    messages.success(request, f"Other devices were signed out: {ended}.")
    return redirect("accounts:account")
