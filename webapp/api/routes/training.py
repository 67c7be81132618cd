"""Trainings and the versions that come of them: start, follow, let serve, and take a version's files away."""

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Schema, Status

from webapp.api.auth import ApiRequest, token
from webapp.api.files import file_response, opened
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, field_error, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import CONFLICT, Given
from webapp.corpus.access import project_for
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Method
from webapp.corpus.options import GENERATIVE, OPTIONS, RunRefused
from webapp.ratings.queries import serving_versions
from webapp.rollouts.services import settings_for
from webapp.training import services
from webapp.training.files import ModelFile, version_files
from webapp.training.models import ModelVersion, TrainingRun, public_config, public_metrics
from webapp.training.progress import log_lines, read_progress
from webapp.training.queue import places
from webapp.training.views import waiting_reason

router = ProjectRouter(tags=["training"])

MethodName = Literal["bt", "clf", "oprm", "rgft", "haf", "grm", "judge"]
StateName = Literal["queued", "running", "done", "failed", "cancelled", "lost"]


# --- Runs ---


class RunRow(Schema):
    """A training of one method. `percent` is of all phases; `version` is what it made, “same_as” the run that had made
    the same before.
    """

    id: int
    method: MethodName
    state: StateName
    trigger: str
    created_by: str | None
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    phase: str
    step: int
    total: int
    percent: int | None
    loss: float | None
    tokens_per_second: float | None
    cancel_requested: bool
    error: str
    labels_seen: int
    snapshot: int | None
    same_as: int | None
    version: int | None


