"""URLs of corpus: projects, their settings and people."""

from django.urls import path

from webapp.corpus import views, views_audit

app_name = "corpus"
urlpatterns = [
    path("", views.projects, name="projects"),
    path("new/", views.project_new, name="project-new"),
    path("join/<token:token>/", views.join, name="join"),
    path("p/<slug:slug>/settings/", views.project_settings, name="settings"),
    path("p/<slug:slug>/archive/", views.project_archive, name="archive"),
    path("p/<slug:slug>/unarchive/", views.project_unarchive, name="unarchive"),
    path("p/<slug:slug>/copy/", views.project_copy, name="copy"),
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
]
