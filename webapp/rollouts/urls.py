"""URLs of rollouts."""

from django.urls import path

from webapp.rollouts import views

app_name = "rollouts"
urlpatterns = [
    path("rollouts/", views.rollouts, name="rollouts"),
    path("rollouts/settings/", views.settings_save, name="settings"),
]
