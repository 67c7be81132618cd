"""From files to rows: gzip, JSON Lines, JSON lists, CSV and Parquet, read as a stream and within limits.

Nothing here knows what the rows mean (that is `formats`). A row that cannot be read is yielded as a `Problem`, so
that the rest of the file is read all the same; a file that cannot be read raises `ImportRefused`.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from django.conf import settings

# One row (a line, a list's element): two responses and a prompt of the longest allowed kind, JSON-escaped, fit.
MAX_ROW_BYTES = 16 * 1024 * 1024
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


class _Limited(io.RawIOBase):
    """Passes bytes on until there are too many; turns what a damaged gzip file raises into a refusal."""

    def __init__(self, stream: Any, name: str, limit: int) -> None:
        self.stream, self.name_of_file, self.limit, self.seen = stream, name, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise ImportRefused(
                f"{self.name_of_file} is damaged and cannot be unpacked ({error}). Pack it again."
            ) from error
        self.seen += len(data)
        if self.seen > self.limit:
            raise ImportRefused(
                f"{self.name_of_file} holds more than {self.limit // 2**20} MB once unpacked. Split it."
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_bytes(source: Source) -> Iterator[tuple[io.BufferedReader, BinaryIO]]:
    """The file's bytes (unpacked if it is a gzip file) and the file as it lies on disk, for its position."""
    with source.path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        limit = UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES
        inner = gzip.GzipFile(fileobj=raw) if packed else raw
        yield io.BufferedReader(_Limited(inner, source.name, limit), 256 * 1024), raw


def rows(source: Source, tick: Tick = lambda position: None) -> Iterator[tuple[int, Row | Problem]]:
    """(row number from 1, the row or why it cannot be read) of a file; `tick` gets the position in bytes on disk.

    Rows of JSON Lines are numbered by line, of a JSON list by element, of CSV as a spreadsheet does (the header is
    row 1), of Parquet from 1. Raises ImportRefused when the file is none of these.
    """
    if source.path.stat().st_size == 0:
        raise ImportRefused(f"{source.name} is empty. Choose a file with rows in it.")
    with open_bytes(source) as (stream, raw):
        start = stream.peek(4096)[:4096]
        if start.startswith(b"PAR1"):
            yield from _parquet(source, tick)
            return
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ImportRefused(f"{source.name} is UTF-16 text. Save it as UTF-8.")
        first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        suffixes = {suffix.lower() for suffix in source.path.suffixes}
        if first == b"[":
            found = _json_list(source, stream)
        elif first == b"{" or suffixes & {".jsonl", ".ndjson", ".json"}:
            found = _json_lines(source, stream)
        elif ".csv" in suffixes:
            found = _csv(source, stream)
        else:
            raise ImportRefused(
                f"{source.name} is neither JSON Lines, a JSON list, CSV nor Parquet (.gz of the first three is fine). "
                "Convert it to one of them; the formats are described on the import page."
            )
        for number, row in found:
            yield number, row
            if number % 200 == 0:
                tick(raw.tell())
        tick(raw.tell())


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _as_row(source: Source, number: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return value
    return Problem(
        source.name,
        number,
        "",
        f"is {json_kind(value)} instead of a JSON object.",
        "Write {…} with named fields.",
    )


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


def _json_lines(source: Source, stream: io.BufferedReader) -> Iterator[tuple[int, Row | Problem]]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            message = f"is longer than {MAX_ROW_BYTES // 2**20} MB."
            yield number, Problem(source.name, number, "", message, "Shorten its texts.")
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield number, _as_row(source, number, _DECODER.decode(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text (byte {error.start + 1} of the line)."
            yield number, Problem(source.name, number, "", message, "Save the file as UTF-8.")
        except (ValueError, RecursionError) as error:
            message = f"is not JSON ({error})."
            yield (
                number,
                Problem(source.name, number, "", message, "Write one complete JSON object on each line."),
            )


def _json_list(source: Source, stream: io.BufferedReader) -> Iterator[tuple[int, Row | Problem]]:
    """Elements of one JSON list, decoded one by one. What is broken in the middle cannot be skipped: it refuses."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
    buffer, position, number, ended = "", 0, 0, False

    def more() -> bool:
        nonlocal buffer, position, ended
        if ended:
            return False
        # At least as much again as is waiting, so that a long element isn't decoded over and over.
        data = stream.read(max(1024 * 1024, len(buffer) - position))
        ended = not data
        try:
            buffer, position = buffer[position:] + decoder.decode(data, final=ended), 0
        except UnicodeDecodeError as error:
            raise ImportRefused(
                f"{source.name} is not UTF-8 text after row {number}. Save it as UTF-8."
            ) from error
        return not ended

    def next_character() -> str:
        nonlocal position
        while True:
            while position < len(buffer) and buffer[position] in " \t\r\n":
                position += 1
            if position < len(buffer):
                return buffer[position]
            if not more():
                return ""

    next_character()
    position += 1  # the opening bracket
    if next_character() == "]":
        raise ImportRefused(f"{source.name} is an empty list. Choose a file with rows in it.")
    while True:
        next_character()
        try:
            value, end = _DECODER.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            if not isinstance(error, RecursionError) and len(buffer) - position < MAX_ROW_BYTES and more():
                continue
            raise ImportRefused(
                f"{source.name} is not a readable JSON list: element {number + 1} is broken ({error}). Mend it, "
                "or write JSON Lines (one object on each line), where a broken row doesn't spoil the others."
            ) from error
        number += 1
        position = end
        yield number, _as_row(source, number, value)
        follower = next_character()
        if follower == "]":
            return
        if follower != ",":
            raise ImportRefused(
                f"{source.name}: the JSON list breaks off after element {number}. Is the file complete?"
            )
        position += 1


def _csv(source: Source, stream: io.BufferedReader) -> Iterator[tuple[int, Row | Problem]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that aren't UTF-8 come through as surrogates, which the field checks report with the row's number.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, strict=True)
    number = 1
    try:
        for row in reader:
            number += 1
            if None in row:
                message = "has more cells than the header has columns."
                yield (
                    number,
                    Problem(source.name, number, "", message, "Put texts with commas in double quotes."),
                )
            else:
                yield number, {name: value for name, value in row.items() if value is not None}
    except csv.Error as error:
        raise ImportRefused(
            f"{source.name}: row {number + 1} is not readable CSV ({error}). Mend its quotes."
        ) from error


def _parquet(source: Source, tick: Tick) -> Iterator[tuple[int, Row | Problem]]:
    import pyarrow
    import pyarrow.parquet

    size = source.path.stat().st_size
    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            unpacked = sum(
                file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)
            )
            if unpacked > UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES:
                raise ImportRefused(
                    f"{source.name} is too large once unpacked ({unpacked // 2**20} MB). Split it."
                )
            number = 0
            for batch in file.iter_batches(batch_size=200):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                tick(size * number // max(1, file.metadata.num_rows))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ImportRefused(
            f"{source.name} is not a readable Parquet file ({error}). Write it again."
        ) from error
