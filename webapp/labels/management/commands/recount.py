"""manage.py recount: compare the queue's numbers with the rows that they count, and mend them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.corpus.commands import project_named
from webapp.corpus.models import Project
from webapp.labels.checking import counters_check


class Command(BaseCommand):
    help = "Count the places and counters of the queue anew; tells and mends each that was wrong."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", metavar="SLUG", help="only this project (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        projects = (
            [project_named(options["project"])] if options["project"] else Project.objects.order_by("pk")
        )
        for project in projects:
            told = counters_check(project)
            self.stdout.write(
                f"{project.slug}: {len(told) or 'no'} wrong number{'' if len(told) == 1 else 's'}"
            )
            for sentence in told:
                self.stdout.write(f"  {sentence}")
