"""The database backend (Django wants this file name)."""

from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Nothing outlives a transaction in the session, which may belong to somebody else by then."""

    def chunked_cursor(self) -> Any:
        """A server-side cursor inside a transaction; outside, an ordinary one, which holds its rows in memory.

        What reads much (exports, snapshots, backups) reads in one transaction, so its memory stays small.
        """
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()
