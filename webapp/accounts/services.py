"""Writes of accounts: sessions, deactivation, reset links."""

import contextlib
import logging
from typing import Any

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from webapp.accounts.addresses import client_address
from webapp.accounts.models import User, UserSession
from webapp.accounts.throttling import throttling_sweep

logger = logging.getLogger(__name__)


class Refused(ValueError):
    """What was asked for cannot be done; the message says why and what helps."""


def session_seen(*, request: HttpRequest, user: User, key: str) -> None:
    """Note that the session with a key is in use, from where and with what."""
    address = client_address(request)
    row = UserSession(
        session_id=key,
        user=user,
        address=str(address) if address else None,
        user_agent=request.headers.get("User-Agent", "")[:300],
        last_seen=timezone.now(),
    )
    # The session may be ended from elsewhere at this moment; then there is nothing to note.
    with contextlib.suppress(IntegrityError):
        UserSession.objects.bulk_create(
            [row],
            update_conflicts=True,
            unique_fields=["session"],
            update_fields=["user", "address", "user_agent", "last_seen"],
        )


def sessions_end(*, user: User, only: int | None = None, keep: str | None = None) -> int:
    """Sign somebody out: everywhere, or of one session, or of all but the one with a key. How many were ended."""
    sessions = Session.objects.filter(pk__in=UserSession.objects.filter(user=user).values("session"))
    if only is not None:
        sessions = sessions.filter(pk__in=UserSession.objects.filter(pk=only).values("session"))
    if keep is not None:
        sessions = sessions.exclude(pk=keep)
    return sum(count for name, count in sessions.delete()[1].items() if name == Session._meta.label)


@transaction.atomic
def user_deactivate(*, user: User, by: User | None = None) -> bool:
    """Let somebody in no more, from this moment; labels and roles stay. False if that was so before. Raises Refused."""
    # All superusers' rows are locked, so that two who deactivate each other wait in line.
    others = User.objects.select_for_update().filter(is_superuser=True, is_active=True).order_by("pk")
    active = {other.pk for other in others}
    if active == {user.pk}:
        raise Refused(
            f"{user.username} is the last active superuser: without one nobody could let anybody in again. "
            "Make another first: manage.py createsuperuser."
        )
    if by is not None and by.pk == user.pk:
        raise Refused("You can't deactivate yourself; another superuser can.")
    changed = User.objects.filter(pk=user.pk, is_active=True).update(is_active=False)
    sessions_end(user=user)
    if changed:
        logger.warning("deactivated: %r by %r", user.username, by.username if by else "manage.py")
    return changed == 1


def user_reactivate(*, user: User, by: User | None = None) -> bool:
    """Let somebody in again. False if nothing kept them out. Raises Refused."""
    if user.kind != User.Kind.PERSON:
        raise Refused(f"{user.username} is the name of an {user.get_kind_display()}, nobody who signs in.")
    changed = User.objects.filter(pk=user.pk, is_active=False).update(is_active=True)
    if changed:
        logger.warning("reactivated: %r by %r", user.username, by.username if by else "manage.py")
    return changed == 1


def reset_path(*, user: User, by: User | None = None) -> str:
    """The path of a page on which somebody sets a new password; for a day, and until one is set. Raises Refused."""
    if user.kind != User.Kind.PERSON or not user.is_active:
        raise Refused(
            f"{user.username} can't sign in, so a new password would not help. Reactivate them first."
        )
    logger.warning("reset link: for %r by %r", user.username, by.username if by else "manage.py")
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return reverse("accounts:reset", args=[uid, default_token_generator.make_token(user)])


def is_connected(user: User) -> bool:
    """Whether somebody can sign in by single sign-on."""
    if not settings.OIDC_ISSUER:
        return False
    from allauth.socialaccount.models import SocialAccount

    return SocialAccount.objects.filter(user=user).exists()


def second_factor_of(user: User) -> QuerySet[Any]:
    """The one-time and recovery codes of somebody; nothing where the second factor is off."""
    if not settings.TOTP:
        return User.objects.none()
    from allauth.mfa.models import Authenticator

    return Authenticator.objects.filter(user=user)


def second_factor_remove(*, user: User, by: User | None = None) -> bool:
    """For somebody who lost their telephone and their recovery codes. False if there was none."""
    removed = second_factor_of(user).delete()[0] > 0
    if removed:
        logger.warning(
            "second factor removed: of %r by %r", user.username, by.username if by else "manage.py"
        )
    return removed


def accounts_sweep() -> int:
    """Throw away sessions that have run out and failures that nothing counts any more; returns how many rows."""
    before = Session.objects.filter(expire_date__lt=timezone.now()).count()
    SessionStore.clear_expired()
    return before + throttling_sweep()
