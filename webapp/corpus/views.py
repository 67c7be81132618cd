"""The list of projects, and a project's settings, people and guidelines."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts.models import User
from webapp.corpus import services
from webapp.corpus.access import Access, project_for
from webapp.corpus.counters import judged_by_person
from webapp.corpus.forms import (
    InvitationForm,
    JoinForm,
    ProjectCopyForm,
    ProjectForm,
    ProjectNewForm,
    RoleForm,
)
from webapp.corpus.models import Membership, Project
from webapp.http import HtmxHttpRequest
from webapp.parameters import int_parameter

_STAFF_ONLY = "Only staff of this installation make projects."


@require_GET
def projects(request: HtmxHttpRequest) -> HttpResponse:
    """The projects somebody belongs to, with the door that fits each role."""
    roles: dict[int, set[str]] = {}
    for project_id, role in request.user.memberships.values_list("project_id", "role"):
        roles.setdefault(project_id, set()).add(role)
    rows: list[dict[str, Any]] = [
        {
            "project": project,
            "access": Access(frozenset(roles.get(project.pk, ())), request.user.is_superuser),
        }
        for project in Project.objects.for_user(request.user).with_sizes()
    ]
    context = {
        "rows": [row for row in rows if row["project"].archived_at is None],
        "archived": [row for row in rows if row["project"].archived_at is not None],
        "may_create": request.user.is_staff,
    }
    return render(request, "corpus/projects.html", context)


def project_new(request: HtmxHttpRequest) -> HttpResponse:
    """Staff make projects."""
    if not request.user.is_staff:
        raise PermissionDenied(_STAFF_ONLY)
    form = ProjectNewForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        project = services.project_create(project=form.save(commit=False), created_by=request.user)
        messages.success(request, "The project is made. Now import something to judge.")
        return redirect("importing:imports", project.slug)
    return render(request, "corpus/project_new.html", {"form": form})


def project_settings(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    form = ProjectForm(request.POST or None, instance=project)
    if request.method == "POST" and form.is_valid():
        services.project_save(project=form.save(commit=False), actor=request.user)
        messages.success(request, "Saved.")
        return redirect("corpus:settings", slug)
    context = {"form": form, "may_copy": request.user.is_staff}
    return render(request, "corpus/settings.html", context, status=422 if form.errors else 200)


@require_POST
def project_archive(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    if services.project_archive(project=project, actor=request.user):
        messages.success(request, f"“{project.name}” is archived. Everything stays readable and exportable.")
    else:
        messages.warning(request, f"“{project.name}” was archived already.")
    return redirect("corpus:settings", slug)


@require_POST
def project_unarchive(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    if services.project_unarchive(project=project, actor=request.user):
        messages.success(request, f"“{project.name}” is out of the archive: people can judge again.")
    else:
        messages.warning(request, f"“{project.name}” was not archived.")
    return redirect("corpus:settings", slug)


def project_copy(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """A new project with the settings of this one: for its admins, if they may make projects at all."""
    project = project_for(request, slug, "admin")
    if not request.user.is_staff:
        raise PermissionDenied(_STAFF_ONLY)
    form = ProjectCopyForm(request.POST or None, initial={"name": f"{project.name}, again"})
    if request.method == "POST" and form.is_valid():
        new = services.project_copy(project=project, actor=request.user, **form.cleaned_data)
        messages.success(request, f"“{new.name}” is made, with the settings of “{project.name}” and no data.")
        return redirect("corpus:settings", new.slug)
    return render(request, "corpus/project_copy.html", {"form": form}, status=422 if form.errors else 200)


def people(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Members with their roles; give a role to somebody known, or make an invitation link for somebody new."""
    project = project_for(request, slug, "admin")
    known = services.people_known_to(request.user)
    role_form, invitation_form = RoleForm(prefix="role", known=known), InvitationForm(prefix="invitation")
    if request.method == "POST" and "give-role" in request.POST:
        role_form = RoleForm(request.POST, prefix="role", known=known)
        if role_form.is_valid() and (user := role_form.user):
            role = role_form.cleaned_data["role"]
            given = services.membership_add(project=project, user=user, role=role, actor=request.user)
            text = "is now" if given else "was already"
            messages.success(request, f"{user.display_name} {text} {role}.")
            return redirect("corpus:people", slug)
    elif request.method == "POST":
        invitation_form = InvitationForm(request.POST, prefix="invitation")
        if invitation_form.is_valid():
            data = invitation_form.cleaned_data
            with transaction.atomic():
                for note in data["note"]:
                    services.invitation_create(
                        project=project, role=data["role"], note=note, created_by=request.user
                    )
            made = len(data["note"])
            said = "The link is made. Send it to one person; it works once."
            if made > 1:
                said = f"{made} links are made. Send each to one person; it works once."
            messages.success(request, said)
            return redirect(reverse("corpus:people", args=[slug]) + "#invitations")
    roles: dict[int, list[str]] = {}
    for membership in project.memberships.all():
        roles.setdefault(membership.user_id, []).append(membership.role)
    invitations = [
        {"invitation": one, "url": request.build_absolute_uri(reverse("corpus:join", args=[one.token]))}
        for one in project.invitations.usable().order_by("-pk")
    ]
    people = project.members().order_by("kind", "username")
    judged = judged_by_person(project.pk) if project.asks_pairs else None
    if judged is None:
        counted: Any = people.with_judgements_in(project)
        judged = {user.pk: user.judgements_here for user in counted}
    context = {
        "members": [
            {"user": user, "roles": sorted(roles[user.pk]), "judgements": judged.get(user.pk, 0)}
            for user in people
        ],
        "invitations": invitations,
        "role_form": role_form,
        "invitation_form": invitation_form,
    }
    return render(request, "corpus/people.html", context)


