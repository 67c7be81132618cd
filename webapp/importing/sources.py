"""What reading a file to import rests on: the file, a row, why one is left out, and the limits of a row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from webapp.jobs import JobFailed

# One row (a line, a list's element): two responses and a prompt of the longest allowed kind, JSON-escaped, fit.
MAX_ROW_BYTES = 16 * 1024 * 1024
MAX_COLUMNS = 1000
# A gzip file, or a zip in all, may grow this many times the largest upload before it is taken for a bomb.
UNPACK_FACTOR = 5

Row = dict[str, Any]
OnPosition = Callable[[int], None]


class ImportRefused(JobFailed):
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


# Blank lines cost time and say nothing: so many are fine, and this many more for each row.
BLANK_LINES = 10_000
BLANK_LINES_PER_ROW = 10


class Blanks:
    """Counts blank lines; refuses a file that is little else."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def add(self, line: int) -> None:
        """Another blank line: the file's line (or row) with this number."""
        self.count += 1
        rows = line - self.count
        if self.count > BLANK_LINES + BLANK_LINES_PER_ROW * rows:
            raise ImportRefused(
                f"{self.name} has {self.count:,} blank lines among its first {rows:,} rows. Remove them."
            )


@dataclass
class Budget:
    """How many bytes the gzip files inside a zip may still unpack to, all together."""

    left: int


@dataclass(frozen=True)
class Source:
    """A file (or zip, or folder) to import, and the name under which messages speak of it."""

    path: Path
    name: str
    # The place of the file in the zip that lies at `path`, and how many bytes it takes there.
    member: int | None = None
    packed: int = 0
    budget: Budget | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Its bytes on disk."""
        return self.path.stat().st_size if self.member is None else self.packed

    @property
    def suffixes(self) -> set[str]:
        return {suffix.lower() for suffix in PurePosixPath(self.name).suffixes}


@dataclass(frozen=True)
class Unreadable:
    """What stands in a row for a value that could not be read. It costs the row only where the field is used.

    `what` fits behind “is”; `remedy` is a sentence.
    """

    what: str
    remedy: str


def json_type(value: Any) -> str:
    """What a JSON value is, in words that fit behind “is”."""
    if value is None:
        return "null"
    if isinstance(value, Unreadable):
        return value.what
    if isinstance(value, bool):
        return "true" if value else "false"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"), (bytes, "binary data"),
    )  # fmt: skip
    return next(
        (name for python_type, name in names if isinstance(value, python_type)), f"a {type(value).__name__}"
    )
