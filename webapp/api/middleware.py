"""Below /api/v1/ a token counts in place of a session, and every error is a problem document."""

from collections.abc import Callable
from typing import Any, cast

from django.http import HttpRequest, HttpResponse

from webapp.api.auth import ApiRequest, authenticate, unauthenticated
from webapp.api.problems import MEDIA_TYPE, Problem, problem_page

ROOT = "/api/v1/"


class ApiMiddleware:
    """It stands before LoginRequiredMiddleware, which would send programs to the sign-in page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(ROOT):
            return self.get_response(request)
        try:
            authenticate(request)
            response = self.get_response(request)
        except Problem as problem:
            response = problem.response()
        if response.status_code >= 400 and response.headers.get("Content-Type") != MEDIA_TYPE:
            response = problem_page(response)
        response.headers.setdefault("Cache-Control", "no-store, private")
        if rate := getattr(request, "rate", None):
            for name, value in rate.headers.items():
                response[name] = value
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        """Nobody gets further without a token, before anything of the body is read."""
        if not request.path_info.startswith(ROOT) or not getattr(view, "login_required", True):
            return None
        return unauthenticated().response() if cast(ApiRequest, request).token is None else None
