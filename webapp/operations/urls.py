"""URLs of the operator's pages."""

from django.urls import path

from webapp.operations import views
from webapp.operations.metrics import metrics

app_name = "operations"
urlpatterns = [
    path("disk/", views.disk, name="disk"),
    path("metrics", metrics, name="metrics"),
]
