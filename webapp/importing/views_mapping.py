"""Pages of one import beside its own: naming its columns, taking it back, throwing its preview away."""

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from webapp.corpus.access import project_for
from webapp.corpus.models import Import
from webapp.http import HtmxHttpRequest
from webapp.importing import services, undoing
from webapp.importing.mapping_form import MappingForm
from webapp.importing.survey import survey_read
from webapp.words import counted


@require_http_methods(["GET", "HEAD", "POST"])
def import_mapping(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Which column is what; POST keeps the answer and queues a preview by it."""
    project = project_for(request, slug, "admin")
    row: Import = get_object_or_404(project.imports, pk=pk)
    found = survey_read(settings.DATA_DIR / row.folder)
    if found is None or row.is_active or not row.dry_run:
        messages.warning(request, "The columns of this import can't be named (any more).")
        return redirect("importing:import", project.slug, pk)
    start, earlier = services.mapping_offered(row, found)
    form = MappingForm(found, start, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        if not services.import_map(import_row=row, mapping=form.mapping, actor=request.user):
            messages.warning(request, "Nothing was started: this import isn't a preview (any more).")
        return redirect("importing:import", project.slug, pk)
    context = {"row": row, "form": form, "earlier": earlier, "rows": found["rows"]}
    status = 400 if form.errors else 200
    return render(request, "importing/mapping.html", context, status=status)


@require_POST
def import_ask(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Read the columns of a preview that was taken for something else."""
    project = project_for(request, slug, "admin")
    if not services.import_ask(import_row=get_object_or_404(project.imports, pk=pk), actor=request.user):
        messages.warning(request, "Nothing was started: this import isn't a preview (any more).")
    return redirect("importing:import", project.slug, pk)


@require_http_methods(["GET", "HEAD", "POST"])
def import_undo(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """Ask, with the numbers, and take the import back."""
    project = project_for(request, slug, "admin")
    row: Import = get_object_or_404(project.imports, pk=pk)
    if request.method == "POST":
        try:
            counts = undoing.import_undo(import_row=row, actor=request.user)
        except undoing.UndoRefused as refusal:
            messages.error(request, f"The import was not undone. {refusal}")
        else:
            taken = ", ".join(f"{number:,} {what}" for what, number in counts.items())
            messages.success(request, f"The import is undone: {taken} were taken back.")
            return redirect("importing:import", project.slug, pk)
    written = [
        counted(number, "verdict" if what == "votes" else what.removesuffix("s"))
        for what, number in undoing.written_by(row).items()
    ]
    context = {"row": row, "obstacles": undoing.undo_obstacles(row), "counts": written}
    return render(request, "importing/undo.html", context)


@require_POST
def import_discard(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    row = get_object_or_404(project.imports, pk=pk)
    if undoing.import_discard(import_row=row, actor=request.user):
        messages.success(request, f"{row.file_name} was thrown away; nothing had been imported from it.")
        return redirect("importing:imports", project.slug)
    messages.warning(request, "Nothing was thrown away: this import runs, or it is done.")
    return redirect("importing:import", project.slug, pk)
