"""URLs of labels."""

from django.urls import path

from webapp.labels import views

app_name = "labels"
urlpatterns = [
    path("p/<slug:slug>/annotate/", views.annotate, name="annotate"),
    path("p/<slug:slug>/annotate/undo/", views.undo, name="undo"),
    path("p/<slug:slug>/annotate/<uuid:key>/", views.submit, name="submit"),
    path("p/<slug:slug>/history/", views.history, name="history"),
    path("p/<slug:slug>/people/<key:pk>/judgements/", views.annotator, name="annotator"),
]
