"""What every template may use beside its view's context."""

from typing import Any

from django.http import HttpRequest

from webapp import __version__


def caliper(request: HttpRequest) -> dict[str, Any]:
    """`caliper_version`, and `project` and `access` where the view's access check put them on the request."""
    return {
        "caliper_version": __version__,
        "project": getattr(request, "project", None),
        "access": getattr(request, "access", None),
    }
