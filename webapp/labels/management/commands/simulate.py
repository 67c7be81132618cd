"""manage.py simulate: let simulated annotators judge through the real queue and services."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.corpus.commands import project_named
from webapp.labels.simulation import simulate


class Command(BaseCommand):
    help = "Let simulated annotators (named as such) judge through the real queue and services."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--annotators", type=int, default=3, metavar="N")
        parser.add_argument(
            "--judgements", type=int, default=100, metavar="N", help="stop after so many (default 100)"
        )
        parser.add_argument(
            "--sharpness", type=float, default=1.2, help="q in P = sigmoid(q * difference of quality)"
        )
        parser.add_argument("--seed", type=int, default=0)

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if options["annotators"] < 1 or options["judgements"] < 1 or options["sharpness"] <= 0:
            raise CommandError("--annotators and --judgements must be at least 1, --sharpness above 0.")

        def progress(done: int, total: int) -> None:
            if done % 100 == 0:
                self.stdout.write(f"{done}/{total}")

        stored = simulate(
            project=project,
            annotators=options["annotators"],
            judgements=options["judgements"],
            sharpness=options["sharpness"],
            seed=options["seed"],
            progress=progress,
        )
        self.stdout.write(self.style.SUCCESS(f"{stored} simulated judgements stored in “{project.name}”."))
        if stored < options["judgements"]:
            self.stdout.write(
                "Nothing more is open for these annotators (every item has its wanted judgements)."
            )
