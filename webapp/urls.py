"""URLs by prefix; each app keeps its own list."""

from django.conf import settings
from django.urls import include, path

from webapp import parameters  # noqa: F401 - the converters <key:...> and <token:...>
from webapp.health import healthz

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("", include("webapp.accounts.urls")),
    *([path("sso/", include("webapp.accounts.sso_urls"))] if settings.OIDC_ISSUER or settings.TOTP else []),
    path("", include("webapp.corpus.urls")),
    path("", include("webapp.labels.urls")),
    path("", include("webapp.importing.urls")),
    path("", include("webapp.snapshots.urls")),
    path("", include("webapp.training.urls")),
    path("", include("webapp.ratings.urls")),
    path("", include("webapp.operations.urls")),
]
