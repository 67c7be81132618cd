"""Guessing passwords is slow work: failures are counted in the database, and too many are answered without hashing.

Three counts, each of failures with no pause of AXES_COOLOFF_TIME between them:

- PAIR_LIMIT of one name from one address: somebody guesses at one account;
- ADDRESS_LIMIT from one address: somebody tries a few passwords on many names;
- NAME_LIMIT of one name from all addresses together: many machines guess at one account.

None of them holds on a device on which that name has signed in before (a signed cookie says so): only PAIR_LIMIT
failures of its own keep it out. So no stranger, not even one behind the same address, keeps anybody from signing in.
"""

import logging
import secrets
from datetime import timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.core import signing
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import salted_hmac

logger = logging.getLogger(__name__)

PAIR_LIMIT = 5
ADDRESS_LIMIT = 50
NAME_LIMIT = 20

DEVICE_COOKIE = "caliper_device"
DEVICE_AGE = timedelta(days=180)
DEVICE_NAMES = 5
"""How many names one device is known for, the latest; more than that share no device."""


def _mark(name: str) -> str:
    return salted_hmac(DEVICE_COOKIE, name).hexdigest()[:16]


def _device(request: HttpRequest) -> dict[str, Any] | None:
    try:
        return signing.loads(request.COOKIES.get(DEVICE_COOKIE, ""), salt=DEVICE_COOKIE, max_age=DEVICE_AGE)
    except signing.BadSignature:
        return None


def device_of(request: HttpRequest, name: str | None) -> str | None:
    """What failures from a device are counted under, where the name has signed in on it before."""
    device = _device(request)
    return f"device {device['id']}" if device and name and _mark(name) in device["names"] else None


def device_remember(*, request: HttpRequest, response: HttpResponse, name: str) -> None:
    """Leave a cookie on a device whose user is signed in, unless it is there."""
    device = _device(request) or {"id": secrets.token_hex(8), "names": []}
    if (mark := _mark(name)) in device["names"]:
        return
    names = [mark, *device["names"]][:DEVICE_NAMES]
    response.set_cookie(
        DEVICE_COOKIE,
        signing.dumps({"id": device["id"], "names": names}, salt=DEVICE_COOKIE),
        max_age=DEVICE_AGE,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


class SignInHandler(AxesDatabaseHandler):
    """django-axes's database counters under three limits in place of one."""

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """1 as soon as one of the limits is reached, else 0 (AXES_FAILURE_LIMIT is 1)."""
        name, address = (credentials or {}).get("username"), request.axes_ip_address
        recent = AccessAttempt.objects.filter(
            attempt_time__gte=request.axes_attempt_time - settings.AXES_COOLOFF_TIME
        )
        if device := device_of(request, name):
            own = recent.filter(username=name, user_agent=device).aggregate(count=Sum("failures_since_start"))
            return int((own["count"] or 0) >= PAIR_LIMIT)
        counts = recent.aggregate(
            pair=Sum("failures_since_start", filter=Q(username=name, ip_address=address)),
            address=Sum("failures_since_start", filter=Q(ip_address=address)),
            name=Sum("failures_since_start", filter=Q(username=name)),
        )
        limits = {"pair": PAIR_LIMIT, "address": ADDRESS_LIMIT, "name": NAME_LIMIT}
        return int(any((counts[each] or 0) >= limit for each, limit in limits.items()))

    def filter_user_attempts(
        self, request: Any, credentials: dict[str, Any] | None = None
    ) -> list[QuerySet[Any]]:
        """What a right password forgives: this name's failures on this device, else from this address.

        Not the address's others: whoever has one account could else clear the count of guesses at another.
        """
        name = (credentials or {}).get("username")
        if device := device_of(request, name):
            return [AccessAttempt.objects.filter(username=name, user_agent=device)]
        return [AccessAttempt.objects.filter(username=name, ip_address=request.axes_ip_address)]

    def user_login_failed(
        self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any
    ) -> None:
        refused = bool(request and request.axes_locked_out)
        if request is not None and (device := device_of(request, credentials.get("username"))):
            request.axes_user_agent = device
        super().user_login_failed(sender, credentials, request, **kwargs)
        if request is not None:
            word = "refused after too many failures" if refused else "failed"
            # %r: a name may hold a line break, and is no second line of the log.
            name = credentials.get("username")
            logger.warning("sign-in %s: name %r from %s", word, name, request.axes_ip_address)
            if settings.BEHIND_TLS and "X-Forwarded-For" not in request.headers:
                logger.warning(
                    "the proxy sends no X-Forwarded-For: everybody's sign-ins count as from one address"
                )

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
    return AccessAttempt.objects.filter(
        attempt_time__lt=timezone.now() - settings.AXES_COOLOFF_TIME
    ).delete()[0]
