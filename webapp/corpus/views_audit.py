"""The audit log of a project: a page for its admins, and the same as JSON lines."""

import json
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.corpus.access import project_for
from webapp.corpus.audit import Action, json_lines
from webapp.http import HtmxHttpRequest

PAGE_SIZE = 50


def _value(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"sha256", "length"}:
        return f"a text of {value['length']:,} characters (sha256 {value['sha256'][:12]}…)"
    if value in (None, "", [], {}):
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(detail: dict[str, Any]) -> list[tuple[str, str]]:
    """An entry's detail as names and texts; a change as “from → to”."""
    return [
        (
            name.replace("_", " "),
            f"{_value(value['from'])} → {_value(value['to'])}"
            if isinstance(value, dict) and set(value) == {"from", "to"}
            else _value(value),
        )
        for name, value in detail.items()
    ]


@require_safe
def audit_page(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Who did what, newest first."""
    project = project_for(request, slug, "admin")
    action = request.GET.get("action", "")
    page = Paginator(project.audit_entries.of_action(action), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(entry, _words(entry.detail)) for entry in page],
        "action": action if action in Action.values else "",
        "actions": Action.choices,
    }
    return render(request, "corpus/audit.html", context)


@require_safe
def audit_lines(request: HtmxHttpRequest, slug: str) -> StreamingHttpResponse:
    """The same entries as JSON, one a line."""
    project = project_for(request, slug, "admin")
    entries = project.audit_entries.of_action(request.GET.get("action", ""))
    return StreamingHttpResponse(
        json_lines(entries),
        content_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{project.slug}-audit.jsonl"'},
    )
