"""Imports: files or an address in, a preview, and after a confirmation the rows. As on the import pages, for admins."""

from datetime import datetime
from typing import Any, Literal

from django.conf import settings
from django.http import FileResponse, Http404
from django.shortcuts import get_object_or_404
from django.utils.datastructures import MultiValueDict
from ninja import Field, File, Form, Schema, Status
from ninja.files import UploadedFile

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, field_error, form_refused, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import CONFLICT, Given
from webapp.corpus.access import project_for
from webapp.corpus.models import Import
from webapp.importing import services, undoing
from webapp.importing.addresses import AddressRefused
from webapp.importing.mapping import MEANINGS, ROLES, Mapping
from webapp.importing.preview import preview_read
from webapp.importing.survey import survey_read, winner_values
from webapp.importing.views import ImportForm
from webapp.middleware import receives_files
from webapp.waiting import waiting_for_worker

router = ProjectRouter(tags=["imports"])


class ImportRow(Schema):
    """An import. With `dry_run` it is a preview: nothing is written before it is confirmed.

    `asks`: the files are in no known format, and somebody has to say which column is what (see mapping).
    """

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    dry_run: bool
    asks: bool
    phase: str
    step: int
    total: int
    error: str
    file_name: str
    origin: dict[str, Any]
    format: str
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    undone_at: datetime | None


class ImportWhole(ImportRow):
    """`report`: what was found, new, left out and why. `preview`: the first items as they will be stored.

    `waiting`: why it does not begin.
    """

    waiting: str
    report: dict[str, Any]
    preview: list[dict[str, Any]]


def _row(row: Import) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in ImportRow.model_fields if hasattr(row, name)},
        "asks": row.wants_mapping,
        "created_by": row.created_by.username if row.created_by else None,
    }


def _whole(row: Import) -> dict[str, Any]:
    preview = [] if row.is_active else preview_read(settings.DATA_DIR / row.folder)
    waiting = waiting_for_worker(row)
    return {**_row(row), "waiting": waiting, "report": row.report, "preview": preview}


def _import(request: ApiRequest, slug: str, pk: int) -> Import:
    project = project_for(request, slug, "admin")
    found: Import = get_object_or_404(project.imports.select_related("created_by", "project"), pk=pk)
    return found


def _moved(moved: bool, row: Import, otherwise: str) -> dict[str, Any]:
    """The import after an act; 409 if it was in no state for it."""
    if not moved:
        raise Problem(409, "Not in this state", otherwise, state=row.state)
    row.refresh_from_db()
    return _whole(row)


