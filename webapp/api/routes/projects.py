"""Projects: those that one belongs to, and their settings."""

from datetime import datetime
from typing import Any, Literal

from django import forms
from ninja import Field, Router, Schema, Status

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, form_refused, refused
from webapp.api.schemas import Given, Role
from webapp.corpus import services
from webapp.corpus.access import Access, project_for
from webapp.corpus.forms import ProjectForm, ProjectNewForm
from webapp.corpus.models import Project
from webapp.corpus.options import PROJECT_OPTIONS

router = Router(tags=["projects"])


class ProjectOut(Schema):
    """A project as each of its members may see it."""

    id: int
    slug: str
    name: str
    description: str
    asks: Literal["both", "pairs", "levels"] = Field(description="What annotators are asked.")
    overlap: int = Field(description="Wanted judgements per pair, or labels per response.")
    roles: list[Role] = Field(description="Yours.")
    archived_at: datetime | None
    created_at: datetime


class ProjectSettings(Schema):
    """What an admin sets. Training options that are null keep the trainer's default."""

    name: str
    description: str
    guidelines: str
    asks: Literal["both", "pairs", "levels"]
    overlap: int
    reservation_minutes: int
    reason_tags: list[str]
    load_images: bool
    bad_to: int
    normal_to: int
    pairing: Literal["all", "ring", "random"]
    pairing_limit: int
    base_model: str
    causal_base_model: str
    tuning: str
    machine_labels: bool
    retrain_after_labels: int
    retrain_every_hours: int
    min_judgements: int
    gate_max_drop: float
    methods: list[str]
    main_method: str
    reliability: bool | None
    votes: str | None
    hardening: float | None
    patience: int | None
    preset: str | None


class ProjectWhole(ProjectOut):
    guidelines: str = Field(description="Markdown.")
    reason_tags: list[str] = Field(description="What may be ticked for each side of a pair.")
    settings: ProjectSettings | None = Field(description="All settings, for admins; else null.")


class ProjectNew(Given):
    name: str = Field(max_length=120)
    slug: str = Field(max_length=60, description="The project's address, for good.")
    asks: Literal["both", "pairs", "levels"] = "both"
    overlap: int = 3


class ProjectChange(Given):
    """The settings to change; those left out stay."""

    name: str | None = None
    description: str | None = None
    guidelines: str | None = None
    asks: Literal["both", "pairs", "levels"] | None = None
    overlap: int | None = None
    reservation_minutes: int | None = None
    reason_tags: list[str] | None = None
    load_images: bool | None = None
    bad_to: int | None = None
    normal_to: int | None = None
    pairing: Literal["all", "ring", "random"] | None = None
    pairing_limit: int | None = None
    base_model: str | None = None
    causal_base_model: str | None = None
    tuning: str | None = None
    machine_labels: bool | None = None
    retrain_after_labels: int | None = None
    retrain_every_hours: int | None = None
    min_judgements: int | None = None
    gate_max_drop: float | None = None
    methods: list[str] | None = None
    main_method: str | None = None
    reliability: bool | None = None
    votes: str | None = None
    hardening: float | None = None
    patience: int | None = None
    preset: str | None = None


def _shown(project: Project, access: Access) -> dict[str, Any]:
    return {
        **{name: getattr(project, name) for name in ProjectOut.model_fields if name != "roles"},
        "roles": sorted(access.roles),
    }


def _whole(request: ApiRequest) -> dict[str, Any]:
    project, access = request.project, request.access
    return {
        **_shown(project, access),
        "guidelines": project.guidelines,
        "reason_tags": project.reason_tags,
        "settings": _settings(project) if access.admin else None,
    }


def _settings(project: Project) -> dict[str, Any]:
    options = {name: project.training_options.get(name) for name in PROJECT_OPTIONS}
    names = ProjectSettings.model_fields.keys() - options.keys()
    return {**{name: getattr(project, name) for name in names}, **options}


@router.get("", auth=token("read"), response=Page[ProjectOut], summary="The projects that you belong to")
def projects(request: ApiRequest, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    roles: dict[int, set[str]] = {}
    for project_id, role in request.user.memberships.values_list("project_id", "role"):
        roles.setdefault(project_id, set()).add(role)
    rows = Project.objects.for_user(request.user)
    if request.token.project_slug:
        rows = rows.filter(slug=request.token.project_slug)

    def shown(page: list[Project]) -> list[dict[str, Any]]:
        return [_shown(each, Access(frozenset(roles.get(each.pk, ())))) for each in page]

    return paged(rows, cursor, limit, shown=shown)


@router.post("", auth=token("write"), response={201: ProjectWhole}, summary="Make a project")
def project_create(request: ApiRequest, body: ProjectNew) -> Status[dict[str, Any]]:
    """Staff of the installation make projects; you are the first admin. Everything else has a default."""
    if not request.user.is_staff or request.token.project_slug:
        raise Problem(
            403, "Not allowed", "Only staff make projects, and with a token that is for all projects."
        )
    form = ProjectNewForm(body.dict())
    if not form.is_valid():
        raise form_refused(form)
    project = services.project_create(project=form.save(commit=False), created_by=request.user)
    project_for(request, project.slug, "admin")
    return Status(201, _whole(request))


@router.get("{slug:slug}", auth=token("read"), response=ProjectWhole, summary="One project")
def project(request: ApiRequest, slug: str) -> dict[str, Any]:
    project_for(request, slug)
    return _whole(request)


@router.patch("{slug:slug}", auth=token("write"), response=ProjectWhole, summary="Change settings")
def project_change(request: ApiRequest, slug: str, body: ProjectChange) -> dict[str, Any]:
    """For admins. Only what is sent changes; all of it is checked together, as on the settings page."""
    project = project_for(request, slug, "admin")
    given = body.dict(exclude_unset=True)
    for tag in given.get("reason_tags") or ():
        if "\n" in tag or "\r" in tag:
            message = {
                "field": "reason_tags",
                "message": "A reason is one line.",
                "remedy": "Send them one by one.",
            }
            raise refused([message])
    form = ProjectForm(_form_data({**_settings(project), **given}), instance=project)
    if not form.is_valid():
        raise form_refused(form)
    services.project_save(project=form.save(commit=False), actor=request.user)
    return _whole(request)


def _form_data(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as the form of the page sends them."""
    fields: dict[str, forms.Field] = ProjectForm.base_fields
    return {
        name: fields[name].prepare_value("" if value is None else value) for name, value in settings.items()
    }


@router.post("{slug:slug}/archive", auth=token("write"), response=ProjectWhole, summary="Archive a project")
def project_archive(request: ApiRequest, slug: str) -> dict[str, Any]:
    """From now on it is only read and exported; what runs is cancelled. Doing it again changes nothing."""
    services.project_archive(project=project_for(request, slug, "admin"), actor=request.user)
    return _whole(request)


@router.post(
    "{slug:slug}/unarchive",
    auth=token("write"),
    response=ProjectWhole,
    summary="Take a project out of the archive",
)
def project_unarchive(request: ApiRequest, slug: str) -> dict[str, Any]:
    services.project_unarchive(project=project_for(request, slug, "admin"), actor=request.user)
    return _whole(request)
