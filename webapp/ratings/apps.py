"""The ratings app adds its export format to those of webapp.snapshots, which knows nothing of predictions, its triggers
to the tables of labels, and the index of the search.
"""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RatingsConfig(AppConfig):
    name = "webapp.ratings"

    def ready(self) -> None:
        from webapp.ratings.exporting import PREDICTIONS
        from webapp.snapshots.formats import register

        register(PREDICTIONS)

        from webapp.ratings.searching import index_install
        from webapp.ratings.tallies import triggers_install

        post_migrate.connect(triggers_install, sender=self)
        post_migrate.connect(index_install, sender=self)
