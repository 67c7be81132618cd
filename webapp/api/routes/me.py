"""Who a token speaks for."""

from datetime import datetime
from typing import Any

from ninja import Router, Schema

from webapp.api.auth import ApiRequest, token
from webapp.api.schemas import Role

router = Router(tags=["me"])


class Roles(Schema):
    slug: str
    roles: list[Role]


class TokenOut(Schema):
    name: str
    prefix: str
    scopes: list[str]
    project: str | None
    expires_at: datetime | None


class Me(Schema):
    id: int
    username: str
    name: str
    is_staff: bool
    projects: list[Roles]
    token: TokenOut


@router.get("me", auth=token(), response=Me, summary="Who this token speaks for, and what it may do")
def me(request: ApiRequest) -> dict[str, Any]:
    """Your roles in each project, and the scopes of the token. Every live token may ask this, whatever its scopes."""
    roles: dict[str, list[str]] = {}
    memberships = request.user.memberships.order_by("project__slug", "role")
    if request.token.project_slug:
        memberships = memberships.filter(project__slug=request.token.project_slug)
    for slug, role in memberships.values_list("project__slug", "role"):
        roles.setdefault(slug, []).append(role)
    return {
        "id": request.user.pk,
        "username": request.user.username,
        "name": request.user.display_name,
        "is_staff": request.user.is_staff,
        "projects": [{"slug": slug, "roles": given} for slug, given in roles.items()],
        "token": {
            "name": request.token.name,
            "prefix": request.token.prefix,
            "scopes": request.token.scopes,
            "project": request.token.project_slug or None,
            "expires_at": request.token.expires_at,
        },
    }
