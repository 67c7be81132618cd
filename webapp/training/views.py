"""Pages of trainings and versions: a list with the start form, and one page per run that follows its progress."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Method, Project
from webapp.corpus.options import GENERATIVE, preset_words
from webapp.http import HtmxHttpRequest
from webapp.jobs import State
from webapp.labels.names import annotator_names
from webapp.parameters import int_parameter
from webapp.training import remeasuring, reports, services
from webapp.training.charts import loss_chart, reliability_chart
from webapp.training.curves import vote_curve
from webapp.training.forms import LimitsForm, RunForm
from webapp.training.generative import Written, written
from webapp.training.metrics import headline, metric_rows
from webapp.training.models import ModelExport, ModelVersion, TrainingRun, public_config
from webapp.training.progress import Progress, log_lines, read_log, read_progress
from webapp.training.promotions import promotions, story_of
from webapp.training.queue import Place, crossfit_costs, left, places
from webapp.training.same_rows import held_out_now
from webapp.training.triggers import next_trainings
from webapp.waiting import change_token, unless_seen, waiting_for_worker
from webapp.words import duration

PAGE_SIZE = 25
MEASUREMENTS_SHOWN = 3


def waiting_reason(run: TrainingRun) -> str:
    """Why a run does not move: it waits for too long, or its worker is silent; empty otherwise."""
    silent_since = timezone.now() - timedelta(seconds=settings.JOB_LOST_AFTER_SECONDS)
    if run.state == State.RUNNING and run.heartbeat_at is not None and run.heartbeat_at < silent_since:
        return (
            "Its worker has given no sign of life for a while. As soon as a worker of the default queue looks after "
            "it, this run becomes “lost” and can be resumed."
        )
    return waiting_for_worker(run)


@require_safe
def runs(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "read")
    if not request.htmx:
        key = int_parameter(request.GET, "from")
        earlier = project.runs.filter(pk=key).first() if key is not None else None
        return _runs_page(request, project, RunForm(project=project, earlier=earlier))
    context = _list_context(request, project)
    return unless_seen(request, context["token"], "training/runs.html#list", context)


def _list_context(request: HtmxHttpRequest, project: Project) -> dict[str, Any]:
    page = Paginator(project.runs.with_versions(), PAGE_SIZE).get_page(request.GET.get("page"))
    waits = [run for run in page if run.state == State.QUEUED]
    waiting = waiting_reason(waits[-1]) if waits else ""
    found = places(list(page), request.user)
    upcoming = next_trainings(project)
    seen: list[Any] = [
        (run.pk, run.state, run.phase, run.percent, bool(getattr(run, "version", None))) for run in page
    ]
    seen += [*_seen_of(found), *((each.methods, each.words) for each in upcoming)]
    return {
        "page": page,
        "rows": [(run, headline(run.metrics), found.get(run.pk)) for run in page],
        "upcoming": upcoming,
        "waiting": waiting,
        "active": any(run.is_active for run in page),
        "token": change_token(seen, waiting),
    }


def _seen_of(found: dict[int, Place]) -> list[Any]:
    """What a page shows of places in the queue, times in the steps in which they are told."""
    return [
        (pk, place.position, len(place.running), [duration(each) for each in (place.begins, place.takes)])
        for pk, place in found.items()
    ]


def _runs_page(
    request: HtmxHttpRequest, project: Project, form: RunForm, *, status: int = 200
) -> HttpResponse:
    versions = list(project.versions.all())
    form.offer(versions)
    judgements, levels = services.label_counts(project)
    form.tell_costs(crossfit_costs(project, judgements + levels))
    form.tell_endpoints(project)
    serving = {version.method: version for version in versions if version.is_serving}
    acts = promotions(project) if versions else []
    context = _list_context(request, project) | {
        "form": form,
        "methods": [
            (Method(method).label, found)
            for method in Method.values
            if (
                found := [
                    story_of(version, serving.get(method), acts)
                    for version in versions
                    if version.method == method
                ]
            )
        ],
        "judgements": judgements,
        "levels": levels,
        "refusal": services.too_few_labels(project, judgements + levels),
    }
    return render(request, "training/runs.html", context, status=status)


@require_POST
def run_start(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    form = RunForm(request.POST, project=project)
    if form.is_valid():
        try:
            started = services.run_start(
                project=project,
                method=form.cleaned_data["method"],
                trigger=TrainingRun.Trigger.BUTTON,
                created_by=request.user,
                config=form.overrides(),
            )
        except services.RunRefused as refusal:
            form.refuse(refusal)
        else:
            return redirect("training:run", project.slug, started.pk)
    return _runs_page(request, project, form, status=400)


def _run_context(request: HtmxHttpRequest, project: Project, pk: int) -> dict[str, Any]:
    run = get_object_or_404(project.runs.with_versions(), pk=pk)
    version = getattr(run, "version", None)
    serving = project.versions.serving().of_method(run.method).first()
    other = serving if serving != version else None
    if version is not None and version.is_serving:
        other = version.replaced()
    progress = read_progress(run)
    log = read_log(run.folder)
    end = run.finished_at or timezone.now()
    waiting = waiting_reason(run)
    place = places([run], request.user).get(run.pk)
    rest = left(run) if run.state == State.RUNNING else None
    # A page of a run that waits is sent anew now and then, so that its times don't stand still.
    waited = (timezone.now() - run.queued_at) // timedelta(seconds=10) if run.state == State.QUEUED else 0
    seen = [
        waited,
        _seen_of({run.pk: place} if place else {}),
        run.percent,
        run.state,
        run.phase,
        run.step,
        run.total,
        run.loss,
        run.live,
        run.cancel_requested,
        run.error,
        len(progress.points),
        len(progress.validation),
        progress.afresh,
        log,
    ]
    seen += [
        waiting,
        version and (version.is_serving, version.promoted_at, version.is_there),
        other and other.pk,
    ]
    acts = promotions(project) if version is not None else []
    early = reports.early_stopping(run.metrics)
    calibration = reports.calibration(run.metrics)
    writes = written(run)
    return {
        "run": run,
        "version": version,
        "gone": version is not None and not version.is_there,
        "other": other,
        "story": story_of(version, serving, acts) if version is not None else None,
        "other_story": story_of(other, serving, acts) if other is not None else None,
        "waiting": waiting,
        "place": place,
        "rest": rest,
        "early": early,
        "chart": loss_chart(
            progress.points or (writes.losses if writes else []),
            progress.validation or ([(step, nll) for step, nll, _ in early.history] if early else []),
            early.best_step if early else None,
        ),
        "calibration": calibration,
        "reliability": reliability_chart(calibration.before, calibration.after) if calibration else None,
        "robustness": reports.robustness(run.metrics),
        "reading": reports.reading(run.metrics),
        "left_out": reports.left_out(run.metrics),
        "annotators": _annotators(project, run),
        **(_written(writes, progress, run.metrics) if writes is not None else {}),
        **(_measured_again(version) if version is not None else {}),
        **(_downloads(version) if version is not None and not version.is_packed else {}),
        "afresh": progress.afresh,
        "left": progress.left if run.state == State.RUNNING else None,
        "elapsed": end - run.started_at if run.started_at else None,
        "log": log,
        "rows": metric_rows(run.metrics, other.metrics if other else None),
        "config": sorted(
            (name, value) for name, value in public_config(run.config).items() if name != "guidelines"
        ),
        "guidelines": run.config.get("guidelines"),
        "preset": preset_words(run.method, run.config),
        "base_model": public_config(run.config)["base_model"],
        "limits": LimitsForm(run=run) if run.can_requeue and run.asks_endpoint else None,
        "no_pairs": not (run.metrics.get("held_out") or {}).get("pairs"),
        "token": change_token(seen),
    }


def _written(found: Written, progress: Progress, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a generative run has written, with its curves: of metrics.json, which lacks no step, once it has ended."""
    reward = loss_chart(found.rewards or progress.rewards, axis="reward")
    kl = loss_chart(found.kls or progress.kls, axis="KL")
    kls = dict(kl.rows) if kl is not None else {}
    return {
        "written": found,
        "curve": vote_curve(metrics),
        "reward_chart": reward,
        "kl_chart": kl,
        "steps": [(step, value, kls.get(step)) for step, value in reward.rows] if reward is not None else [],
    }


