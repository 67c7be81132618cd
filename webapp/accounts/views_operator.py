"""The accounts of the installation, for its superusers.

Not for all staff: a link for a new password opens every project that its person is in.
"""

from typing import cast

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts import services
from webapp.accounts.models import User

PER_PAGE = 50


def operator_of(request: HttpRequest) -> User:
    """Who asks, if they run this installation; raises PermissionDenied for everybody else."""
    user = cast(User, request.user)
    if not user.is_superuser:
        raise PermissionDenied("Only superusers of this installation see its accounts.")
    return user


def person_for(request: HttpRequest, pk: int) -> tuple[User, User]:
    """Who asks, and the person they ask about."""
    operator = operator_of(request)
    return operator, get_object_or_404(User.objects.people(), pk=pk)


@require_GET
def people(request: HttpRequest) -> HttpResponse:
    """Everybody with an account; search, with a page for each PER_PAGE."""
    operator_of(request)
    search = request.GET.get("q", "").strip()
    found = User.objects.people().search(search).order_by("-is_active", "username")
    page = Paginator(found.prefetch_related("memberships__project"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    return render(request, "accounts/people.html", {"page": page, "search": search})


def _person_page(request: HttpRequest, person: User, operator: User, **more: str) -> HttpResponse:
    roles: dict[str, list[str]] = {}
    for membership in person.memberships.select_related("project").order_by("project__name", "role"):
        roles.setdefault(membership.project.name, []).append(membership.role)
    context = {
        "person": person,
        "roles": roles,
        "operator": operator,
        "devices": person.sessions.count(),
        "second_factor": services.second_factor_of(person).exists(),
    }
    return render(request, "accounts/person.html", {**context, **more})


@require_GET
def person(request: HttpRequest, pk: int) -> HttpResponse:
    operator, person = person_for(request, pk)
    return _person_page(request, person, operator)


@require_POST
def deactivate(request: HttpRequest, pk: int) -> HttpResponse:
    operator, person = person_for(request, pk)
    try:
        services.user_deactivate(user=person, by=operator)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(
            request, f"{person.display_name} can't sign in any more, and is signed out everywhere."
        )
    return redirect("accounts:person", pk)


@require_POST
def reactivate(request: HttpRequest, pk: int) -> HttpResponse:
    operator, person = person_for(request, pk)
    services.user_reactivate(user=person, by=operator)
    messages.success(request, f"{person.display_name} can sign in again.")
    return redirect("accounts:person", pk)


@require_POST
def reset_link(request: HttpRequest, pk: int) -> HttpResponse:
    """The link is on this answer and nowhere else."""
    operator, person = person_for(request, pk)
    try:
        link = request.build_absolute_uri(services.reset_path(user=person, by=operator))
    except services.Refused as refusal:
        messages.error(request, str(refusal))
        return redirect("accounts:person", pk)
    return _person_page(request, person, operator, link=link)


@require_POST
def second_factor_remove(request: HttpRequest, pk: int) -> HttpResponse:
    operator, person = person_for(request, pk)
    services.second_factor_remove(user=person, by=operator)
    messages.success(request, f"{person.display_name} signs in with the password alone now.")
    return redirect("accounts:person", pk)
