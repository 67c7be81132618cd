"""URLs of importing: uploads, their previews, and the description of the formats."""

from django.urls import path

from webapp.importing import views, views_mapping, views_pairs

app_name = "importing"
urlpatterns = [
    path("imports/", views.imports, name="imports"),
    path("imports/from/", views.import_from, name="import-from"),
    path("imports/formats/", views.import_formats, name="import-formats"),
    path("imports/<key:pk>/", views.import_page, name="import"),
    path("imports/<key:pk>/progress/", views.import_progress, name="import-progress"),
    path("imports/<key:pk>/confirm/", views.import_confirm, name="import-confirm"),
    path("imports/<key:pk>/cancel/", views.import_cancel, name="import-cancel"),
    path("imports/<key:pk>/retry/", views.import_retry, name="import-retry"),
    path("imports/<key:pk>/mapping/", views_mapping.import_mapping, name="import-mapping"),
    path("imports/<key:pk>/ask/", views_mapping.import_ask, name="import-ask"),
    path("imports/<key:pk>/undo/", views_mapping.import_undo, name="import-undo"),
    path("imports/<key:pk>/discard/", views_mapping.import_discard, name="import-discard"),
    path("pairs/new/", views_pairs.pair_new, name="pair-new"),
    path("imports/<key:pk>/errors.jsonl", views.import_errors, name="import-errors"),
]
