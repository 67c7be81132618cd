"""Routes below a project."""

from collections.abc import Callable
from typing import Any

from ninja import Router


class ProjectRouter(Router):
    """Its paths lie below projects/{slug}: `@router.get("pairs")` is asked for with `slug` as the first argument.

    A prefix of add_router would do the same for the address, but ninja takes only what stands in a route's own path
    for a path parameter.
    """

    def add_api_operation(
        self, path: str, methods: list[str], view_func: Callable[..., Any], **options: Any
    ) -> None:
        super().add_api_operation(f"projects/{{slug:slug}}/{path.lstrip('/')}", methods, view_func, **options)
