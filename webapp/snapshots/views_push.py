"""Pages on which an export, or a packed model, is pushed to a hub or a store. One template for both kinds."""

from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.corpus.access import ProjectRequest, project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.importing.addresses import MAX_LENGTH, AddressRefused
from webapp.jobs import State
from webapp.snapshots.models import DataPush
from webapp.snapshots.pushes import Push
from webapp.snapshots.pushing import push_retry, push_start
from webapp.waiting import change_token, unless_seen, waiting_for_worker

SHOWN = 20


class PushForm(forms.Form):
    address = forms.CharField(
        label="Where to", max_length=MAX_LENGTH, widget=forms.TextInput(attrs={"spellcheck": "false"})
    )
    public = forms.BooleanField(label="Everybody may read it there", required=False)


@dataclass(frozen=True)
class Pushed:
    """What is pushed, and where its pages are. `urls` are the names of the page, its progress, cancel and retry."""

    export: Any
    title: str
    back: tuple[str, str]
    urls: tuple[str, str, str, str]


def _context(project: Project, what: Pushed) -> dict[str, Any]:
    page, progress, cancel, retry = what.urls
    pushes = list(what.export.pushes.select_related("created_by")[:SHOWN])
    active = [push for push in pushes if push.is_active]
    waiting = waiting_for_worker(active[-1]) if active else ""
    seen = [(push.pk, push.state, push.phase, push.percent, push.cancel_requested) for push in pushes]
    return {
        "what": what,
        "rows": [
            {
                "push": push,
                "cancel": reverse(cancel, args=[project.slug, push.pk]),
                "retry": reverse(retry, args=[project.slug, push.pk]),
            }
            for push in pushes
        ],
        "page_url": reverse(page, args=[project.slug, what.export.pk]),
        "progress_url": reverse(progress, args=[project.slug, what.export.pk]),
        "active": bool(active),
        "waiting": waiting,
        "token": change_token(seen, waiting),
    }


def push_page(request: ProjectRequest, project: Project, what: Pushed) -> HttpResponse:
    """The form with what was pushed before; a POST queues a push. The caller has seen to the rights."""
    form = PushForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            push_start(
                export=what.export,
                created_by=request.user,
                address=form.cleaned_data["address"],
                public=form.cleaned_data["public"],
            )
        except AddressRefused as refusal:
            form.add_error("address", str(refusal))
        else:
            return redirect(what.urls[0], project.slug, what.export.pk)
    context = {
        **_context(project, what),
        "form": form,
        "hub": bool(settings.HUB_PUSH_TOKEN),
        "stores": settings.STORES_OUT,
    }
    return render(request, "snapshots/push.html", context, status=400 if form.errors else 200)


def push_progress(request: ProjectRequest, project: Project, what: Pushed) -> HttpResponse:
    """The list of pushes; 204 while nothing changed since the `token` the page has."""
    if not request.htmx:
        return redirect(what.urls[0], project.slug, what.export.pk)
    context = _context(project, what)
    return unless_seen(request, context["token"], "snapshots/push.html#pushes", context)


def push_act(request: HtmxHttpRequest, project: Project, push: Push, act: str, page: str) -> HttpResponse:
    """Cancel a push, or try it again; then its page."""
    done = push.request_cancel() if act == "cancel" else push_retry(push=push, actor=request.user)
    if not done:
        messages.warning(request, "Nothing was changed: this push has ended, or goes on already.")
    return redirect(page, project.slug, push.export.pk)


# --- Exports of data ---

_URLS = tuple(f"snapshots:{name}" for name in ("push", "push-progress", "push-cancel", "push-retry"))


def _export(project: Project, pk: int) -> Pushed:
    export = get_object_or_404(project.exports.select_related("project"), pk=pk, state=State.DONE)
    title = f"{export.get_format_display()}, {export.get_file_type_display()}"
    back = (reverse("snapshots:exports", args=[project.slug]), "Export")
    return Pushed(export, title, back, _URLS)  # type: ignore[arg-type]


def _push(project: Project, pk: int) -> DataPush:
    found: DataPush = get_object_or_404(
        DataPush.objects.filter(export__project=project).select_related("export__project"), pk=pk
    )
    return found


@require_http_methods(["GET", "HEAD", "POST"])
def push(request: ProjectRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin" if request.method == "POST" else "read")
    return push_page(request, project, _export(project, pk))


@require_safe
def pushes(request: ProjectRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    return push_progress(request, project, _export(project, pk))


@require_POST
def push_cancel(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    return push_act(request, project, _push(project, pk), "cancel", _URLS[0])


@require_POST
def push_again(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    return push_act(request, project, _push(project, pk), "retry", _URLS[0])
