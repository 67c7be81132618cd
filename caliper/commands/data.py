"""`caliper import` and `export`."""

import argparse
import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caliper import types
from caliper.client import Project
from caliper.commands.common import Adds, Progress, Stop, client_of, result, told
from caliper.data import Exports
from caliper.errors import CaliperError

NUMBERS = ("bad_to", "normal_to", "difference")


def add(command: Adds) -> None:
    sub = command("import", import_, "Import prompts, responses, pairs, votes and levels.")
    sub.add_argument("--project", required=True, metavar="SLUG")
    sub.add_argument(
        "sources", nargs="+", metavar="FILE", help="files, or one address: hf://datasets/ORG/NAME, s3://..."
    )
    sub.add_argument("--format", default="auto", help="default: recognise it")
    sub.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="ROLE=COLUMN",
        help="which column is what, such as prompt=question a=answer1 b=answer2 winner=better; winner.VALUE=a, b, tie, "
        "both_bad, skip or none; ratings=levels|pairs|both, bad_to=N, normal_to=N, difference=N. May be given again.",
    )
    sub.add_argument("--config", default="", help="of an address: its configuration")
    sub.add_argument("--split", default="", help="of an address: its split")
    sub.add_argument("--revision", default="", help="of an address: its revision")
    sub.add_argument("--dry-run", action="store_true", help="only say what would be imported")
    sub = command("export", export, "Write a project's labels to a file.")
    sub.add_argument("--project", required=True, metavar="SLUG")
    sub.add_argument("--format", required=True)
    sub.add_argument(
        "--out", required=True, metavar="FILE", type=Path, help="ends in .jsonl, .csv or .zip (Parquet)"
    )
    sub.add_argument("--aggregation", choices=("vote", "majority"), help="of several votes on a pair")


def import_(options: argparse.Namespace) -> None:
    with client_of(options) as client:
        project = client.project(options.project)
        row = _begun(project, options)
        progress = Progress()
        try:
            row = _previewed(project, row, options.map, progress)
            if not options.dry_run:
                project.imports.confirm(row["id"])
        except BaseException:
            _thrown_away(project, row["id"])
            raise
        finally:
            progress.end()
        if options.dry_run:
            project.imports.discard(row["id"])
        else:
            told(f"Import {row['id']} is being written. Ctrl-C leaves it running.")
            try:
                row = project.imports.wait(row["id"], progress.job)
            finally:
                progress.end()
            if row["state"] != "done":
                raise Stop(f"Nothing was imported. {row['error'] or 'It is ' + row['state'] + '.'}")
        result(options, row, _summary(row, dry_run=options.dry_run))


def _begun(project: Project, options: argparse.Namespace) -> types.ImportWhole:
    addresses = [source for source in options.sources if "://" in source]
    if not addresses:
        for source in options.sources:
            if not Path(source).is_file():
                raise Stop(f"There is no file {source}.", 2)
        return project.imports.upload(options.sources, options.format)
    if len(options.sources) > 1:
        raise Stop("Give one address, or files: not several.", 2)
    return project.imports.from_address(
        addresses[0], config=options.config, split=options.split, revision=options.revision
    )


def _previewed(
    project: Project, row: types.ImportWhole, named: list[str], progress: Progress
) -> types.ImportWhole:
    """The import once its files have been read, by --map if it is given."""
    imports = project.imports
    row = imports.wait(row["id"], progress.job)
    if named and row["state"] == "done":
        if not row["asks"]:
            imports.ask(row["id"])
            imports.wait(row["id"], progress.job)
        imports.map(row["id"], _mapping(imports.mapping(row["id"]), named))
        row = imports.wait(row["id"], progress.job)
    if row["asks"]:
        raise Stop(_which_column(imports.mapping(row["id"])))
    if row["state"] != "done":
        raise Stop(f"Nothing was imported. {row['error'] or 'It is ' + row['state'] + '.'}")
    return row


def _which_column(found: types.MappingShown) -> str:
    guessed = [f"{role}={column}" for column, role in found["mapping"]["roles"].items() if role]
    example = guessed or ["prompt=COLUMN", "a=COLUMN", "b=COLUMN", "winner=COLUMN"]
    return (
        "Nothing was imported: the format was not recognised. Say which column is what, perhaps: "
        f"{' '.join('--map ' + shlex.quote(each) for each in example)}. "
        f"Columns: {', '.join(found['columns'])}."
    )


