"""URLs of labels."""

from django.urls import path

from webapp.labels import views

app_name = "labels"
urlpatterns = [
    path("annotate/", views.annotate, name="annotate"),
    path("annotate/undo/", views.undo, name="undo"),
    path("annotate/<uuid:key>/", views.submit, name="submit"),
    path("history/", views.history, name="history"),
    path("people/<key:pk>/judgements/", views.annotator, name="annotator"),
]
