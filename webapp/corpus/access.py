"""Who may do what in a project. Line one of every project view calls `project_for`."""

from dataclasses import dataclass
from typing import Literal, cast

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from webapp.accounts.models import User
from webapp.corpus.models import Membership, Project
from webapp.http import HtmxHttpRequest

Need = Literal["member", "annotate", "read", "admin"]

_MESSAGES = {
    "annotate": "Only annotators of this project judge. An admin can give you that role on the People page.",
    "read": "This page shows other people's labels and the models' ratings, so annotators don't see it: "
    "it would sway them.",
    "admin": "Only admins of this project may do this.",
}


class ProjectArchived(PermissionDenied):
    """Somebody would have changed an archived project. The message says who can open it again."""

    def __init__(self, project: Project) -> None:
        super().__init__(
            f"“{project.name}” is archived: it can be read and exported, and nothing in it changes. "
            "An admin can take it out of the archive on its Settings page."
        )


def check_not_archived(project: Project) -> None:
    """Line one of every service that writes what people label, import, set or train. Raises ProjectArchived."""
    if project.archived_at is not None:
        raise ProjectArchived(project)


@dataclass(frozen=True)
class Access:
    """What one user may do in one project."""

    roles: frozenset[str]
    is_superuser: bool = False

    @property
    def member(self) -> bool:
        return bool(self.roles) or self.is_superuser

    @property
    def annotate(self) -> bool:
        return Membership.Role.ANNOTATOR in self.roles or self.admin

    @property
    def read(self) -> bool:
        """May see labels of others and what models predict: researchers and admins."""
        return Membership.Role.RESEARCHER in self.roles or self.admin

    @property
    def admin(self) -> bool:
        return Membership.Role.ADMIN in self.roles or self.is_superuser


class ProjectRequest(HtmxHttpRequest):
    """A request that `project_for` has let into a project."""

    project: Project
    access: Access


def _entered(user: User, slug: str) -> tuple[Project, Access] | None:
    """The project with what this user may do in it, by one query (two for a superuser who is no member)."""
    rows = list(Membership.objects.filter(project__slug=slug, user=user).select_related("project"))
    project = rows[0].project if rows else None
    if project is None and user.is_superuser:
        project = Project.objects.filter(slug=slug).first()
    if project is None:
        return None
    return project, Access(frozenset(row.role for row in rows), user.is_superuser)


def project_for(request: HttpRequest, slug: str, needs: Need = "member") -> Project:
    """The project together with the permission; puts `project` and `access` on the request for the templates.

    A program's token may be for one project alone (request.token, which webapp.api sets); then there is no other.

    Asked again in the same request (BodyLimitMiddleware asks before an upload's view) it answers from there.

    Raises Http404 for strangers (they don't learn that the project exists) and PermissionDenied, with a message
    that the 403 page shows, for members whose roles don't suffice. Anonymous visitors never get here
    (LoginRequiredMiddleware).
    """
    request = cast(ProjectRequest, request)
    token = getattr(request, "token", None)
    if token is not None and token.project_slug not in ("", slug):
        raise Http404("No such project.")
    known = getattr(request, "project", None)
    entered = (known, request.access) if known and known.slug == slug else _entered(request.user, slug)
    if entered is None:
        raise Http404("No such project.")
    project, access = entered
    if not getattr(access, needs):
        raise PermissionDenied(_MESSAGES[needs])
    request.project, request.access = project, access
    return project


def own_hosts(request: HttpRequest) -> tuple[str, ...]:
    """The names this site answers to."""
    asked = request.get_host().rpartition(":")[0] or request.get_host()
    return (asked.lower(), *(host.lower() for host in settings.ALLOWED_HOSTS if host != "*"))
