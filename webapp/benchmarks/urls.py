"""URLs of evaluation sets."""

from django.urls import path

from webapp.benchmarks import views

app_name = "benchmarks"
urlpatterns = [
    path("benchmarks/", views.sets, name="sets"),
    path("benchmarks/add/", views.set_add, name="set-add"),
    path("benchmarks/<key:pk>/", views.evaluation_set, name="set"),
    path("benchmarks/<key:pk>/retry/", views.set_retry, name="set-retry"),
    path("benchmarks/<key:pk>/delete/", views.set_delete, name="set-delete"),
    path("benchmarks/<key:pk>/measure/", views.measurement_start, name="measure"),
    path("measurements/<key:pk>/cancel/", views.measurement_cancel, name="measurement-cancel"),
]
