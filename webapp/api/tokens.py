"""Making and revoking the tokens of programs."""

import secrets
from collections.abc import Iterable
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import ApiToken, User
from webapp.accounts.services import Refused
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Project

MOST = 50
"""Live tokens of one person: each is a key to lose."""

DAYS = (30, 90, 365)
"""How long a token may live, as the page offers it; or for ever."""


@transaction.atomic
def token_make(
    *,
    user: User,
    name: str,
    scopes: Iterable[str],
    days: int | None = None,
    project: Project | None = None,
    actor: User | str,
) -> tuple[ApiToken, str]:
    """A token and its secret, which is stored nowhere. `days` None: it never runs out. Raises Refused."""
    if user.kind != User.Kind.PERSON or not user.is_active:
        raise Refused(f"{user.username} can't sign in, so a token would not help. Reactivate them first.")
    # Its owner's row is locked, so that two made at once count each other.
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
    if user.api_tokens.live().count() >= MOST:
        raise Refused(f"{user.username} has {MOST} tokens in use. Revoke one that nothing uses first.")
    secret = f"cal_{secrets.token_urlsafe(32)}"
    token = ApiToken.objects.create(
        user=user,
        name=name,
        prefix=secret[:10],
        digest=ApiToken.digest_of(secret),
        scopes=[scope.value for scope in ApiToken.Scope if scope in scopes],
        project_slug=project.slug if project else "",
        expires_at=timezone.now() + timedelta(days=days) if days else None,
    )
    detail = {"token": token.pk, "of": user.username, "name": name, "scopes": token.scopes, "days": days}
    audit(project=project, actor=actor, action=Action.TOKEN_MADE, detail=detail)
    return token, secret


@transaction.atomic
def token_revoke(*, token: ApiToken, actor: User | str) -> bool:
    """The token counts no more, from this moment. False: it was revoked before."""
    revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()) == 1
    if revoked:
        project = Project.objects.filter(slug=token.project_slug).first() if token.project_slug else None
        detail = {"token": token.pk, "of": token.user.username, "name": token.name}
        audit(project=project, actor=actor, action=Action.TOKEN_REVOKED, detail=detail)
    return revoked
