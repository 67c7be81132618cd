"""manage.py seed_demo: the demonstration project with its people, once per installation."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.training.demo import demo_seed


class Command(BaseCommand):
    help = "Make the demonstration project, its sign-ins and its simulated judgements, and queue its first trainings."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-train", action="store_true", help="queue no training runs")

    def handle(self, *args: Any, **options: Any) -> None:
        made = demo_seed(say=self.stdout.write, train=not options["no_train"])
        self.stdout.write("The demonstration is ready." if made else "The demonstration is in place.")
