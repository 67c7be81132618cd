"""What a view gets: the request of somebody who is signed in, as the middleware has completed it. For types alone."""

from typing import TYPE_CHECKING

from django.http import HttpRequest

if TYPE_CHECKING:
    from django_htmx.middleware import HtmxDetails

    from webapp.accounts.models import User


class HtmxHttpRequest(HttpRequest):
    """LoginRequiredMiddleware lets nobody else pass, and HtmxMiddleware adds `htmx`."""

    user: "User"
    htmx: "HtmxDetails"
