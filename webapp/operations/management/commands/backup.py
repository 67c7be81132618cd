"""`manage.py backup DIR`: all rows and files into a new folder, while everything runs."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.operations.backup import BackupRefused, backup_make


class Command(BaseCommand):
    help = "Write a backup of the database and the data folder into a new folder. Caliper may run meanwhile."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that isn't there yet")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = backup_make(folder=options["folder"], say=self.stdout.write)
        except (BackupRefused, OSError) as error:
            raise CommandError(f"No backup was made. {error}") from error
        self.stdout.write(
            f"{made.rows:,} rows, {made.files:,} files, {made.bytes / 1e6:,.1f} MB in {made.seconds:.1f} s: "
            f"{options['folder']}\ndigest {made.digest}"
        )
