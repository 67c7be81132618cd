"""URLs of the operator's pages."""

from django.urls import path

from webapp.operations import views

app_name = "operations"
urlpatterns = [path("disk/", views.disk, name="disk")]
