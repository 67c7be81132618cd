"""URLs of labels."""

from django.urls import path

from webapp.labels import views, views_machines

app_name = "labels"
urlpatterns = [
    path("annotate/", views.annotate, name="annotate"),
    path("annotate/undo/", views.undo, name="undo"),
    path("annotate/<uuid:key>/", views.submit, name="submit"),
    path("history/", views.history, name="history"),
    path("people/<key:pk>/judgements/", views.annotator, name="annotator"),
    path("machines/", views_machines.machines, name="machines"),
    path("machines/<key:pk>/", views_machines.machine, name="machine"),
    path("machines/<key:pk>/ask/", views_machines.ask, name="machine-ask"),
    path("machines/<key:pk>/withdraw/", views_machines.withdraw, name="machine-withdraw"),
    path("machines/<key:pk>/jobs/<key:job>/cancel/", views_machines.cancel, name="machine-cancel"),
    path("machines/<key:pk>/jobs/<key:job>/resume/", views_machines.resume, name="machine-resume"),
]
