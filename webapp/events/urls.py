"""URLs of events: webhooks and what they were told."""

from django.urls import path

from webapp.events import views

app_name = "events"
urlpatterns = [
    path("webhooks/", views.webhooks, name="webhooks"),
    path("webhooks/<key:pk>/", views.webhook, name="webhook"),
    path("webhooks/<key:pk>/ping/", views.ping, name="ping"),
    path("webhooks/<key:pk>/pause/", views.pause, name="pause"),
    path("webhooks/<key:pk>/resume/", views.resume, name="resume"),
    path("webhooks/<key:pk>/secret/", views.rotate, name="rotate"),
    path("webhooks/<key:pk>/remove/", views.remove, name="remove"),
    path("webhooks/<key:pk>/deliveries/<key:delivery>/again/", views.again, name="again"),
]
