"""Writes that may be sent twice: with an Idempotency-Key the second one is answered as the first, and does nothing."""

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, cast

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from webapp.api.auth import ApiRequest
from webapp.api.models import IdempotentCall
from webapp.api.problems import Problem

KEPT = timedelta(hours=24)
WRITES = ("POST", "PUT", "PATCH", "DELETE")

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
# Answers that say “later”: the same call may well be taken then.
_NOT_KEPT = (429,)

Run = Callable[..., HttpResponse]


def once(run: Run) -> Run:
    """Around every route. Without the header, and for reads, it changes nothing.

    The row is claimed first: of two calls with one key the second waits until the first one's transaction ends. An
    answer of 500 and more takes the claim back with all the rest; a refusal is kept, and whatever it wrote is not.
    """
    operation: Any = run.__self__  # type: ignore[attr-defined]

    @wraps(run)
    def run_once(request: HttpRequest, **parameters: Any) -> HttpResponse:
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method not in WRITES:
            return run(request, **parameters)
        try:
            for check in operation.auth_callbacks:
                check(request)
            return _answered(cast(ApiRequest, request), key, lambda: run(request, **parameters))
        except Exception as error:
            return operation.api.on_exception(request, error)

    return run_once


def _answered(request: ApiRequest, key: str, run: Callable[[], HttpResponse]) -> HttpResponse:
    if not _KEY.fullmatch(key):
        raise Problem(
            400,
            "No such key",
            "An Idempotency-Key has 1 to 200 printable characters of ASCII without spaces. A UUID is a good one.",
        )
    digest, now = _digest(request), timezone.now()
    with transaction.atomic():
        call, new = IdempotentCall.objects.get_or_create(
            user=request.user, key=key, defaults={"digest": digest, "created_at": now}
        )
        if not new and call.created_at >= now - KEPT:
            return _replayed(call, digest)
        with transaction.atomic():
            response = run()
            if response.status_code >= 400:
                transaction.set_rollback(True)
        if response.status_code >= 500 or response.status_code in _NOT_KEPT:
            transaction.set_rollback(True)
            return response
        call.digest, call.created_at = digest, now
        call.status, call.body = response.status_code, response.content.decode()
        call.content_type = response.headers.get("Content-Type", "")
        call.save()
    return response


def _replayed(call: IdempotentCall, digest: str) -> HttpResponse:
    if call.digest != digest:
        raise Problem(
            422,
            "The key was used for something else",
            "This Idempotency-Key came before with another address or body. Draw a new key for a new call.",
        )
    response = HttpResponse(call.body, status=call.status, content_type=call.content_type)
    response["Idempotency-Replayed"] = "true"
    return response


def _digest(request: HttpRequest) -> str:
    """sha256 of what is asked. Files are read as they lie, in pieces."""
    digest = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if request.content_type == "multipart/form-data":
        for name, values in sorted(request.POST.lists()):
            digest.update(repr((name, values)).encode())
        for name, files in sorted(request.FILES.lists()):
            for file in files:
                digest.update(repr((name, file.name, file.size)).encode())
                for chunk in file.chunks():
                    digest.update(chunk)
                file.seek(0)
    else:
        digest.update(request.body)
    return digest.hexdigest()


def calls_sweep() -> int:
    """Throw away answers that nobody gets again; returns how many."""
    return IdempotentCall.objects.filter(created_at__lt=timezone.now() - KEPT).delete()[0]
