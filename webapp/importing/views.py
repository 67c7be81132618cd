"""Pages of imports: the upload form with the history, one page per import, the description of the formats."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.models import Import, Project
from webapp.http import HtmxHttpRequest
from webapp.importing import services
from webapp.importing.addresses import MAX_LENGTH, AddressRefused
from webapp.importing.origins import MAX_NAME, origin_words
from webapp.importing.preview import preview_read
from webapp.importing.report import PROGRESS, SHOWN_ERRORS
from webapp.jobs import ProgressFile, State
from webapp.labels.models import Level, Verdict
from webapp.middleware import receives_files
from webapp.waiting import change_token, unless_seen, waiting_for_worker

PAGE_SIZE = 25
MAX_FILES = 10
FORMATS = Path(__file__).with_name("FORMATS.md")

_RECORD_NAMES = {
    "prompts": "prompts",
    "responses": "responses",
    "pairs": "pairs",
    "made": "pairs made of responses",
    "annotators": "annotators",
    "votes": "verdicts",
    "levels": "quality levels",
}


# Formats that the page tells of by themselves; the others are as somebody publishes them.
_OUR_OWN = {Import.Format.AUTO, Import.Format.MAPPED, Import.Format.CALIPER, Import.Format.TRL}


class _ManyFiles(forms.ClearableFileInput):
    allow_multiple_selected = True


class FilesField(forms.FileField):
    """One file or several, together at most settings.MAX_UPLOAD_BYTES."""

    widget = _ManyFiles
    max_files = MAX_FILES
    or_else = ", or use manage.py import_data"

    def clean(self, data: Any, initial: Any = None) -> Any:
        files = [super(FilesField, self).clean(file, initial) for file in (data or [None])]
        if len(files) > self.max_files:
            raise forms.ValidationError(f"At most {self.max_files} files at a time: choose fewer.")
        size = sum(file.size for file in files)
        if size > settings.MAX_UPLOAD_BYTES:
            raise forms.ValidationError(
                f"{size / 2**20:,.0f} MB is more than the {settings.MAX_UPLOAD_BYTES // 2**20} MB allowed. "
                f"Split the file or compress it (.gz){self.or_else}."
            )
        return files


class ImportForm(forms.Form):
    uploads = FilesField(
        label="Files",
        help_text="CSV, TSV, JSON Lines, a JSON list or Parquet, each also packed (.gz), or a .zip of such files.",
    )
    format = forms.ChoiceField(choices=Import.Format.choices, initial=Import.Format.AUTO)

    def uploaded(self) -> list[UploadedFile]:
        return self.cleaned_data["uploads"]


class AddressForm(forms.Form):
    address = forms.CharField(
        label="Address", max_length=MAX_LENGTH, widget=forms.TextInput(attrs={"spellcheck": "false"})
    )
    config = forms.CharField(label="Config", required=False, max_length=MAX_NAME)
    split = forms.CharField(label="Split", required=False, max_length=MAX_NAME)
    revision = forms.CharField(label="Revision", required=False, max_length=100)


def _imports(project: Project) -> Any:
    return project.imports.select_related("created_by")


@receives_files("admin")
@require_http_methods(["GET", "HEAD", "POST"])
def imports(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "admin")
    form = (
        ImportForm(request.POST or None, request.FILES or None) if request.method == "POST" else ImportForm()
    )
    if request.method == "POST" and form.is_valid():
        try:
            row = services.import_start(
                project=project,
                files=form.uploaded(),
                format=form.cleaned_data["format"],
                created_by=request.user,
            )
        except OSError as error:
            form.add_error(
                "uploads", f"The server could not keep the file ({error.strerror}). Tell its admin."
            )
        else:
            return redirect("importing:import", project.slug, row.pk)
    given = {name: request.GET.get(name, "")[:MAX_LENGTH] for name in AddressForm.base_fields}
    return _imports_page(request, project, form, AddressForm(initial=given))


@require_POST
def import_from(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Queue an import whose files lie on a hub or in a store."""
    project = project_for(request, slug, "admin")
    form = AddressForm(request.POST)
    if form.is_valid():
        try:
            row = services.import_from(project=project, created_by=request.user, **form.cleaned_data)
        except AddressRefused as refusal:
            form.add_error(refusal.field, str(refusal))
        else:
            return redirect("importing:import", project.slug, row.pk)
    # The other form stands above it.
    form.fields[next(iter(form.errors))].widget.attrs["autofocus"] = True
    return _imports_page(request, project, ImportForm(), form)


