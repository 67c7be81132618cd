"""URLs of importing: uploads, their previews, and the description of the formats."""

from django.urls import path

from webapp.importing import views

app_name = "importing"
urlpatterns = [
    path("p/<slug:slug>/imports/", views.imports, name="imports"),
    path("p/<slug:slug>/imports/formats/", views.import_formats, name="import-formats"),
    path("p/<slug:slug>/imports/<key:pk>/", views.import_page, name="import"),
    path("p/<slug:slug>/imports/<key:pk>/progress/", views.import_progress, name="import-progress"),
    path("p/<slug:slug>/imports/<key:pk>/confirm/", views.import_confirm_view, name="import-confirm"),
    path("p/<slug:slug>/imports/<key:pk>/cancel/", views.import_cancel_view, name="import-cancel"),
    path("p/<slug:slug>/imports/<key:pk>/retry/", views.import_retry_view, name="import-retry"),
    path("p/<slug:slug>/imports/<key:pk>/errors.jsonl", views.import_errors, name="import-errors"),
]
