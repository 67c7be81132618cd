"""`caliper import` and `export`."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from caliper import types
from caliper.client import Project
from caliper.commands.common import Adds, Progress, Stop, client_of, result

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
    sub.add_argument("--out", required=True, metavar="FILE", type=Path, help="ends in .jsonl or .csv")
    sub.add_argument("--aggregation", help="of several judgements of a pair: vote, majority or weighted")


def import_(options: argparse.Namespace) -> None:
    with client_of(options) as client:
        project = client.project(options.project)
        row = _begun(project, options)
        progress = Progress()
        try:
            row = project.imports.wait(row["id"], progress.job)
            if options.map:
                _map(project, row, options.map)
                row = project.imports.wait(row["id"], progress.job)
            _check(project, row, options)
            if not options.dry_run:
                project.imports.confirm(row["id"])
                row = project.imports.wait(row["id"], progress.job)
                _check(project, row, options)
        except BaseException:
            _thrown_away(project, row)
            raise
        finally:
            progress.end()
        if options.dry_run:
            project.imports.discard(row["id"])
        result(options, row, _summary(row, dry_run=options.dry_run))


def _begun(project: Project, options: argparse.Namespace) -> types.Import:
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


def _check(project: Project, row: types.Import, options: argparse.Namespace) -> None:
    """Stops unless the import is well so far."""
    if row["state"] == "done" and not row["wants_mapping"]:
        return
    if not row["wants_mapping"]:
        raise Stop(f"Nothing was imported. {row['error']}".strip())
    roles = project.imports.mapping(row["id"])["mapping"]["roles"]
    named = " ".join(f"--map {shlex.quote(f'{role}={column}')}" for column, role in roles.items() if role)
    hint = named or "--map prompt=COLUMN --map a=COLUMN --map b=COLUMN --map winner=COLUMN"
    raise Stop(
        "Nothing was imported: the format was not recognised. Say which column is what, perhaps: "
        f"{hint}. Columns: {', '.join(roles)}."
    )


def _map(project: Project, row: types.Import, given: list[str]) -> None:
    """Send the mapping of --map. What it doesn't say of the winner's values and of cut points stays as guessed."""
    found = project.imports.mapping(row["id"])["mapping"]
    mapping: dict[str, Any] = {**found, "roles": dict.fromkeys(found["roles"], "")}
    for item in given:
        name, equals, value = item.partition("=")
        if name.startswith("winner."):
            name, equals, value = item.rpartition("=")
            mapping["winner"] = {**mapping["winner"], _value_key(name.removeprefix("winner.")): value}
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
        elif value not in mapping["roles"]:
            raise Stop(f"--map {item}: there is no such column. Columns: {', '.join(mapping['roles'])}.", 2)
        else:
            mapping["roles"][value] = name
    project.imports.map(row["id"], mapping)


def _thrown_away(project: Project, row: types.Import) -> None:
    """Leave no preview behind that nobody asked to keep."""


def _summary(row: types.Import, *, dry_run: bool) -> str:
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
    file_type = options.out.suffix.removeprefix(".").lower()
    if file_type not in ("jsonl", "csv"):
        raise Stop(f"--out {options.out}: end its name in .jsonl or .csv.", 2)
    with client_of(options) as client:
        exports = client.project(options.project).exports
        query = {"file_type": file_type, "aggregation": options.aggregation}
        card = exports.card(options.format, **query)
        exports.write(options.format, options.out, **query)
    words = [f"{card['rows']:,} rows in {options.out}."]
    for what, told_of in (("left out", card["left_out"]), ("written otherwise than stored", card["changed"])):
        if told_of:
            words.append(f"{what}: {json.dumps(told_of, ensure_ascii=False)}")
    result(options, {"out": str(options.out), **card}, "\n".join(words))
