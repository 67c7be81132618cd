"""The page of one's tokens, and the page that describes the API."""

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts.models import ApiToken
from webapp.accounts.services import Refused
from webapp.api.api import api
from webapp.api.forms import TokenForm
from webapp.api.reading import sections, types
from webapp.api.tokens import token_make, token_revoke
from webapp.http import HtmxHttpRequest

SHOWN_OLD = 20
"""Tokens that count no more are told for a while: who looks for one finds that it was revoked."""


def tokens(request: HtmxHttpRequest) -> HttpResponse:
    """One's tokens; make one. The secret of a new one is on this answer and nowhere else."""
    form = TokenForm(request.user, request.POST if request.method == "POST" else None)
    made = None
    if request.method == "POST" and form.is_valid():
        try:
            made = token_make(user=request.user, actor=request.user, **form.cleaned_data)
        except Refused as refusal:
            form.add_error(None, str(refusal))
        else:
            form = TokenForm(request.user)
    mine = list(request.user.api_tokens.all())
    context = {
        "form": form,
        "made": made,
        "live": [each for each in mine if each.state == "in use"],
        "gone": [each for each in mine if each.state != "in use"][:SHOWN_OLD],
    }
    return render(request, "api/tokens.html", context, status=422 if form.errors else 200)


@require_POST
def token_end(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    """Revoke one of one's own tokens; superusers revoke anybody's."""
    found = ApiToken.objects.select_related("user")
    token = get_object_or_404(found if request.user.is_superuser else found.filter(user=request.user), pk=pk)
    if token_revoke(token=token, actor=request.user):
        messages.success(request, f"The token “{token.name}” counts no more.")
    else:
        messages.warning(request, f"The token “{token.name}” was revoked before.")
    return (
        redirect("api:tokens") if token.user == request.user else redirect("accounts:person", token.user_id)
    )


@require_GET
def document(request: HtmxHttpRequest) -> HttpResponse:
    """The API for people: routes by subject, what each takes and answers, and a call to copy."""
    described = api.get_openapi_schema()
    context = {
        "sections": sections(described),
        "types": types(described),
        "origin": request.build_absolute_uri("/").rstrip("/"),
        "per_minute": settings.API_PER_MINUTE,
    }
    return render(request, "api/document.html", context)
