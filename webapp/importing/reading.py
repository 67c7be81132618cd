"""From files to rows: gzip, JSON Lines, JSON lists, CSV and Parquet, read as a stream and within limits.

Nothing here knows what the rows mean (that is `shapes`). A row that cannot be read is yielded as a `Problem`, so
that the rest of the file is read all the same; a file that cannot be read raises `ImportRefused`.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from django.conf import settings

from webapp.importing import parquet
from webapp.importing.sources import (
    MAX_COLUMNS,
    MAX_ROW_BYTES,
    UNPACK_FACTOR,
    ImportRefused,
    Problem,
    Row,
    Source,
    Tick,
    json_kind,
    printable,
)

__all__ = ["ImportRefused", "Problem", "Row", "Source", "Tick", "json_kind", "printable", "rows"]

# A row of a megabyte may be one long text; as a list of two-byte values it would need a hundred times the memory.
LARGE_ROW = 1024 * 1024
MAX_ROW_VALUES = 100_000
# Blank lines cost time and say nothing: so many are fine, and this many more for each row.
BLANK_LINES = 10_000
BLANK_LINES_PER_ROW = 10


class _Limited(io.RawIOBase):
    """Passes bytes on until there are too many; turns what a damaged gzip file raises into a refusal.

    `tick` is called here, a block at a time, so that it is heard of whatever the bytes are: rows, blanks, one line.
    """

    def __init__(self, stream: Any, name: str, limit: int, tick: Callable[[], None]) -> None:
        self.stream, self.name_of_file, self.limit, self.tick, self.seen = stream, name, limit, tick, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise ImportRefused(
                f"{self.name_of_file} is damaged and cannot be unpacked ({error}). Pack it again."
            ) from error
        self.tick()
        self.seen += len(data)
        if self.seen > self.limit:
            raise ImportRefused(
                f"{self.name_of_file} holds more than {self.limit // 2**20} MB once unpacked. Split it."
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_bytes(source: Source, tick: Tick) -> Iterator[tuple[io.BufferedReader, BinaryIO]]:
    """The file's bytes (unpacked if it is a gzip file) and the file as it lies on disk, for its position."""
    with source.path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        limit = UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES
        inner = gzip.GzipFile(fileobj=raw) if packed else raw
        limited = _Limited(inner, source.name, limit, lambda: tick(raw.tell()))
        yield io.BufferedReader(limited, 256 * 1024), raw


def rows(source: Source, tick: Tick = lambda position: None) -> Iterator[tuple[int, Row | Problem]]:
    """(row number from 1, the row or why it cannot be read) of a file; `tick` gets the position in bytes on disk.

    Rows of JSON Lines are numbered by line, of a JSON list by element, of CSV as a spreadsheet does (the header is
    row 1), of Parquet from 1. Raises ImportRefused when the file is none of these.
    """
    if source.path.stat().st_size == 0:
        raise ImportRefused(f"{source.name} is empty. Choose a file with rows in it.")
    with open_bytes(source, tick) as (stream, raw):
        start = stream.peek(4096)[:4096]
        if start.startswith(b"PAR1"):
            yield from parquet.rows(source, tick)
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
        yield from found
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


# A text (no backtracking: texts are long), or what opens, closes and parts values.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)


def _too_many_values(text: str, position: int = 0) -> bool:
    """Whether the JSON value that begins there holds too many values, as far as the text goes. It is not decoded."""
    depth = values = 0
    for token in _TOKEN.finditer(text, position):
        kind = token[0] if token.end() - token.start() == 1 else ""
        if kind == '"':
            return False  # a text that has not ended yet
        if kind:
            values += kind in ",[{"
            depth += (kind in "[{") - (kind in "]}")
            if values > MAX_ROW_VALUES:
                return True
            if depth <= 0:
                return False
    return False


class _Blanks:
    """Counts blank lines; refuses a file that is little else."""

    def __init__(self, source: Source) -> None:
        self.name, self.count = source.name, 0

    def add(self, rows: int) -> None:
        self.count += 1
        if self.count > BLANK_LINES + BLANK_LINES_PER_ROW * rows:
            raise ImportRefused(
                f"{self.name} has {self.count:,} blank lines among its first {rows:,} rows. Remove them."
            )


_MANY_VALUES = (f"holds more than {MAX_ROW_VALUES:,} values.", "Remove the fields that are not needed.")


def _json_lines(source: Source, stream: io.BufferedReader) -> Iterator[tuple[int, Row | Problem]]:
    number = 0
    blanks = _Blanks(source)
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
            blanks.add(number - 1 - blanks.count)
            continue
        try:
            text = line.decode("utf-8")
            if len(line) > LARGE_ROW and _too_many_values(text):
                yield number, Problem(source.name, number, "", *_MANY_VALUES)
                continue
            yield number, _as_row(source, number, _DECODER.decode(text))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text (byte {error.start + 1} of the line)."
            yield number, Problem(source.name, number, "", message, "Save the file as UTF-8.")
        except (ValueError, RecursionError) as error:
            message = f"is not JSON ({error})."
            yield (
                number,
                Problem(source.name, number, "", message, "Write one complete JSON object on each line."),
            )


_BLANK = re.compile(r"[ \t\r\n]*")


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
        blank = 0
        while True:
            before, position = position, _BLANK.match(buffer, position).end()  # type: ignore[union-attr]
            if position < len(buffer):
                return buffer[position]
            blank += position - before
            if blank > MAX_ROW_BYTES:
                raise ImportRefused(
                    f"{source.name} has {blank // 2**20} MB of blank space after element {number}. Remove it."
                )
            if not more():
                return ""

    next_character()
    position += 1  # the opening bracket
    if next_character() == "]":
        raise ImportRefused(f"{source.name} is an empty list. Choose a file with rows in it.")
    while True:
        next_character()
        try:
            if len(buffer) - position > LARGE_ROW and _too_many_values(buffer, position):
                raise ImportRefused(
                    f"{source.name}: element {number + 1} of the JSON list {_MANY_VALUES[0]} {_MANY_VALUES[1]}"
                )
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
    number, length, blanks = 0, 0, _Blanks(source)

    def lines() -> Iterator[str]:
        # A row may run over lines, inside quotes; neither a line nor a row fills the memory.
        nonlocal length
        while line := text.readline(MAX_ROW_BYTES):
            length += len(line)
            if length >= MAX_ROW_BYTES:
                raise ImportRefused(
                    f"{source.name}: row {number + 1} is longer than {MAX_ROW_BYTES // 2**20} MB. Is a quote not "
                    "closed? Mend it, or shorten its texts."
                )
            yield line

    header: list[str] = []
    try:
        for cells in csv.reader(lines(), strict=True):
            length = 0
            if not cells:
                blanks.add(number)
                continue
            number += 1
            if not header:
                header = cells
                if len(header) > MAX_COLUMNS:
                    raise ImportRefused(
                        f"{source.name} has {len(header):,} columns, more than {MAX_COLUMNS:,}. "
                        "Keep those of the format."
                    )
            elif len(cells) > len(header):
                message = "has more cells than the header has columns."
                yield (
                    number,
                    Problem(source.name, number, "", message, "Put texts with commas in double quotes."),
                )
            else:
                yield number, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise ImportRefused(
            f"{source.name}: row {number + 1} is not readable CSV ({error}). Mend its quotes."
        ) from error
