"""`manage.py export_data --project SLUG --format NAME --out DIR`: write a data set into a new folder."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.corpus.audit import COMMAND, Action, audit
from webapp.corpus.commands import project_named
from webapp.snapshots.data_card import changed_words, left_out_words
from webapp.snapshots.exporting import ExportRefused, export_write
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.models import Export


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
