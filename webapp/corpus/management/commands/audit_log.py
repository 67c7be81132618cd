"""manage.py audit_log [--project SLUG]: the audit log as JSON lines, newest first."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.corpus.audit import json_lines
from webapp.corpus.commands import project_named
from webapp.corpus.models import AuditEntry


class Command(BaseCommand):
    help = "Print the audit log as JSON lines, newest first: of one project, or of the whole installation."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", metavar="SLUG", help="only this project's entries")

    def handle(self, *args: Any, **options: Any) -> None:
        entries = AuditEntry.objects.all()
        if options["project"]:
            entries = entries.of(project_named(options["project"], writes=False))
        for line in json_lines(entries):
            self.stdout.write(line, ending="")
