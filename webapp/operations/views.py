"""Pages for whoever runs this installation."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.http import HtmxHttpRequest
from webapp.operations.disk import OTHERS, PARTS, disk_report


@require_safe
def disk(request: HtmxHttpRequest) -> HttpResponse:
    """Where the data folder's bytes are, and what packing old versions away would free."""
    if not (request.user.is_staff or request.user.is_superuser):
        raise PermissionDenied("Only staff of this installation see this page.")
    report = disk_report()
    context: dict[str, Any] = {"keep": settings.KEEP_VERSIONS}
    if report is not None:
        parts = [(PARTS.get(name, OTHERS), part) for name, part in report["parts"].items()]
        used = sum(part["bytes"] for _, part in parts)
        context |= {
            "report": report,
            "measured_at": datetime.fromisoformat(report["measured_at"]),
            "parts": [
                (words, part, round(100 * part["bytes"] / used) if used else 0) for words, part in parts
            ],
            "used": used,
            "projects": _projects_shown(report["projects"], request.user),
            "nearly_full": report["free"] < report["total"] / 10,
        }
    return render(request, "operations/disk.html", context)


def _projects_shown(rows: list[dict[str, Any]], user: User) -> list[dict[str, Any]]:
    """Projects that somebody doesn't belong to have no name here: all of them are one row."""
    own = set(Project.objects.for_user(user).values_list("pk", flat=True))
    shown = [row for row in rows if row["pk"] in own]
    hidden = [row for row in rows if row["pk"] not in own]
    if hidden:
        columns = ("runs", "model", "checkpoint", "other", "bytes")
        sums = {column: sum(row[column] for row in hidden) for column in columns}
        shown.append(sums | {"others": len(hidden)})
    return shown
