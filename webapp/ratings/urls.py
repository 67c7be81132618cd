"""URLs of ratings: the pages on which predictions stand beside people."""

from django.urls import path

from webapp.ratings import views

app_name = "ratings"
urlpatterns = [
    path("p/<slug:slug>/", views.project, name="project"),
    path("p/<slug:slug>/responses/", views.responses, name="responses"),
    path("p/<slug:slug>/responses/<key:pk>/", views.response, name="response"),
    path("p/<slug:slug>/pairs/", views.pairs, name="pairs"),
    path("p/<slug:slug>/pairs/<key:pk>/", views.pair, name="pair"),
]
