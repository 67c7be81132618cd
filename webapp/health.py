"""GET /healthz: is everything there that Caliper needs?"""

import logging
import shutil
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from webapp import heartbeat
from webapp.accounts.addresses import is_this_machine
from webapp.broker import redis_client

logger = logging.getLogger(__name__)

QUEUES = ("default", "train", "housekeeping")
"""Queues that somebody has to read: without one of them imports, trainings, or lost jobs would wait for ever."""
OPTIONAL_QUEUES = ("score",)
"""Without their reader one page does nothing, and says so; all is well for everybody else."""

DISK_NEEDED_BYTES = 500 * 1024 * 1024


def check_database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return {"ok": True, "vendor": connection.vendor}


def check_broker() -> dict[str, Any]:
    with redis_client() as client:
        client.ping()
    return {"ok": True}


def check_workers() -> dict[str, Any]:
    """Of each queue, how many live workers read it and how many messages wait; not ok where nobody reads QUEUES."""
    names = QUEUES + OPTIONAL_QUEUES
    with redis_client() as client:
        readers = heartbeat.readers(client, names)
        waiting = {queue: int(client.llen(queue)) for queue in names}
    queues = {queue: {"workers": len(readers[queue]), "waiting": waiting[queue]} for queue in names}
    unread = [queue for queue in QUEUES if not readers[queue]]
    result: dict[str, Any] = {"ok": not unread, "queues": queues}
    if unread:
        result["error"] = f"no worker reads: {', '.join(unread)}"
    return result


def check_disk() -> dict[str, Any]:
    free = shutil.disk_usage(settings.DATA_DIR).free
    result: dict[str, Any] = {"ok": free >= DISK_NEEDED_BYTES, "free_mb": free // 1024**2}
    if not result["ok"]:
        result["error"] = "the data folder's disk is nearly full"
    return result


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "database": check_database,
    "broker": check_broker,
    "workers": check_workers,
    "disk": check_disk,
}


def may_see_parts(request: HttpRequest) -> bool:
    """This machine itself (the supervisor, a container's own check), a monitor with the token, or staff."""
    if is_this_machine(request):
        return True
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer":
        return bool(settings.HEALTH_TOKEN) and constant_time_compare(token, settings.HEALTH_TOKEN)
    # Without a cookie nobody is asked for in the database, which may be what is down.
    return settings.SESSION_COOKIE_NAME in request.COOKIES and bool(getattr(request.user, "is_staff", False))


@never_cache
@login_not_required
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """JSON of every part; 503 when one is down. `?only=database,broker` asks about those parts.

    Everybody learns whether all is well; the parts are for the people and programs that look after them. The error
    text of a part that is down, which may hold addresses, is only logged.
    """
    insider = may_see_parts(request)
    asked = request.GET.get("only") if insider else None
    names = asked.split(",") if asked else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        message = f"unknown part: {', '.join(unknown)[:80]}; there are {', '.join(PARTS)}"
        return JsonResponse({"ok": False, "error": message}, status=400)
    parts: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            parts[name] = PARTS[name]()
        except Exception:
            logger.exception("health check: %s is down", name)
            parts[name] = {"ok": False, "error": f"{name} is down; the web log says why"}
    healthy = all(part["ok"] for part in parts.values())
    response = JsonResponse({"ok": healthy, **(parts if insider else {})}, status=200 if healthy else 503)
    # Django would log each 503 as an error of this view; what is down has been logged above.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
