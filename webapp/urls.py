"""URLs by prefix; each app keeps its own list."""

from django.conf import settings
from django.urls import include, path

from webapp import parameters  # noqa: F401 - the converters <key:...> and <token:...>
from webapp.health import healthz

of_a_project = [
    path("", include(f"webapp.{app}.urls"))
    for app in ("events", "labels", "importing", "snapshots", "training", "benchmarks", "ratings", "rollouts")
]
urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("", include("webapp.accounts.urls")),
    *([path("sso/", include("webapp.accounts.sso_urls"))] if settings.OIDC_ISSUER or settings.TOTP else []),
    path("", include("webapp.corpus.urls")),
    path("p/<slug:slug>/", include(of_a_project)),
    path("", include("webapp.operations.urls")),
    path("", include("webapp.api.urls")),
]
