"""URLs of snapshots: exporting."""

from django.urls import path

from webapp.snapshots import views, views_push

app_name = "snapshots"
urlpatterns = [
    path("exports/", views.exports, name="exports"),
    path("exports/progress/", views.export_progress, name="export-progress"),
    path("exports/<key:pk>/retry/", views.export_retry, name="export-retry"),
    path("exports/<key:pk>/push/", views_push.push, name="push"),
    path("exports/<key:pk>/push/progress/", views_push.pushes, name="push-progress"),
    path("pushes/<key:pk>/cancel/", views_push.push_cancel, name="push-cancel"),
    path("pushes/<key:pk>/retry/", views_push.push_again, name="push-retry"),
    path("exports/<key:pk>/<path:name>", views.export_download, name="export-download"),
]
