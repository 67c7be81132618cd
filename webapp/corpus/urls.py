"""URLs of corpus: projects, their settings and people; importing."""

from django.urls import path

from webapp.corpus import views, views_audit, views_imports

app_name = "corpus"
urlpatterns = [
    path("", views.projects, name="projects"),
    path("new/", views.project_new, name="project-new"),
    path("join/<token:token>/", views.join, name="join"),
    path("p/<slug:slug>/settings/", views.project_settings, name="settings"),
    path("p/<slug:slug>/guidelines/", views.guidelines, name="guidelines"),
    path("p/<slug:slug>/people/", views.people, name="people"),
    path("p/<slug:slug>/people/remove/", views.person_remove, name="person-remove"),
    path(
        "p/<slug:slug>/people/invitations/<key:pk>/withdraw/",
        views.invitation_withdraw,
        name="invitation-withdraw",
    ),
    path("p/<slug:slug>/audit/", views_audit.audit_page, name="audit"),
    path("p/<slug:slug>/audit/log.jsonl", views_audit.audit_lines, name="audit-lines"),
    path("p/<slug:slug>/imports/", views_imports.imports, name="imports"),
    path("p/<slug:slug>/imports/formats/", views_imports.import_formats, name="import-formats"),
    path("p/<slug:slug>/imports/<key:pk>/", views_imports.import_page, name="import"),
    path("p/<slug:slug>/imports/<key:pk>/progress/", views_imports.import_progress, name="import-progress"),
    path("p/<slug:slug>/imports/<key:pk>/confirm/", views_imports.import_confirm_view, name="import-confirm"),
    path("p/<slug:slug>/imports/<key:pk>/cancel/", views_imports.import_cancel_view, name="import-cancel"),
    path("p/<slug:slug>/imports/<key:pk>/retry/", views_imports.import_retry_view, name="import-retry"),
    path("p/<slug:slug>/imports/<key:pk>/errors.jsonl", views_imports.import_errors, name="import-errors"),
]
