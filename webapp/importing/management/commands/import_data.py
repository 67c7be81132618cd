"""`manage.py import_data --project SLUG [--format NAME] FILE... [--dry-run]`: import files, zips and folders here.

In place of files stands one address of a hub or store, such as hf://datasets/ORG/NAME, perhaps with --split.
"""

import re
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from webapp import life
from webapp.corpus.audit import COMMAND, Action
from webapp.corpus.commands import project_named
from webapp.corpus.models import Import, Project
from webapp.importing.batches import imports_settle
from webapp.importing.mapping import MEANINGS, ROLES, Mapping, value_key
from webapp.importing.origins import origin_fetched, origin_name, origin_of
from webapp.importing.reading import ImportRefused, Source
from webapp.importing.report import ERRORS, Report
from webapp.importing.services import audit_import, import_claimed, import_files, sources_in
from webapp.importing.shapes import NotRecognised
from webapp.importing.survey import cut_points, guess, meanings, survey
from webapp.jobs import State, Stopped


class Command(BaseCommand):
    help = (
        "Import prompts, responses, pairs, votes and levels from files. Formats: webapp/importing/FORMATS.md"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="files and folders, or one address")
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument(
            "--format", default=Import.Format.AUTO, choices=Import.Format.values, help="default: recognise it"
        )
        parser.add_argument(
            "--map", action="append", default=[], metavar="ROLE=COLUMN",
            help="which column is what, such as prompt=question a=answer1 b=answer2 winner=better; winner.VALUE="
            "a, b, tie, both_bad, skip or none; ratings=levels|pairs|both, bad_to=N, normal_to=N, difference=N; "
            "annotator_name=NAME. Repeat it.",
        )  # fmt: skip
        for name, words in (
            ("config", "config"),
            ("split", "split, or all"),
            ("revision", "branch, tag or commit"),
        ):
            parser.add_argument(f"--{name}", default="", help=f"of an address: its {words}")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be imported")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        folder = Path(tempfile.mkdtemp(prefix="caliper-import-"))
        try:
            sources, origin = self._sources(folder, options)
            self._import(project, sources, origin, folder, options)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sources(self, folder: Path, options: dict[str, Any]) -> tuple[list[Source], dict[str, Any]]:
        """The files to read, and where they were fetched from, if they were."""
        given = options["files"]
        chosen = {name: options[name] for name in ("config", "split", "revision")}
        if any("://" in name for name in given):
            if len(given) > 1:
                raise CommandError("Give one address, and no files beside it.")
            fetched = folder / "fetched"
            fetched.mkdir()
            try:
                origin = origin_fetched(origin_of(given[0], **chosen), fetched, self._progress())
            except (ImportRefused, OSError) as error:
                raise CommandError(f"Nothing was imported. {error}") from error
            return sources_in(fetched), origin
        if any(chosen.values()):
            raise CommandError(
                "--config, --split and --revision belong to an address, such as hf://datasets/ORG/NAME."
            )
        sources = []
        for path in map(Path, given):
            if not path.is_file() and not path.is_dir():
                raise CommandError(
                    f"There is no file or folder {path}. A hub's data set is hf://datasets/ORG/NAME."
                )
            sources.append(Source(path, path.name or path.resolve().name))
        return sources, {}

    def _import(
        self,
        project: Project,
        sources: list[Source],
        origin: dict[str, Any],
        folder: Path,
        options: dict[str, Any],
    ) -> None:
        mapping = self._mapping(options["map"], sources) if options["map"] else None
        row = (
            None
            if options["dry_run"]
            else self._claimed(project, sources, mapping, options["format"], origin)
        )

        def written(report: Report) -> None:
            assert row is not None
            row.format = report.format
            row.save(update_fields=["format"])
            audit_import(row, Action.IMPORT_CONFIRMED, COMMAND)

        try:
            if row is None:
                report = import_files(
                    project=project,
                    sources=sources,
                    format_name=Import.Format.MAPPED if mapping else options["format"],
                    mapping=mapping,
                    dry_run=True,
                    folder=folder,
                    progress=self._progress(),
                )
            else:
                with life.alive(row):
                    report = import_claimed(
                        row,
                        sources,
                        mapping=mapping,
                        folder=folder,
                        progress=self._progress(),
                        written=written,
                    )
                if report.left_out:
                    kept = settings.DATA_DIR / row.folder
                    kept.mkdir(parents=True)
                    shutil.copy(folder / ERRORS, kept / ERRORS)
        except NotRecognised as error:
            roles = guess(survey(sources)).roles
            named = " ".join(f"--map {shlex.quote(f'{role}={name}')}" for name, role in roles.items() if role)
            hint = named or "--map prompt=COLUMN --map a=COLUMN --map b=COLUMN --map winner=COLUMN"
            raise CommandError(
                f"Nothing was imported. {error} Say which column is what, perhaps: {hint}"
            ) from error
        except (ImportRefused, OSError) as error:
            raise CommandError(f"Nothing was imported. {error}") from error
        except Stopped as stopped:
            raise CommandError("Nothing was imported. Somebody cancelled it.") from stopped
        finally:
            if row is not None:
                # One that failed leaves nothing behind, unless it is whole and somebody has yet to open it.
                row.fail("The command broke off.")
                ended = Import.objects.filter(pk=row.pk).exclude(state=State.DONE)
                ended.exclude(pk__in=Import.objects.unfinished()).delete()
        self._summary(report)
        if row is not None and report.left_out:
            self.stdout.write(f"all of them: {settings.DATA_DIR / row.folder / ERRORS}")

    def _claimed(
        self,
        project: Project,
        sources: list[Source],
        mapping: Mapping | None,
        format_name: str,
        origin: dict[str, Any],
    ) -> Import:
        """The row of this import, in this process's hands from its first moment."""
        with transaction.atomic():
            imports_settle(project)
            row = Import.objects.create(
                project=project,
                file_name=origin_name(origin)
                if origin
                else ", ".join(source.name for source in sources)[:255],
                origin=origin,
                folder=f"imports/{secrets.token_hex(8)}",
                format=Import.Format.MAPPED if mapping else format_name,
                dry_run=False,
                mapping=mapping.as_json() if mapping else {},
            )
            if not row.claim():
                raise CommandError(
                    f"Nothing was imported. Import {row.waits_for} of this project runs. Wait until it has ended."
                )
        return row

    def _mapping(self, given: list[str], sources: list[Source]) -> Mapping:
        """The mapping of --map. Values of the winner that it doesn't explain are guessed, and the guesses printed."""
        try:
            found = survey(sources)
        except (ImportRefused, OSError) as error:
            raise CommandError(f"Nothing was imported. {error}") from error
        mapping = Mapping(roles=dict.fromkeys(found["columns"], ""))
        told: dict[str, str] = {}
        cut: set[str] = set()
        for item in given:
            name, equals, value = item.partition("=")
            if name.startswith("winner."):
                name, equals, value = item.rpartition("=")
                if value not in MEANINGS and not re.fullmatch(r"r\d{1,2}", value):
                    raise CommandError(f"--map {item}: the meaning is one of {', '.join(MEANINGS)}.")
                told[value_key(name.removeprefix("winner."))] = value
            elif name in ("bad_to", "normal_to", "difference"):
                try:
                    setattr(mapping, name, float(value))
                except ValueError:
                    raise CommandError(f"--map {item}: write a number.") from None
                cut.add(name)
            elif name == "ratings":
                mapping.ratings = value
            elif name == "annotator_name":
                mapping.annotator = value
            elif name not in ROLES or not equals:
                raise CommandError(f"--map {item}: write ROLE=COLUMN. Roles: {', '.join(ROLES)}.")
            elif value not in mapping.roles:
                raise CommandError(
                    f"--map {item}: there is no such column. Columns: {', '.join(mapping.roles)}."
                )
            else:
                mapping.roles[value] = name
        guessed = {key: meaning for key, meaning in meanings(mapping, found).items() if key not in told}
        mapping.winner = guessed | told
        if mapping.has_ratings and not cut & {"bad_to", "normal_to"}:
            mapping.bad_to, mapping.normal_to = cut_points(mapping, found)
            if mapping.ratings != "pairs":
                self.stdout.write(
                    f"cut points: bad_to={mapping.bad_to:g} normal_to={mapping.normal_to:g} (guessed)"
                    if mapping.bad_to is not None and mapping.normal_to is not None
                    else "cut points: none found"
                )
        for key, meaning in guessed.items():
            self.stdout.write(f"winner.{key}={meaning} (guessed: {MEANINGS.get(meaning, meaning)})")
        if errors := mapping.errors():
            raise CommandError(
                "Nothing was imported. " + " ".join(f"{name}: {text}" for name, text in errors.items())
            )
        return mapping

    def _progress(self) -> Any:
        """A line on a terminal that is written over; nothing where the output is a file."""
        last = 0.0

        def show(phase: str, step: int, total: int) -> None:
            nonlocal last
            if sys.stderr.isatty() and time.monotonic() - last > 0.2:
                last = time.monotonic()
                percent = 100 * step // total if total else 0
                self.stderr.write(f"\r{phase} {percent} %   ", ending="")
                self.stderr.flush()

        return show

    def _summary(self, report: Report) -> None:
        if sys.stderr.isatty():
            self.stderr.write("\r", ending="")
        verb = "would be imported" if report.dry_run else "imported"
        for file in report.files:
            what = file["read_as"] or f"passed over, {file['passed_over']}"
            self.stdout.write(f"{file['name']}: {what}")
        self.stdout.write(f"{report.format}: {report.rows:,} rows read in {report.seconds:.1f} s; {verb}:")
        for record_type, counts in report.counts.items():
            extra = f", {counts['changed']:,} changed" if counts["changed"] else ""
            name = "pairs made" if record_type == "made" else record_type
            self.stdout.write(
                f"  {name:<11}{counts['new']:>9,} new, {counts['present']:,} already there{extra}"
            )
        if report.merged_prompts:
            self.stdout.write(f"{report.merged_prompts:,} rows ask what an earlier row asks, word for word")
        for column, number in report.unused.items():
            self.stdout.write(f"column “{column}” is not used ({number:,} rows have a value there)")
        if report.left_out:
            self.stdout.write(f"{report.left_out:,} rows left out:")
            for error in report.errors[:10]:
                field = f", field “{error['field']}”" if error["field"] else ""
                self.stdout.write(
                    f"  {error['file']}, row {error['row']}{field}: {error['message']} {error['remedy']}"
                )
            if report.left_out > 10:
                self.stdout.write(f"  … and {report.left_out - 10:,} more")
