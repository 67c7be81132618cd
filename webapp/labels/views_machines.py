"""Pages of machine annotators: which are enrolled, what one is asked, and its answers beside people's."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.endpoints import Endpoint, endpoint_named, endpoints
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.labels.machine_models import MachineAnnotator, MachineAnswer, MachineJob
from webapp.labels.machine_reports import machine_report
from webapp.labels.machines import (
    MachineRefused,
    endpoint_of,
    machine_ask,
    machine_enrol,
    machine_resume,
    machine_withdraw,
    open_pairs,
    pair_estimate,
)
from webapp.waiting import change_token, unless_seen, waiting_for_worker

_PAGE = 20
_JOBS = 10


class EnrolForm(forms.Form):
    endpoint = forms.ChoiceField(help_text="What the operator offers (CALIPER_ENDPOINTS).")

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.offered = [(each.name, f"{each.name.partition(':')[2]}: {each.model}") for each in endpoints()]
        self.fields["endpoint"].choices = self.offered  # type: ignore[attr-defined]


class LimitsForm(forms.ModelForm):
    """What a round may use up at most."""

    class Meta:
        model = MachineJob
        fields = ["cost_limit", "token_limit"]
        labels = {"token_limit": "Stop at tokens"}
        help_texts = {
            "cost_limit": "By the operator's prices; empty: no limit.",
            "token_limit": "Prompts and answers together; empty: no limit.",
        }

    def __init__(self, endpoint: Endpoint | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.endpoint = endpoint
        self.fields["cost_limit"].label = f"Stop at cost ({endpoint.currency if endpoint else 'USD'})"

    def clean_cost_limit(self) -> float | None:
        limit: float | None = self.cleaned_data["cost_limit"]
        if limit is not None and self.endpoint is not None and self.endpoint.cost(0, 0) is None:
            raise forms.ValidationError(
                "The operator gave no prices of this endpoint: set a limit of tokens instead."
            )
        return limit


class AskForm(LimitsForm):
    class Meta(LimitsForm.Meta):
        fields = ["which", "pairs", "cost_limit", "token_limit"]
        labels = {**LimitsForm.Meta.labels, "which": "Which pairs", "pairs": "How many at most"}
        help_texts = {
            **LimitsForm.Meta.help_texts,
            "which": "Pairs that people have judged tell how far it agrees with them.",
            "pairs": "Drawn at random. Each is asked twice, once with each response in front.",
        }


@require_http_methods(["GET", "HEAD", "POST"])
def machines(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Which endpoints are enrolled; admins enrol more."""
    project = project_for(request, slug, "admin" if request.method == "POST" else "read")
    form = EnrolForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            machine = machine_enrol(
                project=project, endpoint=form.cleaned_data["endpoint"], actor=request.user
            )
        except MachineRefused as refusal:
            form.add_error("endpoint", str(refusal))
        else:
            messages.success(request, f"{machine} is enrolled. Now ask it about some pairs.")
            return redirect("labels:machine", slug, machine.pk)
    rows = [
        {"machine": each, "answers": each.answers.count()} for each in project.machines.select_related("user")
    ]
    context = {"rows": rows, "form": form}
    return render(request, "labels/machines.html", context, status=422 if form.errors else 200)


@require_safe
def machine(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """What one is asked at present, and its report."""
    project = project_for(request, slug, "read")
    found = _machine(project, pk)
    if request.htmx:
        context = _jobs(found)
        return unless_seen(request, context["token"], "labels/machine.html#asking", context)
    return _page(request, found)


def _machine(project: Project, pk: int) -> MachineAnnotator:
    found: MachineAnnotator = get_object_or_404(
        project.machines.select_related("user", "project", "enrolled_by"), pk=pk
    )
    return found


def _jobs(machine: MachineAnnotator) -> dict[str, Any]:
    jobs = list(machine.jobs.select_related("created_by")[:_JOBS])
    active = next((job for job in jobs if job.is_active), None)
    waiting = ""
    if active is not None:
        waiting = (
            "Another machine is being asked; this one follows."
            if active.waits_for is not None
            else waiting_for_worker(active)
        )
    offered = endpoint_named(machine.endpoint)
    return {
        "machine": machine,
        "jobs": [
            {
                "job": job,
                "stored": job.answers.count(),
                "limits": None if job.is_active or not job.can_requeue else _limits_form(job, offered),
            }
            for job in jobs
        ],
        "active": active,
        "waiting": waiting,
        "token": change_token(
            [(job.pk, job.state, job.phase, job.percent, job.usage) for job in jobs], waiting
        ),
    }


def _limits_form(job: MachineJob, offered: Endpoint | None, data: Any = None) -> LimitsForm:
    return LimitsForm(offered, data, instance=job, prefix=f"job-{job.pk}")


def _page(request: HtmxHttpRequest, machine: MachineAnnotator, form: AskForm | None = None) -> HttpResponse:
    try:
        refusal, offered = "", endpoint_of(machine)
    except MachineRefused as refused:
        refusal, offered = str(refused), None
    shown = request.GET.get("show", "")
    answers = machine.answers.select_related("pair").order_by("-pk")
    if shown in MachineAnswer.Outcome.values:
        answers = answers.filter(outcome=shown)
    context = {
        **_jobs(machine),
        "offered": offered,
        "refusal": refusal,
        "form": form or AskForm(offered),
        "open": [(label, open_pairs(machine, which).count()) for which, label in MachineJob.Which.choices],
        "estimate": pair_estimate(machine, offered) if offered is not None else None,
        "report": machine_report(machine),
        "shown": shown,
        "outcomes": MachineAnswer.Outcome.choices,
        "page": Paginator(answers, _PAGE).get_page(request.GET.get("page")),
    }
    return render(request, "labels/machine.html", context, status=422 if form is not None else 200)


@require_POST
def ask(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Start a round of questions."""
    project = project_for(request, slug, "admin")
    found = _machine(project, pk)
    form = AskForm(endpoint_named(found.endpoint), request.POST, instance=MachineJob(machine=found))
    if form.is_valid():
        try:
            machine_ask(job=form.save(commit=False), actor=request.user)
        except MachineRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            return redirect("labels:machine", slug, pk)
    return _page(request, found, form)


@require_POST
def withdraw(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    found = _machine(project, pk)
    if machine_withdraw(machine=found, actor=request.user):
        messages.success(request, f"{found} is asked no more. What it said stays.")
    else:
        messages.warning(request, f"{found} was withdrawn before.")
    return redirect("labels:machines", slug)


@require_POST
def cancel(request: HtmxHttpRequest, slug: str, pk: int, job: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    row = get_object_or_404(_machine(project, pk).jobs, pk=job)
    if not row.request_cancel():
        messages.warning(request, "It had ended before.")
    return redirect("labels:machine", slug, pk)


@require_POST
def resume(request: HtmxHttpRequest, slug: str, pk: int, job: int) -> HttpResponse:
    """Go on with a round that stopped, under the limits that are given now."""
    project = project_for(request, slug, "admin")
    found = _machine(project, pk)
    row = get_object_or_404(found.jobs.select_related("machine__user", "project"), pk=job)
    form = _limits_form(row, endpoint_named(found.endpoint), request.POST)
    if not form.is_valid():
        for errors in form.errors.values():
            messages.error(request, " ".join(map(str, errors)))
        return redirect("labels:machine", slug, pk)
    try:
        if not machine_resume(job=row, actor=request.user, **form.cleaned_data):
            messages.warning(request, "It has not stopped.")
    except MachineRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("labels:machine", slug, pk)