def _annotators(project: Project, run: TrainingRun) -> reports.Annotators | None:
    if not run.metrics.get("annotators"):
        return None
    people = {named.name: pk for pk, named in annotator_names(project).items()}
    return reports.annotators(run.metrics, people)


_FORMAT_HELP = {
    ModelExport.Format.CALIPER: "Weights, tokenizer, scale and template as the run left them, with a model card and "
    "the metrics. python -m workers.rewards.score reads the folder.",
    ModelExport.Format.TRANSFORMERS: "A folder that plain transformers load, with equal scores, and a model card "
    "with the code to use it. Which of TRL, OpenRLHF's reward server and sentence-transformers score the same, and "
    "how, stands in the card.",
}


_FORMATS_OF: dict[str, dict[ModelExport.Format, str]] = {
    Method.GRM: {
        ModelExport.Format.CALIPER: _FORMAT_HELP[ModelExport.Format.CALIPER],
        ModelExport.Format.TRANSFORMERS: "The language model that judges, as plain transformers load it, with the form "
        "of its prompt and code that reads its scores.",
    },
    # There are no weights that transformers could load.
    Method.JUDGE: {
        ModelExport.Format.CALIPER: "The form of its prompt and its settings, with a model card and the metrics. It "
        "has no weights of its own: its base model, or its endpoint, is named.",
    },
}


