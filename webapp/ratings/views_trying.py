"""The page “Try it”: paste a prompt and some responses, and see what a version makes of them. Nothing is stored."""

import time
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.ratings import trying
from webapp.ratings.forms import TEXT_LENGTH, TrialForm
from webapp.ratings.queries import version_with_snapshot, versions_to_try
from webapp.ratings.trials import CHOICES, shown_trial
from webapp.ratings.trying import NobodyAnswers, TooOften, Trial

# Without JavaScript nothing asks again by itself, so the answer is waited for a while.
WAIT_SECONDS = 8.0
LOOK_SECONDS = 0.25


@require_http_methods(["GET", "HEAD", "POST"])
def try_texts(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """The form; a POST sends its texts to the worker and shows the answer, or that it is awaited."""
    project = project_for(request, slug, "read")
    versions, gone, writing = versions_to_try(project, request.GET.get("version", ""))
    posted = request.method == "POST"
    form = TrialForm(versions, request.POST if posted else None)
    context: dict[str, Any] = {"form": form, "versions": versions, "gone": gone, "writing": writing}
    status = 200
    try:
        if not posted:
            trying.worker_check()
        elif form.is_valid():
            token = trying.trial_ask(
                user=request.user, version=form.chosen, messages=form.messages, responses=form.responses
            )
            context |= _result(request, project, _waited(request, project, token))
        else:
            context["problems"] = form.problems
    except NobodyAnswers as error:
        context["nobody"] = str(error)
    except TooOften:
        context["problems"] = [f"At most {trying.PER_MINUTE} trials a minute: wait a little."]
        status = 200 if request.htmx else 429
    return _page(request, context, status)


@require_safe
def trial(request: HtmxHttpRequest, slug: str, token: str) -> HttpResponse:
    """The answer under a token, for the person who asked; a form for other texts around it."""
    project = project_for(request, slug, "read")
    context: dict[str, Any] = {}
    status = 200
    try:
        found = trying.trial_read(token, user=request.user, project=project.pk)
        context = _result(request, project, found)
        status = 404 if "lost" in context and not request.htmx else 200
    except NobodyAnswers as error:
        context["nobody"] = str(error)
    shown = context["version"].address if "version" in context else ""
    versions, gone, writing = versions_to_try(project, shown)
    context |= {"form": TrialForm(versions), "versions": versions, "gone": gone, "writing": writing}
    answer = _page(request, context, status)
    if context.get("result") and "by" not in request.GET:
        answer["HX-Reswap"] = "outerHTML show:top"  # what was waited for comes into sight
    return answer


def _waited(request: HtmxHttpRequest, project: Project, token: str) -> Trial | None:
    """What was asked; a browser without JavaScript gets it with its answer, if that comes soon."""
    until = time.monotonic() + (0 if request.htmx else WAIT_SECONDS)
    while True:
        found = trying.trial_read(token, user=request.user, project=project.pk)
        if found is None or not found.waits or time.monotonic() >= until:
            return found
        time.sleep(LOOK_SECONDS)


def _result(request: HtmxHttpRequest, project: Project, found: Trial | None) -> dict[str, Any]:
    version = version_with_snapshot(project, found.version) if found else None
    if found is None or version is None:
        return {"lost": True}
    result = shown_trial(project, version, found, request.GET.get("by", "")) if found.rows else None
    return {"trial": found, "version": version, "result": result, "choices": CHOICES}


def _page(request: HtmxHttpRequest, context: dict[str, Any], status: int) -> HttpResponse:
    """The whole page, or its result where htmx swaps that alone."""
    context |= {
        "kept_minutes": trying.KEPT_SECONDS // 60,
        "patience": trying.PATIENCE_SECONDS,
        "text_length": TEXT_LENGTH,
    }
    part = request.htmx and not request.htmx.boosted and not request.htmx.history_restore_request
    return render(request, "ratings/try.html" + ("#result" if part else ""), context, status=status)
