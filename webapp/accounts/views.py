"""One's own account."""

from typing import cast

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from webapp.accounts.models import User


def account(request: HttpRequest) -> HttpResponse:
    """Name, kind and a form for a new password."""
    form = PasswordChangeForm(cast(User, request.user), request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        # Keeps this session signed in; all others end.
        update_session_auth_hash(request, form.user)
        messages.success(request, "Your password is changed. Other devices were signed out.")
        return redirect("accounts:account")
    return render(request, "accounts/account.html", {"form": form})
