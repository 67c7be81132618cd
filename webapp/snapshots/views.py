"""The export page: a form, the exports made so far with their progress, and their downloads."""

from typing import Any, BinaryIO

from django import forms
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.corpus.access import project_for
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.jobs import ProgressFile, State
from webapp.snapshots import exporting
from webapp.snapshots.data_card import changed_words, left_out_words
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.models import Export
from webapp.waiting import change_token, unless_seen, waiting_for_worker

PAGE_SIZE = 15


class ExportForm(forms.ModelForm):
    version = forms.ChoiceField(label="Predictions of", required=False)

    class Meta:
        model = Export
        fields = [
            "format",
            "file_type",
            "aggregation",
            "superseded",
            "safe_for_spreadsheets",
            "held_out_apart",
            "version",
        ]

    def __init__(self, project: Project, data: Any = None) -> None:
        super().__init__(data)
        known = [choice for made in FORMATS.values() if made.versions for choice in made.versions(project)]
        self.fields["version"].choices = [("", "the versions that serve"), *known]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned and {"format", "file_type"} <= set(cleaned):
            for field, apart in (("file_type", False), ("held_out_apart", cleaned["held_out_apart"])):
                try:
                    exporting.check_choice(cleaned["format"], cleaned["file_type"], held_out_apart=apart)
                except exporting.ExportRefused as refusal:
                    self.add_error(field, str(refusal))
                    break
        return cleaned


def _known_formats() -> list[dict[str, Any]]:
    """The formats as the page describes them."""
    return [
        {
            "made": made,
            "types": [Export.FileType(name).label for name in made.file_types],
            "lacks": [known.label for known in Export.FileType if known not in made.file_types],
        }
        for made in FORMATS.values()
    ]


def _exports(project: Project) -> Any:
    return project.exports.select_related("created_by", "project")


def _chosen_words(export: Export) -> list[str]:
    """What was asked for beside the format."""
    words, made = [export.get_file_type_display()], FORMATS.get(export.format)
    if made and made.aggregates:
        words.append(export.get_aggregation_display())
    elif export.format == Export.Format.JUDGEMENTS and export.superseded:
        words.append("with corrected ones")
    if export.held_out_apart:
        words.append("held-out rows apart")
    if made and made.versions:
        words.append(export.version or "serving versions")
    if export.file_type == Export.FileType.CSV and export.safe_for_spreadsheets:
        words.append("safe for spreadsheets")
    return words


def _context(request: HtmxHttpRequest, project: Project) -> dict[str, Any]:
    page = Paginator(_exports(project), PAGE_SIZE).get_page(request.GET.get("page"))
    rows, seen = [], []
    for export in page:
        step, total = export.step, export.total
        if export.state == State.RUNNING:
            step, total = ProgressFile(export.progress_path).read() or (step, total)
        percent = min(100, 100 * step // total) if total else None
        gone = export.state == State.DONE and not export.folder.is_dir()
        rows.append(
            {
                "export": export,
                "percent": percent,
                "left_out": left_out_words(export.report.get("left_out", {})),
                "changed": changed_words(export.report.get("changed", {})),
                "chosen": _chosen_words(export),
                "files": [] if gone else export.report.get("files", []),
                "archive": f"{exporting.archive_name(export)}.zip",
                "gone": gone,
            }
        )
        seen.append((export.pk, export.state, percent))
    queued = [export for export in page if export.state == State.QUEUED]
    waiting = waiting_for_worker(queued[-1]) if queued else ""
    return {
        "page": page,
        "rows": rows,
        "waiting": waiting,
        "anything_runs": any(export.is_active for export in page),
        "token": change_token(seen, waiting),
    }


@require_http_methods(["GET", "HEAD", "POST"])
def exports(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, "read")
    form = ExportForm(project, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        exporting.export_start(export_row=form.save(commit=False), project=project, created_by=request.user)
        return redirect("snapshots:exports", project.slug)
    context = {**_context(request, project), "form": form, "formats": _known_formats()}
    return render(request, "snapshots/exports.html", context, status=400 if form.errors else 200)


@require_safe
def export_progress(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """The list of exports."""
    project = project_for(request, slug, "read")
    if not request.htmx:
        return redirect("snapshots:exports", project.slug)
    context = _context(request, project)
    return unless_seen(request, context["token"], "snapshots/exports.html#progress", context)


@require_POST
def export_retry(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    exporting.export_retry(export_row=get_object_or_404(_exports(project), pk=pk), actor=request.user)
    return redirect("snapshots:exports", project.slug)


@require_safe
def export_download(request: HtmxHttpRequest, slug: str, pk: int, name: str) -> FileResponse:
    """One file of a finished export, or all of it as a zip. Only names that the report lists lead to a file."""
    project = project_for(request, slug, "read")
    export: Export = get_object_or_404(_exports(project), pk=pk, state=State.DONE)
    file = export_file(export, name)
    detail = {"export": pk, "file": name}
    audit(project=project, actor=request.user, action=Action.EXPORT_DOWNLOADED, detail=detail)
    return FileResponse(file, as_attachment=True, filename=name.rpartition("/")[2])


def export_file(export: Export, name: str) -> BinaryIO:
    """A file of a finished export, or the zip of all, open for reading. Raises Http404 for all other names."""
    if name == f"{exporting.archive_name(export)}.zip":
        path = export.archive
    elif name in {file["name"] for file in export.report.get("files", [])}:
        path = export.folder / name
    else:
        raise Http404("This export has no such file.")
    try:
        return path.open("rb")
    except OSError:
        raise Http404("The file is gone from the server's disk. Make the export again.") from None
