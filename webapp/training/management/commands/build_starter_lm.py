"""manage.py build_starter_lm: a tiny causal language model from a project's own texts."""

import subprocess
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.corpus.commands import project_named
from webapp.corpus.models import Response
from webapp.snapshots.services import snapshot_take
from webapp.training.services import starter_command, starter_path


class Command(BaseCommand):
    help = (
        "Make the project's starter language model (a few million weights, a byte-level vocabulary of its own texts), "
        "so that HaF-RM and OPRM by digits run where no model hub can be reached. It is not a good model."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if not Response.objects.of(project).exists():
            raise CommandError(f"{project.name} has no responses to learn from. Import some first.")
        snapshot = snapshot_take(project=project)
        target = starter_path(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        # A process of its own: this half never imports torch.
        status = subprocess.run(starter_command(snapshot.path, target), cwd=settings.BASE_DIR).returncode
        if status != 0:
            raise CommandError("The starter language model could not be built; the lines above say why.")
        self.stdout.write(f"{target}")
