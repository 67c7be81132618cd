"""The accounts of the installation, for its superusers.

Not for all staff: a link for a new password opens every project that its person is in.
"""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts import services
from webapp.accounts.models import User
from webapp.http import HtmxHttpRequest

PER_PAGE = 50


def check_operator(user: User) -> None:
    """Raises PermissionDenied for everybody who doesn't run this installation."""
    if not user.is_superuser:
        raise PermissionDenied("Only superusers of this installation see its accounts.")


def person_for(request: HtmxHttpRequest, pk: int) -> User:
    """The person an operator asks about."""
    check_operator(request.user)
    return get_object_or_404(User.objects.people(), pk=pk)


@require_GET
def people(request: HtmxHttpRequest) -> HttpResponse:
    """Everybody with an account; search, with a page for each PER_PAGE."""
    check_operator(request.user)
    search = request.GET.get("q", "").strip()
    found = User.objects.people().search(search).order_by("-is_active", "username")
    page = Paginator(found.prefetch_related("memberships__project"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    return render(request, "accounts/people.html", {"page": page, "search": search})


def _person_page(request: HtmxHttpRequest, user: User, **more: str) -> HttpResponse:
    roles: dict[str, list[str]] = {}
    for membership in user.memberships.select_related("project").order_by("project__name", "role"):
        roles.setdefault(membership.project.name, []).append(membership.role)
    context = {
        "person": user,
        "roles": roles,
        "devices": user.sessions.count(),
        "second_factor": services.second_factor_of(user).exists(),
        "tokens": user.api_tokens.live(),
    }
    return render(request, "accounts/person.html", {**context, **more})


@require_GET
def person(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    return _person_page(request, person_for(request, pk))


@require_POST
def deactivate(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    user = person_for(request, pk)
    try:
        services.user_deactivate(user=user, by=request.user)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(
            request, f"{user.display_name} can't sign in any more, and is signed out everywhere."
        )
    return redirect("accounts:person", pk)


@require_POST
def reactivate(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    user = person_for(request, pk)
    services.user_reactivate(user=user, by=request.user)
    messages.success(request, f"{user.display_name} can sign in again.")
    return redirect("accounts:person", pk)


@require_POST
def reset_link(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    """The link is on this answer and nowhere else."""
    user = person_for(request, pk)
    try:
        link = request.build_absolute_uri(services.reset_path(user=user, by=request.user))
    except services.Refused as refusal:
        messages.error(request, str(refusal))
        return redirect("accounts:person", pk)
    return _person_page(request, user, link=link)


@require_POST
def second_factor_remove(request: HtmxHttpRequest, pk: int) -> HttpResponse:
    user = person_for(request, pk)
    services.second_factor_remove(user=user, by=request.user)
    messages.success(request, f"{user.display_name} signs in with the password alone now.")
    return redirect("accounts:person", pk)
