"""What reading a file to import rests on: the file, a row, why one is left out, and the limits of a row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# One row (a line, a list's element): two responses and a prompt of the longest allowed kind, JSON-escaped, fit.
MAX_ROW_BYTES = 16 * 1024 * 1024
MAX_COLUMNS = 1000
# A gzip file may grow this many times the largest upload before it is taken for a bomb.
UNPACK_FACTOR = 5

Row = dict[str, Any]
Tick = Callable[[int], None]


class ImportRefused(Exception):
    """The whole import fails. The message says what is wrong and what to do, in one or two sentences."""


class Problem(NamedTuple):
    """Why one row (None: a whole file) was left out, and what to do about it."""

    file: str
    row: int | None
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = self.file + (f", row {self.row}" if self.row is not None else "")
        field = f", field “{self.field}”" if self.field else ""
        return f"{where}{field}: {self.message} {self.remedy}".strip()


def printable(text: str) -> str:
    """The text without what a database or a file can't keep; messages quote what stood in a bad row."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Source:
    """A file to import, and the name under which messages speak of it."""

    path: Path
    name: str


def json_kind(value: Any) -> str:
    """What a JSON value is, in words that fit behind “is”."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"), (bytes, "binary data"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), f"a {type(value).__name__}")
