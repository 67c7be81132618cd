"""Snapshots, and the labels in the formats of the export page: streamed, or as files that a worker makes."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import FileResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Schema, Status

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, field_error, form_refused, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import CONFLICT, Given
from webapp.corpus.access import project_for
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Project
from webapp.jobs import ProgressFile, State
from webapp.snapshots import exporting
from webapp.snapshots.data_card import changed_words, left_out_words
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.models import Export, Snapshot
from webapp.snapshots.streaming import export_stream, stream_check
from webapp.snapshots.views import ExportForm, export_file
from webapp.waiting import waiting_for_worker

router = ProjectRouter(tags=["exports"])

LABELS_HEADER = "Caliper-Labels"
"""Names the state of the labels that an export holds: equal ones hold the same labels."""


# --- Snapshots ---


class SnapshotRow(Schema):
    """A frozen copy of the labels; equal digests mean equal labels. `counts`: prompts, responses, judgements, levels,
    annotators.
    """

    id: int
    digest: str
    counts: dict[str, int]
    created_at: datetime


class SnapshotWhole(SnapshotRow):
    """`manifest` is null where its files are gone from the disk."""

    manifest: dict[str, Any] | None
    runs: list[int]


class ExportRow(Schema):
    """A data set that a worker makes. `files` and `archive` can be downloaded once it is done."""

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    step: int
    total: int
    error: str
    format: str
    file_type: str
    aggregation: str
    superseded: bool
    safe_for_spreadsheets: bool
    version: str
    created_by: str | None
    created_at: datetime
    finished_at: datetime | None
    rows: int | None
    left_out: list[str]
    changed: list[str]
    snapshot: str | None
    files: list[str]
    archive: str | None


class ExportJob(ExportRow):
    """`waiting`: why it does not begin."""

    waiting: str


@router.get("snapshots", auth=token("read"), response=Page[SnapshotRow], summary="Snapshots, newest first")
def snapshots(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    return paged(project.snapshots.all(), cursor, limit)


@router.get("snapshots/{key:pk}", auth=token("read"), response=SnapshotWhole, summary="One snapshot")
def snapshot(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """With its manifest: the tables, their rows and checksums. `runs` were trained on it."""
    project = project_for(request, slug, "read")
    found: Snapshot = get_object_or_404(project.snapshots, pk=pk)
    try:
        manifest = json.loads((found.path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    return {
        **{name: getattr(found, name) for name in SnapshotRow.model_fields if name != "id"},
        "id": found.pk,
        "manifest": manifest,
        "runs": list(found.runs.values_list("pk", flat=True)),
    }


@router.post("snapshots", auth=token("write"), response={202: ExportJob}, summary="Take a snapshot")
def snapshot_take(request: ApiRequest, slug: str) -> Status[dict[str, Any]]:
    """A worker takes it while it exports the judgements as Parquet: this is that job, and tells the digest once done.

    While the labels stay the same, so does the snapshot.
    """
    project = project_for(request, slug, "read")
    row = exporting.export_start(export_row=Export(), project=project, created_by=request.user)
    return Status(202, _job(row))


# --- Jobs ---


class ExportAsked(Given):
    """What the export page asks. `version`: of format predictions, such as “oprm-3”; empty for those that serve."""

    format: str = Export.Format.JUDGEMENTS.value
    file_type: Literal["parquet", "jsonl", "csv"] = "parquet"
    aggregation: Literal["vote", "majority"] = "majority"
    superseded: bool = False
    safe_for_spreadsheets: bool = False
    version: str = Field("", max_length=40)


def _job(row: Export) -> dict[str, Any]:
    return {**_job_row(row), "waiting": waiting_for_worker(row)}


def _job_row(row: Export) -> dict[str, Any]:
    step, total = row.step, row.total
    if row.state == State.RUNNING:
        step, total = ProgressFile(row.progress_path).read() or (step, total)
    there = row.state == State.DONE and row.folder.is_dir()
    return {
        **{name: getattr(row, name) for name in ExportRow.model_fields if hasattr(row, name)},
        "step": step,
        "total": total,
        "created_by": row.created_by.username if row.created_by else None,
        "rows": row.report.get("rows"),
        "left_out": left_out_words(row.report.get("left_out", {})),
        "changed": changed_words(row.report.get("changed", {})),
        "snapshot": row.report.get("snapshot"),
        "files": [file["name"] for file in row.report.get("files", [])] if there else [],
        "archive": f"{exporting.archive_name(row)}.zip" if there else None,
    }


def _jobs(project: Project) -> Any:
    return project.exports.select_related("created_by", "project")


@router.get(
    "exports/jobs", auth=token("read"), response=Page[ExportRow], summary="Exports made, newest first"
)
def export_jobs(
    request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    return paged(_jobs(project), cursor, limit, shown=lambda page: [_job_row(row) for row in page])


@router.post("exports/jobs", auth=token("write"), response={202: ExportJob}, summary="Have an export made")
def export_start(request: ApiRequest, slug: str, asked: ExportAsked) -> Status[dict[str, Any]]:
    """A worker writes the data set with its data card; ask for the job until it is done."""
    project = project_for(request, slug, "read")
    form = ExportForm(project, asked.dict())
    if not form.is_valid():
        raise form_refused(form)
    row = exporting.export_start(export_row=form.save(commit=False), project=project, created_by=request.user)
    return Status(202, _job(row))


@router.get("exports/jobs/{key:pk}", auth=token("read"), response=ExportJob, summary="One export")
def export_job(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    project = project_for(request, slug, "read")
    return _job(get_object_or_404(_jobs(project), pk=pk))


@router.get(
    "exports/jobs/{key:pk}/files/{path:name}",
    auth=token("read"),
    summary="A file of an export",
    openapi_extra={
        "responses": {200: {"description": "The file", "content": {"application/octet-stream": {}}}}
    },
)
def export_download(request: ApiRequest, slug: str, pk: int, name: str) -> FileResponse:
    """One of its `files`, or its `archive` with all of them."""
    project = project_for(request, slug, "read")
    export: Export = get_object_or_404(_jobs(project), pk=pk, state=State.DONE)
    file = export_file(export, name)
    detail = {"export": pk, "file": name}
    audit(project=project, actor=request.user, action=Action.EXPORT_DOWNLOADED, detail=detail)
    return FileResponse(file, as_attachment=True, filename=name.rpartition("/")[2])


# --- Streams ---


class FormatShown(Schema):
    """`columns`: what each of them holds. `aggregates`: whether the votes of a pair may be gathered."""

    name: str
    label: str
    help: str
    file_types: list[str]
    aggregates: bool
    columns: dict[str, str]
    versions: list[str]


@router.get("exports", auth=token("read"), response=list[FormatShown], summary="The formats of exports")
def export_formats(request: ApiRequest, slug: str) -> list[dict[str, Any]]:
    """`versions`: whose predictions there are, where the format is of one version."""
    project = project_for(request, slug, "read")
    return [
        {
            **{name: getattr(made, name) for name in FormatShown.model_fields if name != "versions"},
            "versions": [name for name, _ in made.versions(project)] if made.versions else [],
        }
        for made in FORMATS.values()
    ]


class Streams(Schema):
    """How an export is written. `version`: of format predictions; empty for those that serve."""

    file_type: Literal["jsonl", "csv"] = "jsonl"
    aggregation: Literal["vote", "majority"] = "majority"
    superseded: bool = False
    safe_for_spreadsheets: bool = False
    version: str = Field("", max_length=40)


def _check(project: Project, format: str, asked: Streams) -> None:
    try:
        stream_check(project, format=format, file_type=asked.file_type, version=asked.version)
    except exporting.ExportRefused as refusal:
        if format not in FORMATS:
            raise Problem(404, "No such format", str(refusal)) from None
        if project.imports.unfinished().exists():
            raise Problem(409, "An import is being written", str(refusal)) from None
        is_type = asked.file_type not in FORMATS[format].file_types
        raise refused([field_error("file_type" if is_type else "version", str(refusal))]) from None


@router.get(
    "exports/{slug:format}",
    auth=token("read"),
    summary="An export, streamed",
    openapi_extra={
        "responses": {
            200: {
                "description": "The rows as they are read, in pieces; a stream that was cut lacks its last one",
                "content": {"application/jsonl": {}, "text/csv": {}},
            },
            **CONFLICT,
        }
    },
)
def export_streamed(
    request: ApiRequest, slug: str, format: str, asked: Query[Streams]
) -> StreamingHttpResponse:
    """The rows of all labels as they are at one moment. What has no place in the format is told by its card; both
    name the state of the labels (header Caliper-Labels).
    """
    project = project_for(request, slug, "read")
    _check(project, format, asked)
    detail = {"format": format, **asked.dict()}
    audit(project=project, actor=request.user, action=Action.EXPORT_DOWNLOADED, detail=detail)
    # Behind all that writes: while it reads, the database takes nothing from this request.
    begun = export_stream(project=project, format=format, **asked.dict())
    kind = "text/csv; charset=utf-8" if asked.file_type == "csv" else "application/jsonl"
    response = StreamingHttpResponse(begun.chunks, content_type=kind)
    response[LABELS_HEADER] = begun.labels
    response["Content-Disposition"] = f'attachment; filename="{project.slug}-{format}.{asked.file_type}"'
    return response


class Card(Schema):
    """What an export holds. `left_out`: labels that have no place in the format; `changed`: rows that are in it, but
    not as they are stored; both by reason, with the same in words.
    """

    format: str
    description: str
    again: str
    columns: dict[str, str]
    rows: int
    left_out: dict[str, int]
    left_out_words: list[str]
    changed: dict[str, int]
    changed_words: list[str]
    labels: Annotated[str, Field(description="As the stream's header Caliper-Labels.")]


@router.get(
    "exports/{slug:format}/card",
    auth=token("read"),
    response=Card,
    summary="What an export holds",
    openapi_extra={"responses": CONFLICT},
)
def export_card(request: ApiRequest, slug: str, format: str, asked: Query[Streams]) -> dict[str, Any]:
    """The counts of the same export: its rows are read once more, so it takes as long."""
    project = project_for(request, slug, "read")
    _check(project, format, asked)
    begun = export_stream(project=project, format=format, **asked.dict())
    for _ in begun.chunks:
        pass
    made = FORMATS[format]
    left_out, changed = dict(+begun.left_out), dict(+begun.changed)
    return {
        "format": format,
        "description": made.description.strip(),
        "again": made.again,
        "columns": made.columns,
        "rows": begun.rows,
        "left_out": left_out,
        "left_out_words": left_out_words(left_out),
        "changed": changed,
        "changed_words": changed_words(changed),
        "labels": begun.labels,
    }
