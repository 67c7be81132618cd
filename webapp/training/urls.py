"""URLs of training."""

from django.urls import path

from webapp.training import views

app_name = "training"
urlpatterns = [
    path("p/<slug:slug>/runs/", views.runs, name="runs"),
    path("p/<slug:slug>/runs/start/", views.run_start_view, name="run-start"),
    path("p/<slug:slug>/runs/<key:pk>/", views.run, name="run"),
    path("p/<slug:slug>/runs/<key:pk>/progress/", views.run_progress, name="run-progress"),
    path("p/<slug:slug>/runs/<key:pk>/log.txt", views.run_log, name="run-log"),
    path("p/<slug:slug>/runs/<key:pk>/cancel/", views.run_cancel_view, name="run-cancel"),
    path("p/<slug:slug>/runs/<key:pk>/resume/", views.run_resume_view, name="run-resume"),
    path("p/<slug:slug>/versions/<key:pk>/promote/", views.version_promote_view, name="version-promote"),
    path("p/<slug:slug>/versions/<key:pk>/exports/", views.model_exports, name="model-exports"),
    path(
        "p/<slug:slug>/versions/<key:pk>/exports/start/",
        views.model_export_start_view,
        name="model-export-start",
    ),
    path(
        "p/<slug:slug>/model-exports/<key:pk>.zip", views.model_export_download, name="model-export-download"
    ),
]