def _downloads(version: ModelVersion) -> dict[str, Any]:
    """What can be taken away of a version: each format with its newest export. One query."""
    exports = list(version.exports.select_related("created_by"))
    downloads = []
    offered = _FORMATS_OF.get(version.method, _FORMAT_HELP)
    for format, words in offered.items():
        export = next((each for each in exports if each.format == format), None)
        there = export is not None and export.is_there
        downloads.append({"format": format, "help": words, "export": export, "there": there})
    active = [export for export in exports if export.is_active]
    waiting = waiting_for_worker(active[-1]) if active else ""
    seen = [(export.pk, export.state, export.phase) for export in exports]
    return {
        "downloads": downloads,
        "downloads_active": bool(active),
        "packable": version.is_there,
        "downloads_waiting": waiting,
        "downloads_token": change_token(seen, waiting),
        # The address that a reward server is given. A judge's critiques take too long for one.
        "serve_from": ""
        if version.method in GENERATIVE
        else reverse("ratings:project", args=[version.project.slug]),
    }


def _measured_again(version: ModelVersion) -> dict[str, Any]:
    """What a version was measured to be on rows that came after it, and whether it can be now. Two queries."""
    found = list(version.remeasurements.select_related("rows_of", "created_by")[:MEASUREMENTS_SHOWN])
    now = held_out_now(version.project)
    can = now is not None and now.version != version.pk and version.is_there and not version.is_packed
    then = {name: part for name, part in version.metrics.items() if name != "crossfit"}
    newest = found[0] if found else None
    waiting = waiting_for_worker(newest) if newest is not None and newest.is_active else ""
    seen = [(each.pk, each.state, each.phase, each.percent) for each in found]
    return {
        "measurements": [
            (each, metric_rows({**then, "held_out": each.metrics["held_out"]}, then))
            if each.metrics.get("held_out")
            else (each, [])
            for each in found
        ],
        "measuring": newest is not None and newest.is_active,
        "can_measure": can,
        "measuring_waits": waiting,
        "measuring_token": change_token(seen, waiting),
    }