def _imports_page(
    request: HtmxHttpRequest, project: Project, form: ImportForm, address_form: AddressForm
) -> HttpResponse:
    page = Paginator(_imports(project), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "address_form": address_form,
        "hub": settings.HUB,
        "stores": settings.STORES,
        "page": page,
        "max_mb": settings.MAX_UPLOAD_BYTES // 2**20,
        "published": [format.label for format in Import.Format if format not in _OUR_OWN],
    }
    return render(
        request, "importing/imports.html", context, status=400 if form.errors or address_form.errors else 200
    )


def _context(project: Project, pk: int) -> dict[str, Any]:
    row: Import = get_object_or_404(_imports(project), pk=pk)
    step, total = row.step, row.total
    if row.state == State.RUNNING and row.phase in ("writing", Import.IN_BATCHES):
        step, total = ProgressFile(settings.DATA_DIR / row.folder / PROGRESS).read() or (step, total)
    other = row.waits_for
    waiting = f"Waits for import {other} of this project, and begins when that one ends." if other else ""
    waiting = waiting or waiting_for_worker(row)
    counts = row.report.get("counts", {})
    labels = dict(Verdict.choices) | dict(Level.choices)
    is_here = not row.origin or bool(row.origin.get("files"))
    return {
        "row": row,
        "origin": origin_words(row.origin) if row.origin else "",
        "asked": urlencode({name: row.origin[name] for name in AddressForm.base_fields})
        if row.origin
        else "",
        "is_here": is_here,
        "step": step,
        "total": total,
        "percent": min(100, 100 * step // total) if total else None,
        "waiting": waiting,
        "report": row.report,
        "counts": [
            (name, counts[record_type])
            for record_type, name in _RECORD_NAMES.items()
            if record_type in counts
        ],
        "says": [
            (
                _RECORD_NAMES[record_type],
                [(labels.get(what, what), number) for what, number in sorted(found.items())],
            )
            for record_type, found in row.report.get("says", {}).items()
        ],
        "preview": [] if row.is_active else preview_read(settings.DATA_DIR / row.folder),
        "asks": row.wants_mapping,
        "can_map": row.dry_run and not row.is_active and is_here,
        "can_undo": row.state == State.DONE and not row.dry_run and row.undone_at is None,
        "can_discard": row.can_requeue or row.is_preview,
        "anything_new": any(found["new"] or found["changed"] for found in counts.values()),
        "more_errors": max(0, row.report.get("left_out", 0) - SHOWN_ERRORS),
        "has_error_file": row.error_file().is_file() and row.error_file().stat().st_size > 0,
        "is_preview": row.is_preview,
        "token": change_token(
            row.state, row.dry_run, row.phase, step, total, row.cancel_requested, row.error, waiting
        ),
    }


@require_safe
def import_page(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    return render(request, "importing/import.html", _context(project, pk))


@require_safe
def import_progress(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """The changing part of an import's page; 204 while nothing changed since the `token` the page has."""
    project = project_for(request, slug, "admin")
    context = _context(project, pk)
    if not request.htmx:
        return redirect("importing:import", project.slug, pk)
    return unless_seen(request, context["token"], "importing/import.html#progress", context)


@require_POST
def import_confirm(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    row = get_object_or_404(_imports(project), pk=pk)
    if not services.import_confirm(import_row=row, actor=request.user):
        messages.warning(request, "Nothing was started: this import isn't a finished preview (any more).")
    return redirect("importing:import", project.slug, pk)


@require_POST
def import_cancel(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    if not services.import_cancel(import_row=get_object_or_404(_imports(project), pk=pk), actor=request.user):
        messages.warning(request, "There was nothing to cancel: the import has ended.")
    return redirect("importing:import", project.slug, pk)


@require_POST
def import_retry(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    if not services.import_retry(import_row=get_object_or_404(_imports(project), pk=pk), actor=request.user):
        messages.warning(request, "Nothing was started: the import runs or is done.")
    return redirect("importing:import", project.slug, pk)


@require_safe
def import_errors(request: HtmxHttpRequest, slug: str, pk: int) -> FileResponse:
    """The rows that were left out, one JSON object a line."""
    project = project_for(request, slug, "admin")
    row: Import = get_object_or_404(_imports(project), pk=pk)
    try:
        file = row.error_file().open("rb")
    except OSError:
        raise Http404("No rows were left out.") from None
    return FileResponse(
        file, as_attachment=True, filename=f"import-{pk}-errors.jsonl", content_type="application/jsonl"
    )


@require_safe
def import_formats(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project_for(request, slug, "member")
    return render(request, "importing/import_formats.html", {"text": FORMATS.read_text(encoding="utf-8")})
