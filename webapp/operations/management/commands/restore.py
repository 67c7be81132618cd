"""`manage.py restore DIR`: a backup into an empty installation, whatever database it was made from."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.operations.backup import BackupRefused, backup_restore


class Command(BaseCommand):
    help = "Restore a backup into an empty, migrated database and an empty data folder. Stop the other processes first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR", help="what `manage.py backup` made")
        parser.add_argument(
            "--replace", action="store_true", help="delete the rows that are here, and set the files aside"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = backup_restore(folder=options["folder"], replace=options["replace"], say=self.stdout.write)
        except (BackupRefused, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{done.rows:,} rows and {done.files:,} files restored in {done.seconds:.1f} s\ndigest {done.digest}"
        )
