"""Pages on which a packed version is pushed to a hub or a store."""

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webapp.corpus.access import ProjectRequest, project_for
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.snapshots.views_push import Pushed, push_act, push_page, push_progress
from webapp.training.models import ModelExport, ModelPush

_URLS = ("training:push", "training:push-progress", "training:push-cancel", "training:push-retry")


def _export(project: Project, pk: int) -> Pushed:
    export: ModelExport = get_object_or_404(ModelExport.objects.done_in(project), pk=pk)
    version = export.version
    title = f"{version.get_method_display()} v{version.number}, {export.get_format_display()}"
    back = (
        reverse("training:run", args=[project.slug, version.run_id]) + "#downloads",
        f"Run {version.run_id}",
    )
    return Pushed(export, title, back, _URLS)


def _push(project: Project, pk: int) -> ModelPush:
    pushes = ModelPush.objects.filter(export__version__project=project)
    found: ModelPush = get_object_or_404(pushes.select_related("export__version__project"), pk=pk)
    return found


@require_http_methods(["GET", "HEAD", "POST"])
def push(request: ProjectRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin" if request.method == "POST" else "read")
    return push_page(request, project, _export(project, pk))


@require_safe
def pushes(request: ProjectRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "read")
    return push_progress(request, project, _export(project, pk))


@require_POST
def push_cancel(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    return push_act(request, project, _push(project, pk), "cancel", _URLS[0])


@require_POST
def push_again(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    project = project_for(request, slug, "admin")
    return push_act(request, project, _push(project, pk), "retry", _URLS[0])