@require_POST
def person_remove(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Take one role from one person; their labels stay."""
    project = project_for(request, slug, "admin")
    user = get_object_or_404(project.members(), pk=int_parameter(request.POST, "user"))
    role = request.POST.get("role", "")
    if role not in Membership.Role.values:
        raise Http404("No such role.")
    try:
        removed = services.membership_remove(project=project, user=user, role=role, actor=request.user)
    except services.LastAdmin as error:
        messages.error(request, str(error))
    else:
        if removed:
            messages.success(request, f"{user.display_name} is no longer {role}. Their labels stay.")
        else:
            messages.warning(request, f"{user.display_name} was not {role} (any more): nothing was changed.")
    return redirect("corpus:people", slug)


@require_POST
def invitation_withdraw(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    invitation = get_object_or_404(project.invitations, pk=pk)
    if services.invitation_withdraw(invitation=invitation, actor=request.user):
        messages.success(request, "The invitation link no longer works.")
    else:
        messages.warning(request, "Somebody joined by this link before: take the role away above instead.")
    return redirect("corpus:people", slug)


@login_not_required
def join(request: HttpRequest, token: str) -> HttpResponse:
    """Use an invitation: with the account one is signed in to, or with a new one."""
    invitation = services.invitation_open(token)
    if invitation is None:
        return render(request, "corpus/join_gone.html", status=410)
    signed_in = request.user if isinstance(request.user, User) else None
    form = JoinForm(request.POST if request.method == "POST" and signed_in is None else None)
    if request.method == "POST" and (signed_in or form.is_valid()):
        try:
            with transaction.atomic():
                user = signed_in or form.save()
                services.invitation_accept(invitation=invitation, user=user)
        except services.InvitationGone:
            return render(request, "corpus/join_gone.html", status=410)
        if signed_in is None:
            login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return redirect("corpus:guidelines", invitation.project.slug)
    return render(request, "corpus/join.html", {"form": form, "invitation": invitation})


@require_GET
def guidelines(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project_for(request, slug, "member")
    return render(request, "corpus/guidelines.html")
