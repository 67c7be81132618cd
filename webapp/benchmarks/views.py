"""Pages of evaluation sets: the list with the upload form, and one page a set with its versions side by side."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from webapp.benchmarks import services
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.benchmarks.reports import comparison
from webapp.corpus.access import project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.importing.views import FilesField
from webapp.jobs import State
from webapp.middleware import receives_files
from webapp.parameters import int_parameter
from webapp.waiting import change_token, unless_seen, waiting_for_worker


class SetFilesField(FilesField):
    max_files = 100  # RMB is published as 49
    or_else = ""


class SetForm(forms.Form):
    name = forms.CharField(
        max_length=80, widget=forms.TextInput(attrs={"placeholder": "RewardBench 2", "autocomplete": "off"})
    )
    uploads = SetFilesField(
        label="Files",
        help_text="JSON Lines, a JSON list, Parquet or CSV, each also packed (.gz); all files of one benchmark.",
    )


def _list_context(project: Project) -> dict[str, Any]:
    sets = list(project.evaluation_sets.defer("refusals"))
    measured = list(Measurement.objects.of(project).with_names())
    cells = {(one.version_id, one.evaluation_set_id): one for one in measured}
    ready = [one for one in sets if one.state == State.DONE]
    versions = sorted(
        {one.version for one in measured}, key=lambda version: (not version.is_serving, -version.pk)
    )
    active = [one for one in [*sets, *measured] if one.is_active]
    waiting = waiting_for_worker(active[0]) if active else ""
    return {
        "sets": sets,
        "columns": ready,
        "rows": [(version, [cells.get((version.pk, one.pk)) for one in ready]) for version in versions],
        "active": bool(active),
        "waiting": waiting,
        "token": change_token([_seen(one) for one in [*sets, *measured]], waiting),
        "max_mb": settings.MAX_UPLOAD_BYTES // 2**20,
    }


def _seen(job: EvaluationSet | Measurement) -> list[Any]:
    return [job.pk, job.state, job.phase, job.percent, job.error]


@require_safe
def sets(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "read")
    context = _list_context(project)
    if request.htmx:
        return unless_seen(request, context["token"], "benchmarks/sets.html#list", context)
    return render(request, "benchmarks/sets.html", {**context, "form": SetForm()})


@receives_files("read")
@require_POST
def set_add(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "read")
    form = SetForm(request.POST, request.FILES)
    if form.is_valid():
        try:
            row = services.set_add(
                project=project,
                name=form.cleaned_data["name"],
                files=form.cleaned_data["uploads"],
                created_by=request.user,
            )
        except services.SetRefused as refusal:
            form.add_error(None, str(refusal))
        except OSError as error:
            form.add_error(
                "uploads", f"The server could not keep the file ({error.strerror}). Tell its admin."
            )
        else:
            return redirect("benchmarks:set", project.slug, row.pk)
    return render(request, "benchmarks/sets.html", {**_list_context(project), "form": form}, status=400)


def _set(project: Project, pk: int) -> EvaluationSet:
    return get_object_or_404(project.evaluation_sets.select_related("created_by", "project"), pk=pk)


def _set_context(project: Project, pk: int) -> dict[str, Any]:
    row = _set(project, pk)
    measurements = list(row.measurements.with_versions())
    known = {one.version_id for one in measurements}
    found = comparison([one for one in measurements if one.state == State.DONE])
    open_ones = [one for one in measurements if one.state != State.DONE]
    active = [one for one in [row, *open_ones] if one.is_active]
    waiting = waiting_for_worker(active[0]) if active else ""
    return {
        "set": row,
        "found": found,
        "open": open_ones,
        "others": [version for version in project.versions.unpacked() if version.pk not in known],
        "active": bool(active),
        "waiting": waiting,
        "token": change_token([_seen(one) for one in [row, *measurements]], waiting),
    }


@require_safe
def evaluation_set(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    context = _set_context(project, pk)
    if request.htmx:
        return unless_seen(request, context["token"], "benchmarks/set.html#progress", context)
    return render(request, "benchmarks/set.html", context)


@require_POST
def set_retry(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    row = _set(project, pk)
    if not services.set_retry(row=row):
        messages.warning(
            request, f"“{row.name}” is {row.get_state_display()}; there was nothing to try again."
        )
    return redirect("benchmarks:set", project.slug, pk)


@require_POST
def set_delete(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    row = _set(project, pk)
    services.set_delete(row=row, actor=request.user)
    messages.success(request, f"“{row.name}” and what was measured on it are deleted.")
    return redirect("benchmarks:sets", project.slug)


@require_POST
def measurement_start(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    row = _set(project, pk)
    key = int_parameter(request.POST, "version")
    version = project.versions.unpacked().of_key(key)
    if version is None or row.state != State.DONE:
        messages.error(request, "Choose a version whose model is on the disk, once the set has been read.")
    else:
        services.measurement_start(evaluation_set=row, version=version)
    return redirect("benchmarks:set", project.slug, pk)


@require_POST
def measurement_cancel(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    row = get_object_or_404(Measurement.objects.of(project), pk=pk)
    if not row.request_cancel():
        messages.warning(request, "It has ended already; there was nothing to cancel.")
    return redirect("benchmarks:set", project.slug, row.evaluation_set_id)
