"""URLs of corpus: projects, their settings and people."""

from django.urls import include, path

from webapp.corpus import views, views_audit

app_name = "corpus"
project = [
    path("settings/", views.project_settings, name="settings"),
    path("archive/", views.project_archive, name="archive"),
    path("unarchive/", views.project_unarchive, name="unarchive"),
    path("copy/", views.project_copy, name="copy"),
    path("guidelines/", views.guidelines, name="guidelines"),
    path("people/", views.people, name="people"),
    path("people/remove/", views.person_remove, name="person-remove"),
    path(
        "people/invitations/<key:pk>/withdraw/",
        views.invitation_withdraw,
        name="invitation-withdraw",
    ),
    path("audit/", views_audit.audit_page, name="audit"),
    path("audit/log.jsonl", views_audit.audit_lines, name="audit-lines"),
]
urlpatterns = [
    path("", views.projects, name="projects"),
    path("new/", views.project_new, name="project-new"),
    path("join/<token:token>/", views.join, name="join"),
    path("p/<slug:slug>/", include(project)),
]
