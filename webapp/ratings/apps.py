"""The ratings app adds its export format to those of webapp.snapshots, which knows nothing of predictions."""

from django.apps import AppConfig


class RatingsConfig(AppConfig):
    name = "webapp.ratings"

    def ready(self) -> None:
        from webapp.ratings.exporting import PREDICTIONS
        from webapp.snapshots.formats import register

        register(PREDICTIONS)
