"""Who calls: a token in the Authorization header, and nothing else. A session's cookie is not looked at."""

import logging
import re
from datetime import timedelta
from typing import cast

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils import timezone
from ninja.security.base import AuthBase

from webapp.accounts.addresses import counted_address
from webapp.accounts.models import ApiToken
from webapp.api.limits import FAILURES_PER_MINUTE, Rate, rate_count
from webapp.api.problems import Problem
from webapp.corpus.access import ProjectRequest

logger = logging.getLogger(__name__)

SEEN_EVERY = timedelta(minutes=1)

_SECRET = re.compile(r"cal_[A-Za-z0-9_-]{43}")


class ApiRequest(ProjectRequest):
    """A request that came with a token: `user` is its owner, as on a page."""

    token: ApiToken
    rate: Rate


def authenticate(request: HttpRequest) -> None:
    """Put `user`, `token` and `rate` on a request. Without a header nobody asks; a wrong one raises Problem."""
    asked = cast(ApiRequest, request)
    asked.user, asked.token = AnonymousUser(), None  # type: ignore[assignment]
    header = request.headers.get("Authorization", "")
    if not header:
        return
    scheme, _, secret = header.partition(" ")
    known = ApiToken.objects.with_secret(secret) if _SECRET.fullmatch(secret) else None
    if scheme.lower() != "bearer" or known is None:
        raise _unknown(request)
    asked.user, asked.token = known.user, known
    asked.rate = rate_count(f"token:{known.digest[:32]}", settings.API_PER_MINUTE)
    if asked.rate.exceeded:
        raise Problem(
            429,
            "Too many requests",
            f"This token may send {asked.rate.limit} requests a minute. Wait {asked.rate.reset} seconds.",
            headers={"Retry-After": str(asked.rate.reset)},
        )
    now = timezone.now()
    if known.last_used_at is None or known.last_used_at < now - SEEN_EVERY:
        # Of several processes one writes.
        ApiToken.objects.filter(pk=known.pk, last_used_at=known.last_used_at).update(last_used_at=now)


def unauthenticated(error: str = "") -> Problem:
    """401: no token came, or one that doesn't count."""
    detail = (
        error or "Send a token: “Authorization: Bearer cal_…”. You make one on the page /account/tokens/."
    )
    challenge = 'Bearer realm="Caliper"' + (', error="invalid_token"' if error else "")
    return Problem(401, "Not signed in", detail, headers={"WWW-Authenticate": challenge})


def _unknown(request: HttpRequest) -> Problem:
    address = counted_address(request)
    rate = rate_count(f"failed:{address}", FAILURES_PER_MINUTE)
    if rate.exceeded:
        wait = {"Retry-After": str(rate.reset)}
        return Problem(429, "Too many unknown tokens", f"Wait {rate.reset} seconds.", headers=wait)
    logger.warning("API: an unknown token from %s", address)
    return unauthenticated(
        "This token is not known, was revoked or has run out. Make a new one on the page /account/tokens/."
    )


class BearerToken(AuthBase):
    """What a route asks of the token that the middleware has found."""

    openapi_type = "http"
    openapi_scheme = "bearer"

    def __init__(self, scopes: tuple[str, ...]) -> None:
        super().__init__()
        self.scopes = scopes

    def __call__(self, request: HttpRequest) -> ApiToken:
        found: ApiToken | None = cast(ApiRequest, request).token
        if found is None:
            raise unauthenticated()
        if self.scopes and not set(self.scopes) & set(found.scopes):
            raise Problem(
                403,
                "Outside the token's scopes",
                f"This needs a token with the scope {' or '.join(self.scopes)}; this one has: "
                f"{', '.join(found.scopes)}. "
                "Make another one on the page /account/tokens/.",
                scopes=self.scopes,
            )
        return found


def token(*scopes: str) -> BearerToken:
    """`auth=token("read")`: the route needs a token with this scope; with one of several; `token()`: with any at all.

    What its owner may see in a project, `project_for` says.
    """
    return BearerToken(tuple(ApiToken.Scope(scope).value for scope in scopes))