@require_safe
def run(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    return render(request, "training/run.html", _run_context(request, project, pk))


@require_safe
def run_progress(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """The changing part of the run's page; 204 while nothing changed since the `token` the page has."""
    project = project_for(request, slug, "read")
    context = _run_context(request, project, pk)
    if not request.htmx:
        return redirect("training:run", project.slug, pk)
    return unless_seen(request, context["token"], "training/run.html#progress", context)


@require_safe
def run_log(request: HtmxHttpRequest, slug: str, pk: int) -> StreamingHttpResponse:
    project = project_for(request, slug, "read")
    found = get_object_or_404(project.runs.with_versions(), pk=pk)
    try:
        lines = log_lines(found)
    except OSError:
        raise Http404("This run has no log.") from None
    return StreamingHttpResponse(lines, content_type="text/plain; charset=utf-8")


@require_POST
def run_cancel(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    found = get_object_or_404(project.runs.with_versions(), pk=pk)
    if not services.run_cancel(run=found, actor=request.user):
        messages.warning(
            request, f"Run {pk} is {found.get_state_display()} already; there was nothing to cancel."
        )
    return redirect("training:run", project.slug, pk)


@require_POST
def run_resume(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    found = get_object_or_404(project.runs.with_versions(), pk=pk)
    limits = None
    if found.asks_endpoint:
        form = LimitsForm(request.POST, run=found)
        if not form.is_valid():
            wrong = [
                f"{form[name].label}: {' '.join(map(str, errors))}" for name, errors in form.errors.items()
            ]
            messages.error(request, f"Run {pk} was not resumed. {' '.join(wrong)}")
            return redirect("training:run", project.slug, pk)
        limits = {name: value for name, value in form.cleaned_data.items() if name in request.POST}
    try:
        resumed = services.run_resume(run=found, actor=request.user, limits=limits)
    except services.RunRefused as refusal:
        messages.error(request, f"Run {pk} was not resumed. {refusal}")
    else:
        if not resumed:
            messages.warning(
                request, f"Run {pk} was not resumed: it runs already, or the same training is queued."
            )
    return redirect("training:run", project.slug, pk)


def _version(project: Project, pk: int) -> ModelVersion:
    return get_object_or_404(project.versions.select_related("run", "project"), pk=pk)


@require_POST
def version_promote(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    version = _version(project, pk)
    try:
        promoted = services.version_promote(version=version, actor=request.user)
    except services.VersionRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("training:run", project.slug, version.run_id)
    if promoted:
        messages.success(request, f"{version.get_method_display()} v{version.number} serves now.")
    else:
        messages.warning(request, f"{version.get_method_display()} v{version.number} was serving already.")
    return redirect("training:run", project.slug, version.run_id)


@require_safe
def measurements(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """How a version does on rows that came after it; 204 while nothing changed since the `token` the page has."""
    project = project_for(request, slug, "read")
    version = _version(project, pk)
    if not request.htmx:
        return redirect("training:run", project.slug, version.run_id)
    context = {**_measured_again(version), "version": version}
    return unless_seen(request, context["measuring_token"], "training/measured_again.html", context)


@require_POST
def measurement_start(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    version = _version(project, pk)
    now = held_out_now(project)
    try:
        if now is None:
            raise services.VersionRefused("No version of this project held anything out.")
        rows_of = _version(project, now.version)
        remeasuring.measurement_start(version=version, rows_of=rows_of, created_by=request.user)
    except services.VersionRefused as refusal:
        messages.error(request, str(refusal))
    return redirect(reverse("training:run", args=[project.slug, version.run_id]) + "#measured-again")


@require_safe
def model_exports(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """The downloads of a version; 204 while nothing changed since the `token` the page has."""
    project = project_for(request, slug, "read")
    version = _version(project, pk)
    if not request.htmx:
        return redirect("training:run", project.slug, version.run_id)
    context = {**_downloads(version), "version": version}
    return unless_seen(request, context["downloads_token"], "training/downloads.html", context)


@require_POST
def model_export_start(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    version = _version(project, pk)
    format = request.POST.get("format", "")
    if format not in ModelExport.Format.values:
        messages.error(
            request, f"There is no format “{format}”. Known: {', '.join(ModelExport.Format.values)}."
        )
    else:
        services.model_export_start(version=version, format=format, created_by=request.user)
    return redirect(reverse("training:run", args=[project.slug, version.run_id]) + "#downloads")


@require_safe
def model_export_download(request: HtmxHttpRequest, slug: str, pk: int) -> FileResponse:
    project = project_for(request, slug, "read")
    export = get_object_or_404(ModelExport.objects.done_in(project), pk=pk)
    if not export.is_there:
        raise Http404("The file is gone from the server's disk. Ask for the download again.")
    detail = {
        "export": pk,
        "method": export.version.method,
        "version": export.version.number,
        "format": export.format,
    }
    audit(project=project, actor=request.user, action=Action.MODEL_DOWNLOADED, detail=detail)
    return FileResponse(export.archive.open("rb"), as_attachment=True, filename=f"{export.name}.zip")