@router.get("imports", auth=token("read"), response=Page[ImportRow], summary="Imports")
def imports(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    """The newest first."""
    project = project_for(request, slug, "admin")
    rows = project.imports.select_related("created_by")
    return paged(rows, cursor, limit, shown=lambda page: [_row(row) for row in page])


@router.post("imports", auth=token("write"), response={202: ImportWhole}, summary="Import files")
@receives_files("admin")
def import_start(
    request: ApiRequest,
    slug: str,
    files: File[list[UploadedFile]],
    format: Form[str] = Import.Format.AUTO.value,
) -> Status[dict[str, Any]]:
    """Upload files (multipart, field `files`); a worker reads them and makes a preview. Ask for it until it is done."""
    project = project_for(request, slug, "admin")
    form = ImportForm({"format": format}, MultiValueDict({"uploads": files}))
    if not form.is_valid():
        raise form_refused(form, {"uploads": "files"})
    try:
        row = services.import_start(
            project=project, files=form.uploaded(), format=format, created_by=request.user
        )
    except OSError as error:
        raise Problem(
            503, "The file could not be kept", f"{error.strerror}. Tell the server's admin."
        ) from None
    return Status(202, _whole(row))


class Address(Given):
    """`hf://datasets/ORG/NAME`, or an address in a store that the operator allows."""

    address: str = Field(max_length=1000)
    config: str = Field("", max_length=200)
    split: str = Field("", max_length=200)
    revision: str = Field("", max_length=200)


@router.post(
    "imports/address", auth=token("write"), response={202: ImportWhole}, summary="Import from an address"
)
def import_address(request: ApiRequest, slug: str, asked: Address) -> Status[dict[str, Any]]:
    """A worker fetches the files, and goes on as with uploaded ones."""
    project = project_for(request, slug, "admin")
    try:
        row = services.import_from(project=project, created_by=request.user, **asked.dict())
    except AddressRefused as refusal:
        raise refused([field_error(refusal.field, str(refusal))]) from None
    return Status(202, _whole(row))


@router.get("imports/{key:pk}", auth=token("read"), response=ImportWhole, summary="One import")
def import_get(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    return _whole(_import(request, slug, pk))


@router.delete("imports/{key:pk}", auth=token("write"), response={204: None}, summary="Throw a preview away")
def import_discard(request: ApiRequest, slug: str, pk: int) -> Status[None]:
    """A preview, or an import that failed, goes with its files. What was imported is taken back by undo."""
    row = _import(request, slug, pk)
    if not undoing.import_discard(import_row=row, actor=request.user):
        raise Problem(
            409, "Not in this state", "This import runs, or it is done: undo takes a done one back."
        )
    return Status(204, None)


@router.get(
    "imports/{key:pk}/errors",
    auth=token("read"),
    summary="Rows that were left out",
    openapi_extra={
        "responses": {200: {"description": "One JSON object a line", "content": {"application/jsonl": {}}}}
    },
)
def import_errors(request: ApiRequest, slug: str, pk: int) -> FileResponse:
    """One JSON object a line: file, row, field, message, remedy. 404 if no row was left out."""
    row = _import(request, slug, pk)
    try:
        file = row.error_file().open("rb")
    except OSError:
        raise Http404("No rows were left out.") from None
    return FileResponse(
        file, as_attachment=True, filename=f"import-{pk}-errors.jsonl", content_type="application/jsonl"
    )


@router.post("imports/{key:pk}/confirm", auth=token("write"), response=ImportWhole, summary="Import for real")
def import_confirm(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """A finished preview is queued to be written."""
    row = _import(request, slug, pk)
    moved = services.import_confirm(import_row=row, actor=request.user)
    return _moved(moved, row, "This import is no finished preview (any more): nothing was started.")


@router.post("imports/{key:pk}/cancel", auth=token("write"), response=ImportWhole, summary="Cancel an import")
def import_cancel(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    row = _import(request, slug, pk)
    moved = services.import_cancel(import_row=row, actor=request.user)
    return _moved(moved, row, "The import has ended: there is nothing to cancel.")


@router.post("imports/{key:pk}/retry", auth=token("write"), response=ImportWhole, summary="Try again")
def import_retry(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """An import that failed, was lost or cancelled is queued again."""
    row = _import(request, slug, pk)
    moved = services.import_retry(import_row=row, actor=request.user)
    return _moved(moved, row, "The import runs or is done: nothing was started.")


@router.post(
    "imports/{key:pk}/undo", auth=token("write"), response=ImportWhole, summary="Take an import back"
)
def import_undo(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """Exactly the rows that it wrote go. 409 says who relies on them, if anybody does."""
    row = _import(request, slug, pk)
    undoing.import_undo(import_row=row, actor=request.user)
    row.refresh_from_db()
    return _whole(row)


# --- Which column is what ---


class MappingIn(Given):
    """`roles` has every column of the files; one that is not used has the role "".

    `winner`: what each value of the winner columns means, by the keys of `values`. `ratings`: what ratings become.
    """

    roles: dict[str, str]
    winner: dict[str, str] = {}
    ratings: str = "levels"
    bad_to: float | None = None
    normal_to: float | None = None
    difference: float = 1.0
    annotator: str = "imported"


class MappingShown(Schema):
    """The columns as they were found, a mapping to begin with, and the words that may be said.

    `values`: the values of its winner columns, by key; null where there are too many to ask about.
    """

    columns: dict[str, dict[str, Any]]
    rows: int
    mapping: dict[str, Any]
    values: dict[str, str] | None
    roles: dict[str, str]
    meanings: dict[str, str]


def _found(row: Import) -> dict[str, Any]:
    found = survey_read(settings.DATA_DIR / row.folder)
    if found is None or row.is_active or not row.dry_run:
        raise Problem(
            409,
            "Its columns were not read",
            "Only a preview's columns can be named. Send ask to have them read, and wait until it is done.",
            state=row.state,
        )
    return found


@router.get(
    "imports/{key:pk}/mapping",
    auth=token("read"),
    response=MappingShown,
    summary="The columns of a preview",
    openapi_extra={"responses": CONFLICT},
)
def import_mapping(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """What the columns hold, and which is probably what."""
    row = _import(request, slug, pk)
    found = _found(row)
    mapping, _ = services.mapping_offered(row, found)
    return {
        "columns": found["columns"],
        "rows": found["rows"],
        "mapping": mapping.as_json(),
        "values": winner_values(mapping, found),
        "roles": ROLES,
        "meanings": MEANINGS,
    }


@router.put(
    "imports/{key:pk}/mapping", auth=token("write"), response=ImportWhole, summary="Say which column is what"
)
def import_map(request: ApiRequest, slug: str, pk: int, asked: MappingIn) -> dict[str, Any]:
    """A new preview is made by the mapping."""
    row = _import(request, slug, pk)
    found = _found(row)
    mapping = Mapping.from_json(asked.dict())
    errors = mapping.errors() | _word_errors(mapping, found)
    if errors:
        raise refused(field_error(name, text) for name, text in errors.items())
    moved = services.import_map(import_row=row, mapping=mapping, actor=request.user)
    return _moved(moved, row, "This import is no preview (any more): nothing was started.")


def _word_errors(mapping: Mapping, found: dict[str, Any]) -> dict[str, str]:
    """What the page's form can't send: unknown columns, roles and meanings; and values without a meaning."""
    columns = set(found["columns"])
    errors = {
        f"roles.{name}": "There is no such column. Leave it out."
        for name in mapping.roles
        if name not in columns
    }
    errors |= {
        f"roles.{name}": f"There is no role “{role}”. Known: {', '.join(ROLES)}."
        for name, role in mapping.roles.items()
        if role and role not in ROLES
    }
    best = {f"r{number}" for number in range(1, 21)}
    errors |= {
        f"winner.{key}": f"There is no meaning “{meaning}”. Known: {', '.join(MEANINGS)}, and r1 to r20."
        for key, meaning in mapping.winner.items()
        if meaning not in MEANINGS and meaning not in best
    }
    errors |= {
        f"winner.{key}": f"Say what “{shown}” means."
        for key, shown in (winner_values(mapping, found) or {}).items()
        if key and key not in mapping.winner
    }
    return errors


@router.post(
    "imports/{key:pk}/ask", auth=token("write"), response=ImportWhole, summary="Have the columns read"
)
def import_ask(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """For a preview that was taken for something else."""
    row = _import(request, slug, pk)
    moved = services.import_ask(import_row=row, actor=request.user)
    return _moved(moved, row, "This import is no preview (any more): nothing was started.")