def _mapping(found: types.MappingShown, named: list[str]) -> dict[str, Any]:
    """The mapping of --map. What it leaves out of the winner's values and of the cut points stays as guessed."""
    mapping: dict[str, Any] = {**found["mapping"], "roles": dict.fromkeys(found["columns"], "")}
    for item in named:
        name, equals, value = item.partition("=")
        if name.startswith("winner."):
            name, equals, value = item.rpartition("=")
            key = name.removeprefix("winner.").strip().casefold()
            mapping["winner"] = {**mapping["winner"], key: value}
        elif not equals:
            raise Stop(f"--map {item}: write ROLE=COLUMN.", 2)
        elif name in NUMBERS:
            try:
                mapping[name] = float(value)
            except ValueError:
                raise Stop(f"--map {item}: write a number.", 2) from None
        elif name == "ratings":
            mapping["ratings"] = value
        elif name == "annotator_name":
            mapping["annotator"] = value
        elif name not in found["roles"]:
            raise Stop(f"--map {item}: write ROLE=COLUMN. Roles: {', '.join(found['roles'])}.", 2)
        elif value not in mapping["roles"]:
            raise Stop(f"--map {item}: there is no such column. Columns: {', '.join(found['columns'])}.", 2)
        else:
            mapping["roles"][value] = name
    return mapping


def _thrown_away(project: Project, id: int) -> None:
    """Leave no preview behind that nobody looks at. What can't be undone now stays on the page Imports."""
    for undo in (project.imports.cancel, project.imports.discard):
        with contextlib.suppress(CaliperError):
            undo(id)


def _summary(row: types.ImportWhole, *, dry_run: bool) -> str:
    report = row["report"]
    lines = [
        f"{report['rows']:,} rows read as {report['format']}; {'would be imported' if dry_run else 'imported'}:"
    ]
    for kind, counts in report["counts"].items():
        name = "pairs made" if kind == "made" else kind
        changed = f", {counts['changed']:,} changed" if counts.get("changed") else ""
        lines.append(f"  {name:<11}{counts['new']:>9,} new, {counts['present']:,} already there{changed}")
    if report["left_out"]:
        lines.append(f"{report['left_out']:,} rows left out:")
        for error in report["errors"][:10]:
            field = f", field “{error['field']}”" if error["field"] else ""
            lines.append(
                f"  {error['file']}, row {error['row']}{field}: {error['message']} {error['remedy']}"
            )
        if report["left_out"] > 10:
            lines.append(f"  … and {report['left_out'] - 10:,} more")
    return "\n".join(lines)


def export(options: argparse.Namespace) -> None:
    kind = options.out.suffix.removeprefix(".").lower()
    if kind not in ("jsonl", "csv", "zip"):
        raise Stop(f"--out {options.out}: end its name in .jsonl, .csv or .zip.", 2)
    query = {"aggregation": options.aggregation} if options.aggregation else {}
    with client_of(options) as client:
        exports = client.project(options.project).exports
        if kind == "zip":
            value: Mapping[str, Any] = _packed(exports, options, query)
        else:
            query["file_type"] = kind
            labels = exports.write(options.format, options.out, **query)
            value = exports.card(options.format, **query)
            if value["labels"] != labels:
                told("Somebody labelled meanwhile: the counts are of a moment later than the file.")
    words = [f"{value['rows']:,} rows in {options.out}."]
    for what, counted in (("left out", value["left_out_words"]), ("changed", value["changed_words"])):
        if counted:
            words.append(f"{what}: {'; '.join(counted)}")
    result(options, {"out": str(options.out), **value}, "\n".join(words))


def _packed(exports: Exports, options: argparse.Namespace, query: dict[str, Any]) -> dict[str, Any]:
    """A zip of Parquet files with its data card, made by a worker."""
    progress = Progress()
    try:
        job = exports.wait(exports.start(options.format, **query)["id"], progress.job)
    finally:
        progress.end()
    if job["state"] != "done" or job["archive"] is None:
        raise Stop(f"Nothing was exported. {job['error'] or 'The job is ' + job['state'] + '.'}")
    exports.download(job["id"], job["archive"], options.out)
    return {"rows": job["rows"], "left_out_words": job["left_out"], "changed_words": job["changed"]}
