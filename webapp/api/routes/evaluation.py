"""Evaluation sets: benchmarks that versions are measured on and never trained on."""

from datetime import datetime
from typing import Any, Literal

from django.shortcuts import get_object_or_404
from django.utils.datastructures import MultiValueDict
from ninja import File, Form, Schema, Status
from ninja.files import UploadedFile

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, field_error, form_refused, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import Given, Key
from webapp.benchmarks import services
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.benchmarks.views import SetForm
from webapp.corpus.access import project_for
from webapp.jobs import State
from webapp.middleware import receives_files
from webapp.waiting import waiting_for_worker

router = ProjectRouter(tags=["evaluation sets"])

StateName = Literal["queued", "running", "done", "failed", "cancelled", "lost"]


class SetRow(Schema):
    """`state` is of its reading; once it is done, `format`, `items` (prompts) and `subsets` say what was found.

    `refused`: rows that can't be read.
    """

    id: int
    name: str
    state: StateName
    error: str
    format: str
    files: list[str]
    digest: str
    items: int
    responses: int
    subsets: dict[str, int]
    people_tied: int
    refused: int
    created_by: str | None
    created_at: datetime


class SetWhole(SetRow):
    """`refusals`: the first rows that can't be read, and why. `waiting`: why its reading does not begin."""

    waiting: str
    refusals: list[Any]


class MeasurementRow(Schema):
    """A version on a set. `overall`: the value with its interval and count; `length`: of preferring the longer one."""

    id: int
    version: int
    version_name: str
    state: StateName
    percent: int | None
    error: str
    overall: dict[str, Any]
    near_duplicates: int | None
    result: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None


def _row(row: EvaluationSet) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in SetRow.model_fields if name != "id"},
        "id": row.pk,
        "created_by": row.created_by.username if row.created_by else None,
    }


def _whole(row: EvaluationSet) -> dict[str, Any]:
    return {**_row(row), "waiting": waiting_for_worker(row), "refusals": row.refusals}


def _set(request: ApiRequest, slug: str, pk: int) -> EvaluationSet:
    project = project_for(request, slug, "read")
    rows = project.evaluation_sets.select_related("created_by", "project")
    found: EvaluationSet = get_object_or_404(rows, pk=pk)
    return found


def _measured(row: Measurement) -> dict[str, Any]:
    same = ("state", "percent", "error", "overall", "near_duplicates", "result", "created_at", "finished_at")
    return {
        **{name: getattr(row, name) for name in same},
        "id": row.pk,
        "version": row.version_id,
        "version_name": row.version.address,
    }


@router.get(
    "evaluation-sets", auth=token("read"), response=Page[SetRow], summary="Evaluation sets, newest first"
)
def sets(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    rows = project.evaluation_sets.select_related("created_by").defer("refusals")
    return paged(rows, cursor, limit, shown=lambda page: [_row(row) for row in page])


@router.post(
    "evaluation-sets", auth=token("write"), response={202: SetWhole}, summary="Add an evaluation set"
)
@receives_files("read")
def set_add(
    request: ApiRequest, slug: str, name: Form[str], files: File[list[UploadedFile]]
) -> Status[dict[str, Any]]:
    """Upload all files of one benchmark (multipart, field `files`); a worker reads them."""
    project = project_for(request, slug, "read")
    form = SetForm({"name": name}, MultiValueDict({"uploads": files}))
    if not form.is_valid():
        raise form_refused(form, {"uploads": "files"})
    try:
        row = services.set_add(
            project=project,
            name=form.cleaned_data["name"],
            files=form.cleaned_data["uploads"],
            created_by=request.user,
        )
    except OSError as error:
        raise Problem(
            503, "The file could not be kept", f"{error.strerror}. Tell the server's admin."
        ) from None
    return Status(202, _whole(row))


@router.get("evaluation-sets/{key:pk}", auth=token("read"), response=SetWhole, summary="One evaluation set")
def evaluation_set(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    return _whole(_set(request, slug, pk))


@router.delete("evaluation-sets/{key:pk}", auth=token("write"), response={204: None}, summary="Delete a set")
def set_delete(request: ApiRequest, slug: str, pk: int) -> Status[None]:
    """With its files, and what was measured on it."""
    services.set_delete(row=_set(request, slug, pk), actor=request.user)
    return Status(204, None)


@router.post(
    "evaluation-sets/{key:pk}/retry", auth=token("write"), response=SetWhole, summary="Read a set again"
)
def set_retry(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """For one whose reading failed, was lost or cancelled."""
    row = _set(request, slug, pk)
    if not services.set_retry(row=row):
        raise Problem(
            409, "Not in this state", "Its reading has not failed: nothing was started.", state=row.state
        )
    return _whole(_set(request, slug, pk))


@router.get(
    "evaluation-sets/{key:pk}/measurements",
    auth=token("read"),
    response=Page[MeasurementRow],
    summary="How versions do on a set",
)
def measurements(
    request: ApiRequest, slug: str, pk: int, limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    rows = _set(request, slug, pk).measurements.with_versions()
    return paged(rows, cursor, limit, shown=lambda page: [_measured(row) for row in page])


class MeasurementNew(Given):
    version: Key


@router.post(
    "evaluation-sets/{key:pk}/measurements",
    auth=token("train"),
    response={202: MeasurementRow},
    summary="Measure a version",
)
def measurement_start(
    request: ApiRequest, slug: str, pk: int, asked: MeasurementNew
) -> Status[dict[str, Any]]:
    """One that is there is returned as it is; one that failed is tried again."""
    row = _set(request, slug, pk)
    if row.state != State.DONE:
        raise Problem(
            409,
            "Not read yet",
            "The set has to be read first: wait until its state is done.",
            state=row.state,
        )
    version = row.project.versions.unpacked().of_key(asked.version)
    if version is None:
        words = "There is no such version, or its model is not on the disk. Choose another one."
        raise refused([field_error("version", words)])
    return Status(202, _measured(services.measurement_start(evaluation_set=row, version=version)))


@router.post(
    "evaluation-sets/{key:pk}/measurements/{key:measurement}/cancel",
    auth=token("train"),
    response=MeasurementRow,
    summary="Cancel a measurement",
)
def measurement_cancel(request: ApiRequest, slug: str, pk: int, measurement: int) -> dict[str, Any]:
    rows = _set(request, slug, pk).measurements.with_versions()
    found: Measurement = get_object_or_404(rows, pk=measurement)
    if not found.request_cancel():
        raise Problem(
            409, "Not in this state", "It has ended: there is nothing to cancel.", state=found.state
        )
    found.refresh_from_db()
    return _measured(found)
