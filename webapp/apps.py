"""The application that the others stand on: it registers the checks of the settings."""

from django.apps import AppConfig


class CaliperConfig(AppConfig):
    name = "webapp"

    def ready(self) -> None:
        from webapp import checks  # noqa: F401 - registers them