class RunWhole(RunRow):
    """`position`: its place in the queue while it waits, from 1; `waiting`: why it does not move."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    live: dict[str, Any]
    tracking_url: str
    waiting: str
    position: int | None


def _run_row(run: TrainingRun) -> dict[str, Any]:
    version = getattr(run, "version", None)
    return {
        **{
            name: getattr(run, name)
            for name in RunRow.model_fields
            if name not in ("snapshot", "same_as", "version")
        },
        "id": run.pk,
        "created_by": run.created_by.username if run.created_by else None,
        "snapshot": run.snapshot_id,
        "same_as": run.same_as_id,
        "version": version.pk if version is not None else None,
    }


def _run_whole(request: ApiRequest, run: TrainingRun) -> dict[str, Any]:
    place = places([run], request.user).get(run.pk)
    return {
        **_run_row(run),
        "config": public_config(run.config),
        "metrics": public_metrics(run.metrics),
        "live": run.live,
        "tracking_url": run.tracking_link,
        "waiting": waiting_reason(run),
        "position": place.position if place else None,
    }


def _run(request: ApiRequest, slug: str, pk: int, needs: Literal["read", "admin"] = "read") -> TrainingRun:
    project = project_for(request, slug, needs)
    found: TrainingRun = get_object_or_404(project.runs.with_versions(), pk=pk)
    return found


@router.get("runs", auth=token("read"), response=Page[RunRow], summary="Runs, newest first")
def runs(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    rows = project.runs.with_versions().defer("metrics", "version__metrics")
    return paged(rows, cursor, limit, shown=lambda page: [_run_row(run) for run in page])


class RunNew(Given):
    """`options`: what this run sets otherwise than the project, by the names of docs/methods.md; null asks for the
    trainer's default.
    """

    method: MethodName
    options: dict[str, Any] = {}


@router.post("runs", auth=token("train"), response={202: RunWhole}, summary="Start a training")
def run_start(request: ApiRequest, slug: str, asked: RunNew) -> Status[dict[str, Any]]:
    """It is queued, and takes its snapshot when it begins. One that waits already with these settings is returned."""
    project = project_for(request, slug, "admin")
    try:
        run = services.run_start(
            project=project,
            method=asked.method,
            trigger=TrainingRun.Trigger.BUTTON,
            created_by=request.user,
            config=asked.options,
        )
    except RunRefused as refusal:
        raise _refused(refusal, "options.") from None
    return Status(202, _run_whole(request, _run(request, slug, run.pk)))


def _refused(refusal: RunRefused, below: str = "") -> Problem:
    field = refusal.field or ""
    return refused(
        [field_error(f"{below}{field}" if field in OPTIONS else field, str(refusal))], str(refusal)
    )


@router.get("runs/{key:pk}", auth=token("read"), response=RunWhole, summary="One run")
def run(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    return _run_whole(request, _run(request, slug, pk))


class Point(Schema):
    step: int
    value: float


class RunProgress(Schema):
    """How far a run is. `losses`: of the training; `validation`: of early stopping's looks; `rewards` and `kls`: of
    reinforcement. `left_seconds`: of the phase.
    """

    state: StateName
    phase: str
    step: int
    total: int
    percent: int | None
    loss: float | None
    left_seconds: float | None
    waiting: str
    error: str
    losses: list[Point]
    validation: list[Point]
    rewards: list[Point]
    kls: list[Point]


After = Annotated[int | None, Query(ge=0, lt=10**9, description="Only points of later steps.")]


@router.get("runs/{key:pk}/progress", auth=token("read"), response=RunProgress, summary="How far a run is")
def run_progress(request: ApiRequest, slug: str, pk: int, after: After = None) -> dict[str, Any]:
    """Asked again with the last step, it tells what is new. Of a long run a share of the points stands for all."""
    found = _run(request, slug, pk)
    progress = read_progress(found)

    def points(curve: list[tuple[int, float]]) -> list[dict[str, Any]]:
        return [{"step": step, "value": value} for step, value in curve if after is None or step > after]

    return {
        **{
            name: getattr(found, name)
            for name in ("state", "phase", "step", "total", "percent", "loss", "error")
        },
        "left_seconds": progress.left.total_seconds() if progress.left and found.is_active else None,
        "waiting": waiting_reason(found),
        "losses": points(progress.points),
        "validation": points(progress.validation),
        "rewards": points(progress.rewards),
        "kls": points(progress.kls),
    }


@router.get(
    "runs/{key:pk}/log",
    auth=token("read"),
    summary="A run's log",
    openapi_extra={"responses": {200: {"description": "All lines", "content": {"text/plain": {}}}}},
)
def run_log(request: ApiRequest, slug: str, pk: int) -> StreamingHttpResponse:
    """Without paths of the server. 404 before the run has written one."""
    found = _run(request, slug, pk)
    try:
        lines = log_lines(found)
    except OSError:
        raise Http404("This run has no log.") from None
    return StreamingHttpResponse(lines, content_type="text/plain; charset=utf-8")


@router.post("runs/{key:pk}/cancel", auth=token("train"), response=RunWhole, summary="Cancel a run")
def run_cancel(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """One that waits ends at once; one that runs is told, and its worker ends it."""
    found = _run(request, slug, pk, "admin")
    if not services.run_cancel(run=found, actor=request.user):
        raise Problem(
            409, "Not in this state", "The run has ended: there is nothing to cancel.", state=found.state
        )
    return _run_whole(request, _run(request, slug, pk))


class RunLimits(Given):
    """The budget from now on of a judge over an endpoint; null: no such limit. Left out: as it was."""

    cost_limit: float | None = None
    token_limit: int | None = None


@router.post("runs/{key:pk}/resume", auth=token("train"), response=RunWhole, summary="Resume a run")
def run_resume(request: ApiRequest, slug: str, pk: int, asked: RunLimits | None = None) -> dict[str, Any]:
    """A run that failed, was lost or cancelled goes on from its checkpoint, where there is one."""
    found = _run(request, slug, pk, "admin")
    try:
        moved = services.run_resume(
            run=found, actor=request.user, limits=asked.dict(exclude_unset=True) if asked else None
        )
    except RunRefused as refusal:
        raise _refused(refusal) from None
    if not moved:
        words = "The run runs already or is done, or the same training is queued: nothing was started."
        raise Problem(409, "Not in this state", words, state=found.state)
    return _run_whole(request, _run(request, slug, pk))


# --- Versions ---


class VersionRow(Schema):
    """What a finished run made. `name` is “oprm-3”; `there`: its files are on the disk.

    `gate_passed`: whether it may serve by itself; null before the gate has spoken.
    """

    id: int
    name: str
    method: MethodName
    number: int
    kind: Literal["scalar", "ordinal"]
    digest: str
    run: int
    there: bool
    is_serving: bool
    promoted_at: datetime | None
    gate_passed: bool | None
    gate_reason: str
    created_at: datetime
    packed_at: datetime | None


class VersionWhole(VersionRow):
    """`metrics`: metrics.json, without what it says of single people. `base_model_name`: what a training that goes on
    from it names as its base model.
    """

    metrics: dict[str, Any]
    tie: float | None
    temperature: float
    base_model_name: str


def _version_row(version: ModelVersion) -> dict[str, Any]:
    return {
        **{
            name: getattr(version, name)
            for name in VersionRow.model_fields
            if name not in ("id", "name", "run", "there")
        },
        "id": version.pk,
        "name": version.address,
        "run": version.run_id,
        "there": version.is_there,
    }


def _version_whole(version: ModelVersion) -> dict[str, Any]:
    return {
        **_version_row(version),
        "metrics": version.public_metrics,
        "tie": version.tie,
        "temperature": version.temperature,
        "base_model_name": version.start_name,
    }


def _version(
    request: ApiRequest, slug: str, pk: int, needs: Literal["read", "admin"] = "read"
) -> ModelVersion:
    project = project_for(request, slug, needs)
    return get_object_or_404(project.versions.select_related("run", "project"), pk=pk)


@router.get("versions", auth=token("read"), response=Page[VersionRow], summary="Versions, newest first")
def versions(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    rows = project.versions.defer("metrics")
    return paged(rows, cursor, limit, shown=lambda page: [_version_row(version) for version in page])


@router.get("versions/{key:pk}", auth=token("read"), response=VersionWhole, summary="One version")
def version(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    return _version_whole(_version(request, slug, pk))


@router.post(
    "versions/{key:pk}/promote", auth=token("train"), response=VersionWhole, summary="Let a version serve"
)
def version_promote(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """It serves its method in the project from now on; an older one than the serving one is a rollback."""
    found = _version(request, slug, pk, "admin")
    services.version_promote(version=found, actor=request.user)
    return _version_whole(_version(request, slug, pk))


class FileShown(Schema):
    name: str
    size: int
    sha256: str


@router.get(
    "versions/{key:pk}/files",
    auth=token("read", "score"),
    response=list[FileShown],
    summary="The files of a version",
    openapi_extra={"responses": CONFLICT},
)
def version_file_list(request: ApiRequest, slug: str, pk: int) -> list[ModelFile]:
    """What a reward server loads: weights, tokenizer, reward_config.json; below “base/” a base that no hub has."""
    return version_files(_version(request, slug, pk))


@router.get(
    "versions/{key:pk}/files/{path:name}",
    auth=token("read", "score"),
    summary="A file of a version",
    openapi_extra={
        "responses": {
            200: {"description": "The file", "content": {"application/octet-stream": {}}},
            206: {"description": "The rest of it", "content": {"application/octet-stream": {}}},
            **CONFLICT,
        }
    },
)
def version_file(request: ApiRequest, slug: str, pk: int, name: str) -> FileResponse:
    """One of the list. Its ETag is its sha256; “Range: bytes=N-” goes on where a download broke off."""
    found = _version(request, slug, pk)
    file = next((each for each in version_files(found) if each.name == name), None)
    if file is None:
        raise Http404("This version has no such file.")
    try:
        content = opened(file.content) if file.content is not None else file.path.open("rb")
    except OSError:
        raise Http404("The file is gone from the server's disk.") from None
    detail = {"method": found.method, "version": found.number, "file": name}
    audit(project=found.project, actor=request.user, action=Action.MODEL_DOWNLOADED, detail=detail)
    return file_response(request, content, name=name, size=file.size, sha256=file.sha256)


# --- What a reward server asks ---


class ServingVersion(Schema):
    id: int
    name: str
    method: str
    number: int
    kind: str
    digest: str
    promoted_at: datetime | None


class Serving(Schema):
    """`folder`: where its files lie below the data folder, for a server that shares it. `ask_back`: how scored
    rollouts are sampled for people; null: not at all.
    """

    version: ServingVersion
    folder: str
    files: list[FileShown]
    ask_back: dict[str, Any] | None


@router.get(
    "serving",
    auth=token("score"),
    response=Serving,
    summary="The version that serves",
    openapi_extra={"responses": {304: {"description": "The same as If-None-Match names"}, **CONFLICT}},
)
def serving(
    request: ApiRequest,
    slug: str,
    method: Annotated[MethodName | None, Query(description="Default: the first that serves.")] = None,
) -> HttpResponse:
    """What a reward server holds. Ask again with If-None-Match: 304 while it is the same."""
    project = project_for(request, slug, "read")
    serves = serving_versions(project)
    # A judge's critiques take too long for a reward server: it is served to whoever names it, never by itself.
    found = next(
        (each for each in serves if each.method == method or (not method and each.method not in GENERATIVE)),
        None,
    )
    if found is None:
        what = f"of {Method(method).label} " if method else ""
        raise Problem(
            404, "Nothing serves", f"No version {what}serves in this project. Promote one on its run's page."
        )
    answer = Serving(
        version={
            **{
                name: getattr(found, name)
                for name in ServingVersion.model_fields
                if name not in ("id", "name")
            },
            "id": found.pk,
            "name": found.address,
        },
        folder=f"runs/{found.run_id}/model",
        files=[
            {"name": each.name, "size": each.size, "sha256": each.sha256} for each in version_files(found)
        ],
        ask_back=settings_for(project),
    ).model_dump(mode="json")
    body = json.dumps(answer)
    etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    if etag in request.headers.get("If-None-Match", "").replace("W/", "").split(", "):
        return HttpResponse(status=304, headers={"ETag": etag})
    return HttpResponse(body, content_type="application/json", headers={"ETag": etag})
