"""The one API: its routes, its errors, its document."""

from functools import cache
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import Http404
from django.urls import URLPattern, URLResolver
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.operation import Operation

from webapp import __version__
from webapp.api.bodies import StrictParser
from webapp.api.document import completed
from webapp.api.idempotency import once
from webapp.api.problems import answer
from webapp.api.rendering import StrictRenderer
from webapp.api.routes import (
    corpus,
    evaluation,
    exports,
    imports,
    labels,
    me,
    projects,
    ratings,
    rollouts,
    training,
    webhooks,
)


class CaliperAPI(NinjaAPI):
    """NinjaAPI with a whole document: scopes, problems and headers of each operation."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        return f"{operation.view_func.__module__.rpartition('.')[2]}_{operation.view_func.__name__}"

    def get_openapi_schema(self, **options: Any) -> Any:
        return _document()

    def bound_operations(self) -> list[Operation]:
        return [each for view in self.path_views() for each in view.operations]

    def path_views(self) -> list[Any]:
        return [view for router in self._get_bound_routers() for view in router.path_operations.values()]


api = CaliperAPI(
    title="Caliper",
    version=__version__,
    description="Judge, import, train and score from outside. docs/api.md has a quick start.",
    urls_namespace="api-v1",
    docs_url=None,
    docs_decorator=login_not_required,
    parser=StrictParser(),
    renderer=StrictRenderer(),
)
# More precise than Exception, so ninja would ask its own handlers of these first.
for kind in (Exception, Http404, HttpError, ValidationError):
    api.add_exception_handler(kind, answer)
api.add_decorator(once, mode="view")

api.add_router("", me.router)
api.add_router("projects", projects.router)
api.add_router("", corpus.router)
for subject in (labels, imports, exports, training, ratings, evaluation, webhooks, rollouts):
    api.add_router("", subject.router)


@cache
def _document() -> dict[str, Any]:
    """The OpenAPI document: the same for everybody, so made once a process."""
    return completed(NinjaAPI.get_openapi_schema(api, path_prefix="/api/v1/"), api.bound_operations())


def api_urls() -> list[URLPattern | URLResolver]:
    """The routes, those marked that receive files (BodyLimitMiddleware asks the view that Django calls)."""
    for view in api.path_views():
        for each in view.operations:
            if needs := getattr(each.view_func, "receives_files", None):
                view.get_view = _marking(view.get_view, needs)
    return api.urls[0]


def _marking(get_view: Any, needs: str) -> Any:
    def marked() -> Any:
        view = get_view()
        view.receives_files = needs
        return view

    return marked
