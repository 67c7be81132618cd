"""Guessing passwords is slow work: failures are counted in the database, and too many are answered without hashing.

Three counts, each of failures with no pause of COOL_OFF between them:

- PAIR_LIMIT of one name from one address: somebody guesses at one account;
- ADDRESS_LIMIT from one address: somebody tries a few passwords on many names;
- NAME_LIMIT of one name from all addresses together: many machines guess at one account. This one doesn't hold where
  the person has signed in from lately, so that a stranger cannot keep anybody out of their own account.
"""

import logging
from datetime import timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt, AccessLog
from django.conf import settings
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

logger = logging.getLogger(__name__)

PAIR_LIMIT = 5
ADDRESS_LIMIT = 50
NAME_LIMIT = 20
KNOWN_FOR = timedelta(days=30)
"""How long an address counts as one of a person's own, after a sign-in from it."""


class SignInHandler(AxesDatabaseHandler):
    """django-axes's database counters under three limits in place of one."""

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """1 as soon as one of the limits is reached, else 0 (AXES_FAILURE_LIMIT is 1)."""
        name, address = (credentials or {}).get("username"), request.axes_ip_address
        recent = AccessAttempt.objects.filter(
            attempt_time__gte=request.axes_attempt_time - settings.AXES_COOLOFF_TIME
        )
        counts = recent.aggregate(
            pair=Sum("failures_since_start", filter=Q(username=name, ip_address=address)),
            address=Sum("failures_since_start", filter=Q(ip_address=address)),
            name=Sum("failures_since_start", filter=Q(username=name)),
        )
        if (counts["pair"] or 0) >= PAIR_LIMIT or (counts["address"] or 0) >= ADDRESS_LIMIT:
            return 1
        return int((counts["name"] or 0) >= NAME_LIMIT and not self._known(name, address))

    @staticmethod
    def _known(name: str | None, address: str | None) -> bool:
        since = timezone.now() - KNOWN_FOR
        return AccessLog.objects.filter(username=name, ip_address=address, attempt_time__gte=since).exists()

    def filter_user_attempts(
        self, request: Any, credentials: dict[str, Any] | None = None
    ) -> list[QuerySet[Any]]:
        """What a right password forgives: this name's failures from this address.

        Not the address's others: whoever has one account could else clear the count of guesses at another.
        """
        name = (credentials or {}).get("username")
        return [AccessAttempt.objects.filter(username=name, ip_address=request.axes_ip_address)]

    def user_login_failed(
        self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any
    ) -> None:
        refused = bool(request and request.axes_locked_out)
        super().user_login_failed(sender, credentials, request, **kwargs)
        if request is not None:
            word = "refused after too many failures" if refused else "failed"
            # %r: a name may hold a line break, and is no second line of the log.
            name = credentials.get("username")
            logger.warning("sign-in %s: name %r from %s", word, name, request.axes_ip_address)

    def user_logged_in(self, sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
        super().user_logged_in(sender, request, user, **kwargs)
        logger.info("signed in: %r from %s", user.get_username(), request.axes_ip_address)


def locked_out(
    request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None
) -> HttpResponse:
    """The page in place of the form's answer: 429, when to come back, and what else helps."""
    wait = settings.AXES_COOLOFF_TIME
    context = {"minutes": round(wait.total_seconds() / 60), "mail": settings.MAIL_IS_ON}
    answer = render(request, "accounts/locked_out.html", context, status=429)
    answer["Retry-After"] = str(round(wait.total_seconds()))
    return answer


def failures_forget(*, username: str) -> None:
    """After a reset by link: the person is back, whatever others tried."""
    AccessAttempt.objects.filter(username=username).delete()


def throttling_sweep() -> int:
    """Throw away what no count looks at any more; returns how many rows."""
    now = timezone.now()
    failures = AccessAttempt.objects.filter(attempt_time__lt=now - settings.AXES_COOLOFF_TIME).delete()[0]
    return failures + AccessLog.objects.filter(attempt_time__lt=now - KNOWN_FOR).delete()[0]
