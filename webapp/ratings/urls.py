"""URLs of ratings: the pages on which predictions stand beside people."""

from django.urls import path

from webapp.ratings import views

app_name = "ratings"
urlpatterns = [
    path("", views.overview, name="project"),
    path("responses/", views.responses, name="responses"),
    path("responses/<key:pk>/", views.response_detail, name="response"),
    path("responses/<key:pk>/methods/", views.response_methods, name="response-methods"),
    path("pairs/", views.pairs, name="pairs"),
    path("pairs/<key:pk>/", views.pair_detail, name="pair"),
    path("versions/compare/", views.versions_compare, name="compare"),
]
