"""`caliper train` and `score`."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from caliper import types
from caliper.commands.common import Adds, Progress, Stop, client_of, result, told
from caliper.reward import Item, RewardServer

SERVER = "http://127.0.0.1:8100"


def add(command: Adds) -> None:
    sub = command("train", train, "Train a reward model on a project's labels of now.")
    sub.add_argument("--project", required=True, metavar="SLUG")
    sub.add_argument("--method", required=True, help="bt, clf, oprm, rgft, haf, grm or judge")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the run, such as base_model=all-MiniLM-L6-v2 or epochs=2; may be given again",
    )
    sub.add_argument("--wait", action="store_true", help="follow the run; end with 1 unless it ends well")
    sub = command("score", score, "Score texts by a reward server.")
    sub.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="JSON Lines: {prompt, text} or {messages, text}; default: stdin",
    )
    sub.add_argument("--server", help=f"the reward server; default: CALIPER_SERVER, or {SERVER}")


def train(options: argparse.Namespace) -> None:
    given = dict(_setting(item) for item in options.set)
    with client_of(options) as client:
        project = client.project(options.project)
        run = project.runs.start(options.method, **given)
        if not options.wait:
            result(options, run, f"Run {run['id']} is {run['state']}. Follow it with --wait, or on its page.")
            return
        told(f"Run {run['id']} of {options.project}. Ctrl-C leaves it running.")
        progress = Progress()
        try:
            run = project.runs.wait(run["id"], progress.job)
        finally:
            progress.end()
        if run["state"] != "done":
            raise Stop(f"Run {run['id']} is {run['state']}. {run['error']}".strip())
        version = project.versions.get(run["version"]) if run["version"] is not None else None
        result(options, {**run, "made": version}, _ended(run, version))


def _ended(run: types.RunWhole, version: types.VersionWhole | None) -> str:
    if run["same_as"] is not None:
        return f"Not trained again: same labels and settings as run {run['same_as']}."
    if version is None:
        return f"Run {run['id']} is done."
    serving = "It serves now." if version["is_serving"] else "It does not serve."
    return f"{version['name']}. {version['gate_reason']} {serving}"


def _setting(item: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON where it can be, else text."""
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise Stop(f"--set {item}: write KEY=VALUE.", 2)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def score(options: argparse.Namespace) -> None:
    """A line of JSON for each line read: the line with its scores."""
    url = options.server or os.environ.get("CALIPER_SERVER") or SERVER
    token = os.environ.get("CALIPER_SERVER_TOKEN")
    rows: list[dict[str, Any]] = []

    def items() -> Iterator[Item]:
        for place, row in _rows(options.files):
            rows.append(row)
            yield _item(place, row)

    with RewardServer(url, token) as server:
        # The rows of a batch have been read when its first score comes.
        for number, said in enumerate(server.score(items())):
            row, rows[number] = rows[number], {}
            print(json.dumps({**row, **said}, ensure_ascii=False))
        if server.version is not None:
            told(f"{len(rows):,} texts scored by {server.version['name']}.")


def _rows(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names or ["-"]:
        if name == "-":
            yield from _lines(sys.stdin, "stdin")
            continue
        try:
            with open(name, encoding="utf-8") as file:
                yield from _lines(file, name)
        except OSError as error:
            raise Stop(f"{name} can't be read: {error.strerror}.") from error


def _lines(file: TextIO, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object with its place."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
                yield f"{name}, line {number}", row
    except ValueError as error:  # JSON that is none, and bytes that are no UTF-8
        raise Stop(
            f"{name}, line {number or 1}: this is no JSON object ({error}). Write one object a line."
        ) from error


def _item(place: str, row: dict[str, Any]) -> Item:
    text = row.get("text", row.get("response"))
    item: dict[str, Any] = {name: row[name] for name in ("messages", "prompt") if name in row}
    if not item:
        raise Stop(f"{place} has no “prompt” and no “messages”: write one of them.")
    if text is not None:
        item["text"] = text
    return cast("Item", item)
