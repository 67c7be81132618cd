"""What every answer to somebody signed in needs: no copy kept on the way, and a note of where they are signed in."""

from collections.abc import Callable

from django.core.cache import caches
from django.http import HttpRequest, HttpResponse

from webapp.accounts import services
from webapp.accounts.models import User
from webapp.accounts.throttling import device_remember

SEEN_EVERY_SECONDS = 60


class SignedInMiddleware:
    """Marks pages of people who are signed in `no-store`, and notes once a minute that their session is in use."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        # Where nobody asked who this is, or asked in vain (a health check with the database down), don't ask now.
        if not hasattr(request, "_cached_user") or not isinstance(request.user, User):
            return response
        # Shared computers: neither the browser's cache nor its Back button shows pages after the sign-out.
        response.headers.setdefault("Cache-Control", "no-store, private")
        key = request.session.session_key
        if key and caches["local"].add(f"seen:{key}", True, SEEN_EVERY_SECONDS):
            device_remember(request=request, response=response, name=request.user.username)
            services.session_seen(request=request, user=request.user, key=key)
        return response
