"""URLs of ratings: the pages on which predictions stand beside people."""

from django.urls import path

from webapp.ratings import views, views_trying

app_name = "ratings"
urlpatterns = [
    path("", views.overview, name="project"),
    path("responses/", views.responses, name="responses"),
    path("responses/<key:pk>/", views.response_detail, name="response"),
    path("responses/<key:pk>/methods/", views.response_methods, name="response-methods"),
    path("leaderboard/", views.leaderboard, name="leaderboard"),
    path("leaderboard/csv/", views.leaderboard_csv, name="leaderboard-csv"),
    path("count-again/", views.count_again, name="count-again"),
    path("pairs/", views.pairs, name="pairs"),
    path("pairs/<key:pk>/", views.pair_detail, name="pair"),
    path("try/", views_trying.try_texts, name="try"),
    path("try/<token:token>/", views_trying.trial, name="trial"),
    path("versions/compare/", views.versions_compare, name="compare"),
]
