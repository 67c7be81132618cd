"""URLs of training."""

from django.urls import path

from webapp.training import views, views_push

app_name = "training"
urlpatterns = [
    path("runs/", views.runs, name="runs"),
    path("runs/start/", views.run_start, name="run-start"),
    path("runs/<key:pk>/", views.run, name="run"),
    path("runs/<key:pk>/progress/", views.run_progress, name="run-progress"),
    path("runs/<key:pk>/log.txt", views.run_log, name="run-log"),
    path("runs/<key:pk>/cancel/", views.run_cancel, name="run-cancel"),
    path("runs/<key:pk>/resume/", views.run_resume, name="run-resume"),
    path("versions/<key:pk>/promote/", views.version_promote, name="version-promote"),
    path("versions/<key:pk>/measurements/", views.measurements, name="measurements"),
    path("versions/<key:pk>/measurements/start/", views.measurement_start, name="measurement-start"),
    path("versions/<key:pk>/exports/", views.model_exports, name="model-exports"),
    path("versions/<key:pk>/exports/start/", views.model_export_start, name="model-export-start"),
    path("model-exports/<key:pk>/push/", views_push.push, name="push"),
    path("model-exports/<key:pk>/push/progress/", views_push.pushes, name="push-progress"),
    path("model-pushes/<key:pk>/cancel/", views_push.push_cancel, name="push-cancel"),
    path("model-pushes/<key:pk>/retry/", views_push.push_again, name="push-retry"),
    path("model-exports/<key:pk>.zip", views.model_export_download, name="model-export-download"),
]
