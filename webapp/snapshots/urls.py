"""URLs of snapshots: exporting."""

from django.urls import path

from webapp.snapshots import views

app_name = "snapshots"
urlpatterns = [
    path("exports/", views.exports, name="exports"),
    path("exports/progress/", views.export_progress, name="export-progress"),
    path("exports/<key:pk>/retry/", views.export_retry, name="export-retry"),
    path("exports/<key:pk>/<path:name>", views.export_download, name="export-download"),
]
