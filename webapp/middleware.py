"""What may come in: how large a body may be, and whose is read at all; what a page may load, and how it is sent."""

from collections.abc import Callable
from typing import Any, TypeVar

from csp.middleware import CSPMiddleware, PolicyParts
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import render

from webapp.corpus.access import Need, project_for
from webapp.corpus.audit import request_address

# Boundaries, headers and the small fields around the files of a form.
_ENVELOPE_BYTES = 1024 * 1024

View = TypeVar("View", bound=Callable[..., Any])


def receives_files(needs: Need) -> Callable[[View], View]:
    """Mark a project's view whose POST may be as large as an upload, by people who have this permission."""

    def mark(view: View) -> View:
        view.receives_files = needs  # type: ignore[attr-defined]
        return view

    return mark


class PolicyMiddleware(CSPMiddleware):
    """The content security policy; pages of a project that loads pictures may load them from any site, by https."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        project = getattr(request, "project", None)
        if project is not None and project.load_images:
            parts.update = {**(parts.update or {}), "img-src": ["https:"]}
        return parts


class PageCompressionMiddleware(GZipMiddleware):
    """Compresses pages, fragments and JSON of 1 KB or more; downloads are streamed as they are.

    A page shows what somebody else wrote beside secrets: its size must not tell them (BREACH). Django adds up to a
    hundred random bytes, and the token against forgery is written otherwise each time.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if (
            not isinstance(response, HttpResponse)
            or kind not in ("text/html", "application/json")
            or len(response.content) < 1024
        ):
            return response
        return super().process_response(request, response)


class BodyLimitMiddleware:
    """Refuses a body that is too large, has no stated length, or comes from somebody who may not upload, unread.

    It stands behind LoginRequiredMiddleware and before CsrfViewMiddleware, which reads the body of every POST: up to
    here nothing has asked for a byte of it. Django reads no more than Content-Length says, so what is stated is also
    the most that can come. A body without a stated length (chunked) is refused: Django would take it for empty.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with request_address(request):
            return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        if request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            return None
        needs: Need | None = getattr(view, "receives_files", None)
        if needs is not None:
            # Raises 404 or 403 for whoever may not upload.
            project_for(request, kwargs["slug"], needs)
        files = settings.MAX_UPLOAD_BYTES if needs else 0
        limit = files + _ENVELOPE_BYTES if files else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if request.META.get("HTTP_TRANSFER_ENCODING"):
            return _refusal(request, status=411, files=files)
        length = str(request.META.get("CONTENT_LENGTH") or "0")
        # What is no number Django takes for 0, and reads nothing.
        if length.isdigit() and (len(length) > 15 or int(length) > limit):
            return _refusal(request, status=413, files=files)
        return None


def _refusal(request: HttpRequest, *, status: int, files: int) -> HttpResponse:
    context = {
        "chunked": status == 411,
        "takes_files": bool(files),
        "max_mb": (files or settings.DATA_UPLOAD_MAX_MEMORY_SIZE) // 2**20,
    }
    return render(request, "413.html", context, status=status)
