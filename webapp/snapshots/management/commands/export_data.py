"""`manage.py export_data --project SLUG --format NAME --out DIR`: write a data set into a new folder."""

from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.corpus.audit import COMMAND, Action, audit
from webapp.corpus.commands import project_named
from webapp.corpus.models import Project
from webapp.importing.addresses import AddressRefused
from webapp.snapshots.data_card import changed_words, left_out_words
from webapp.snapshots.exporting import ExportRefused, export_write
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.models import DataPush, Export
from webapp.snapshots.pushes import Part
from webapp.snapshots.pushing import PushRefused, parts_push, push_address


class Command(BaseCommand):
    help = "Export a project's labels as a folder that datasets.load_dataset takes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--format", required=True, choices=Export.Format.values)
        parser.add_argument(
            "--out",
            required=True,
            metavar="DIR",
            type=Path,
            help="a folder that isn't there yet, or is empty",
        )
        parser.add_argument(
            "--file-type", choices=Export.FileType.values, help="default: parquet (caliper: jsonl)"
        )
        parser.add_argument(
            "--aggregation", choices=Export.Aggregation.values, default=Export.Aggregation.MAJORITY
        )
        parser.add_argument(
            "--superseded", action="store_true", help="judgements: also corrected and retracted ones"
        )
        parser.add_argument(
            "--safe-for-spreadsheets",
            action="store_true",
            help="CSV: an apostrophe before texts that a spreadsheet would run",
        )
        parser.add_argument(
            "--model-version",
            default="",
            metavar="NAME",
            help="predictions: whose, such as oprm-3; default: the versions that serve",
        )

        parser.add_argument(
            "--push",
            default="",
            metavar="ADDRESS",
            help="carry the folder to a hub's ORG/NAME or a store's address as well (docs/hubs.md)",
        )
        parser.add_argument("--public", action="store_true", help="--push: everybody may read it on the hub")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"], writes=False)
        default = FORMATS[options["format"]].file_types[0]
        try:
            report = export_write(
                project=project,
                format=options["format"],
                file_type=options["file_type"] or default,
                aggregation=options["aggregation"],
                folder=options["out"].resolve(),
                superseded=options["superseded"],
                safe_for_spreadsheets=options["safe_for_spreadsheets"],
                version=options["model_version"],
            )
        except (ExportRefused, OSError) as error:
            raise CommandError(f"Nothing was exported. {error}") from error
        detail = {"format": options["format"], "snapshot": report["snapshot"], "rows": report["rows"]}
        audit(project=project, actor=COMMAND, action=Action.EXPORT_STARTED, detail=detail)
        self.stdout.write(
            f"{report['rows']:,} rows in {options['out']} ({report['seconds']} s); snapshot {report['snapshot']}"
        )
        if words := left_out_words(report["left_out"]):
            self.stdout.write(f"left out: {'; '.join(words)}")
        if words := changed_words(report["changed"]):
            self.stdout.write(f"written otherwise than stored: {'; '.join(words)}")
        if options["push"]:
            self._push(project, options, report)

    def _push(self, project: Project, options: dict[str, Any], report: dict[str, Any]) -> None:
        folder: Path = options["out"].resolve()
        parts = [
            Part(file["name"], file["bytes"], partial((folder / file["name"]).open, "rb", 0))
            for file in report["files"]
        ]
        facts = {"format": options["format"], "snapshot": report["snapshot"]}
        try:
            address = push_address(options["push"], DataPush.kind)
            title = f"{FORMATS[options['format']].label.partition(':')[0]} of {project.name}"
            found = parts_push(
                parts, address, kind=DataPush.kind, public=options["public"], title=title, facts=facts
            )
        except (AddressRefused, PushRefused, OSError) as error:
            raise CommandError(f"The folder was written, but not pushed. {error}") from error
        detail = {"kind": DataPush.kind, "to": address, "public": options["public"], **facts}
        audit(project=project, actor=COMMAND, action=Action.PUSHED, detail=detail)
        self.stdout.write(f"pushed to {found['url'] or address}")
