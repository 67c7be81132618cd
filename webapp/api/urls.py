"""The API, the page that describes it, and the page of one's tokens."""

from django.urls import include, path

from webapp.api import views
from webapp.api.api import api_urls

app_name = "api"
tokens = [
    path("", views.tokens, name="tokens"),
    path("<key:pk>/revoke/", views.token_end, name="token-revoke"),
]
urlpatterns = [
    path("api/", views.document, name="document"),
    path("api/v1/", include((api_urls(), "ninja"), namespace="v1")),
    path("account/tokens/", include(tokens)),
]
