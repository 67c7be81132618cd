"""Pages of webhooks, for a project's admins: which there are, what they listen to, and what they were told."""

import json
from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from webapp.corpus.access import project_for
from webapp.corpus.models import Project
from webapp.events import services
from webapp.events.models import Delivery, Kind, Webhook
from webapp.http import HtmxHttpRequest
from webapp.waiting import change_token, unless_seen

_PAGE = 25


class WebhookForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=500,
        help_text="https://HOST/PATH, on the public Internet. What it answers is not followed elsewhere.",
        widget=forms.TextInput(attrs={"inputmode": "url", "autocomplete": "off", "spellcheck": "false"}),
    )
    kinds = forms.MultipleChoiceField(
        choices=[(kind.value, f"{kind.label} ({kind.value})") for kind in Kind],
        widget=forms.CheckboxSelectMultiple,
        label="Tell it when",
        error_messages={"required": "Choose at least one."},
    )


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def webhooks(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Those of the project; POST adds one, and shows its secret this once."""
    project = project_for(request, slug, "admin")
    form = WebhookForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            added = services.webhook_add(project=project, actor=request.user, **form.cleaned_data)
        except services.WebhookRefused as refusal:
            form.add_error(refusal.field, str(refusal))
        else:
            return _page(request, added, secret=added.secret)
    context = {"rows": project.webhooks.all(), "form": form}
    return render(request, "events/webhooks.html", context, status=422 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def webhook(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """One of them and its log; POST changes its address and kinds."""
    found = _webhook(project_for(request, slug, "admin"), pk)
    if request.htmx:
        context = _deliveries(request, found)
        return unless_seen(request, context["token"], "events/webhook.html#deliveries", context)
    if request.method != "POST":
        return _page(request, found)
    form = WebhookForm(request.POST)
    if form.is_valid():
        try:
            services.webhook_change(webhook=found, actor=request.user, **form.cleaned_data)
        except services.WebhookRefused as refusal:
            form.add_error(refusal.field, str(refusal))
        else:
            messages.success(request, "Saved.")
            return redirect("events:webhook", slug, pk)
    return _page(request, found, form=form)


def _webhook(project: Project, pk: int) -> Webhook:
    found: Webhook = get_object_or_404(project.webhooks.select_related("project", "created_by"), pk=pk)
    return found


def _page(
    request: HtmxHttpRequest, webhook: Webhook, *, secret: str = "", form: WebhookForm | None = None
) -> HttpResponse:
    form = form or WebhookForm(initial={"url": webhook.url, "kinds": webhook.kinds})
    context = {"webhook": webhook, "form": form, "secret": secret, **_deliveries(request, webhook)}
    return render(request, "events/webhook.html", context, status=422 if form.errors else 200)


def _deliveries(request: HtmxHttpRequest, webhook: Webhook) -> dict[str, Any]:
    """The log, newest first, and whether more is to come soon."""
    page = Paginator(webhook.deliveries.all(), _PAGE).get_page(request.GET.get("page"))
    rows = [
        {"delivery": each, "payload": json.dumps(each.payload, indent=1, ensure_ascii=False)} for each in page
    ]
    seen = [(each.pk, each.state, each.attempts, each.next_at) for each in page]
    return {
        "webhook": webhook,
        "page": page,
        "rows": rows,
        "moves": webhook.active and any(each.state == Delivery.State.QUEUED for each in page),
        "token": change_token(webhook.active, webhook.failing_since, seen),
    }


@require_POST
def ping(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Send something that says nothing."""
    found = _webhook(project_for(request, slug, "admin"), pk)
    services.webhook_ping(webhook=found)
    messages.success(request, "A test is on its way: its line below tells how it went.")
    return redirect("events:webhook", slug, pk)


@require_POST
def pause(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    found = _webhook(project_for(request, slug, "admin"), pk)
    services.webhook_change(webhook=found, actor=request.user, active=False)
    messages.success(request, "Paused: what happens meanwhile is not told later. What waited is kept.")
    return redirect("events:webhook", slug, pk)


@require_POST
def resume(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    found = _webhook(project_for(request, slug, "admin"), pk)
    services.webhook_change(webhook=found, actor=request.user, active=True)
    messages.success(request, "It is told again from now on.")
    return redirect("events:webhook", slug, pk)


@never_cache
@require_POST
def rotate(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """A new secret, shown this once."""
    found = _webhook(project_for(request, slug, "admin"), pk)
    secret = services.webhook_rotate(webhook=found, actor=request.user)
    found.refresh_from_db()
    return _page(request, found, secret=secret)


@require_POST
def remove(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    found = _webhook(project_for(request, slug, "admin"), pk)
    services.webhook_remove(webhook=found, actor=request.user)
    messages.success(request, "The webhook and its log are removed.")
    return redirect("events:webhooks", slug)


@require_POST
def again(request: HtmxHttpRequest, slug: str, pk: int, delivery: int) -> HttpResponse:
    """Send a delivery once more."""
    found = _webhook(project_for(request, slug, "admin"), pk)
    row = get_object_or_404(found.deliveries.select_related("webhook__project"), pk=delivery)
    if services.delivery_again(delivery=row):
        messages.success(request, "It is sent again.")
    else:
        messages.warning(request, "It is on its way already.")
    return redirect("events:webhook", slug, pk)
