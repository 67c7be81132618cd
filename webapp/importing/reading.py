"""From files to rows: JSON Lines, JSON lists, tables and Parquet, plain, packed with gzip or inside a zip.

Files are read as a stream and within limits. Nothing here knows what the rows mean (that is `shapes`). A row that
cannot be read is yielded as a `Problem`, so that the rest of the file is read all the same; a value that cannot be
read is an `Unreadable` in its row; a file that cannot be read raises `ImportRefused`.
"""

import codecs
import gzip
import io
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp.importing import archives, jsontext, parquet, tables
from webapp.importing.sources import (
    UNPACK_FACTOR,
    ImportRefused,
    OnPosition,
    Problem,
    Row,
    Source,
    Unreadable,
    json_type,
    printable,
)

__all__ = [
    "ImportRefused",
    "OnPosition",
    "Problem",
    "Row",
    "Source",
    "Unreadable",
    "expanded",
    "json_type",
    "printable",
    "read_as",
    "rows",
]

BUFFER = 256 * 1024
# Byte order marks and what they say; the longer come first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}
# What people pack with other programs: the first bytes, where they stand, and the name.
_FOREIGN = (
    (b"PK\x03\x04", 0, "a zip inside another file"),
    (b"BZh", 0, "packed with bzip2"),
    (b"\xfd7zXZ", 0, "packed with xz"),
    (b"\x28\xb5\x2f\xfd", 0, "packed with zstd"),
    (b"7z\xbc\xaf", 0, "a 7z archive"),
    (b"Rar!", 0, "a RAR archive"),
    (b"ustar", 257, "a tar archive"),
    (b"SQLite format 3", 0, "an SQLite database"),
    (b"ARROW1", 0, "an Arrow file"),
    (b"\xd0\xcf\x11\xe0", 0, "an old Excel file"),
    (b"%PDF", 0, "a PDF file"),
)


class _Limited(io.RawIOBase):
    """Passes bytes on until there are too many; turns what a damaged gzip file raises into a refusal.

    `on_progress` is called here, a block at a time, whatever the bytes are: rows, blanks, one long line.
    """

    def __init__(self, stream: Any, source: Source, limit: int, on_progress: Callable[[int], None]) -> None:
        self.stream, self.source, self.limit = stream, source, limit
        self.on_progress, self.seen = on_progress, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (*archives.DAMAGED, *archives.UNKNOWN_METHOD) as error:
            raise archives.damaged(self.source, error) from error
        self.seen += len(data)
        self.on_progress(self.seen)
        if self.seen > self.limit:
            raise ImportRefused(
                f"{self.source.name} holds more than {self.limit // 2**20} MB once unpacked. Split it."
            )
        buffer[: len(data)] = data
        return len(data)


def _halves(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no character as half surrogates, which every field refuses by name."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("caliper-halves", _halves)


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8, and lone carriage returns as line ends; half surrogates stay halves."""

    def __init__(self, stream: io.BufferedIOBase, encoding: str, *, carriage_returns: bool) -> None:
        self._stream, self._returns, self._ended = stream, carriage_returns, False
        self._decoder = codecs.getincrementaldecoder(encoding)(
            "caliper-halves" if encoding != "utf-8" else "surrogateescape"
        )
        self._errors = "surrogatepass" if encoding != "utf-8" else "surrogateescape"
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting and not self._ended:
            data = self._stream.read(BUFFER)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            if self._returns:
                text = text.replace("\r", "\n")
            self._waiting = text.encode("utf-8", self._errors)
        count = min(len(buffer), len(self._waiting))
        buffer[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count


@dataclass(frozen=True)
class Look:
    """What the beginning of a file says it is, and how its text is written."""

    container: str
    gzip: bool
    encoding: str = "utf-8"
    mark: int = 0
    shown_encoding: str = "UTF-8"
    carriage_returns: bool = False
    dialect: tables.Dialect | None = None

    def __str__(self) -> str:
        words = [self.container]
        if self.dialect:
            words.append(str(self.dialect))
        if self.container != "Parquet":
            words.append(self.shown_encoding)
        return ", ".join(words + ["gzip"] * self.gzip)


@contextmanager
def open_bytes(source: Source, on_progress: OnPosition) -> Iterator[tuple[io.BufferedReader, bool]]:
    """The file's bytes, unpacked if it is a gzip file (and whether it is); `on_progress` gets the place on disk."""
    limit = UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES
    with _stored(source) as (raw, size):
        try:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
        except (*archives.DAMAGED, *archives.UNKNOWN_METHOD) as error:
            raise archives.damaged(source, error) from error
        if source.budget and packed:
            limit = source.budget.left

        def heard(seen: int) -> None:
            # Inside a zip the place on disk is guessed from how much of the file was read.
            on_progress(raw.tell() if source.member is None else source.packed * raw.tell() // max(1, size))

        limited = _Limited(gzip.GzipFile(fileobj=raw) if packed else raw, source, limit, heard)
        yield io.BufferedReader(limited, BUFFER), packed
        if source.budget and packed:
            source.budget.left -= limited.seen


@contextmanager
def _stored(source: Source) -> Iterator[tuple[Any, int]]:
    if source.member is None:
        with source.path.open("rb") as file:
            yield file, source.size
    else:
        with archives.open_member(source) as opened:
            yield opened


def expanded(sources: Sequence[Source]) -> tuple[list[Source], list[dict[str, Any]]]:
    """The data files among and inside the files, zips and folders; and what was passed over, for the report.

    A text file inside that holds no table is passed over; chosen by itself it is refused.
    """
    found, passed = archives.expanded(sources)
    kept = []
    for source in found:
        if source not in sources and source.suffixes & {".txt", ".tab"}:
            try:
                look(source)
            except ImportRefused:
                archives.pass_over(passed, source.name, source.size, "is a text without columns")
                continue
        kept.append(source)
    if not kept:
        raise ImportRefused(
            f"{sources[0].name} holds no data file. Put .jsonl, .json, .csv or .parquet files into it."
        )
    return kept, passed


def look(source: Source) -> Look:
    """What a file is, by its beginning. Raises ImportRefused when it is nothing that is read here."""
    with open_bytes(source, lambda position: None) as (stream, packed):
        return _look(source, stream, packed)


def read_as(source: Source) -> str:
    """What a file was recognised as, for people: “CSV, “;” between cells, UTF-16”."""
    return str(look(source))


def _look(source: Source, stream: io.BufferedReader, packed: bool) -> Look:
    start = stream.peek(BUFFER)[:BUFFER]
    if not start:
        raise ImportRefused(f"{source.name} is empty. Choose a file with rows in it.")
    if start.startswith(b"PAR1"):
        return Look("Parquet", packed)
    for magic, place, name in _FOREIGN:
        if start[place : place + len(magic)] == magic:
            raise ImportRefused(
                f"{source.name} is {name}. Save it as CSV, JSON Lines or Parquet (.gz or .zip is fine)."
            )
    encoding, mark, shown = _encoding(start)
    head = codecs.getincrementaldecoder(encoding)("replace").decode(start[mark:])
    returns = "\r" in head and "\n" not in head
    text = Look("", packed, encoding, mark, shown)
    first = head.lstrip("\ufeff \t\r\n")[:1]
    if first == "[":
        return replace(text, container="JSON list")
    if first == "{" and _runs_over_lines(head):
        return replace(text, container="JSON objects")
    if first == "{" or source.suffixes & _JSON_SUFFIXES:
        return replace(text, container="JSON Lines", carriage_returns=returns)
    announced = bool(source.suffixes & _TABLE_SUFFIXES)
    if announced or "\x00" not in head:
        dialect = tables.sniff(head, whole=len(start) < BUFFER, announced=announced)
        if dialect is not None:
            return replace(text, container="TSV" if dialect.delimiter == "\t" else "CSV", dialect=dialect)
    raise ImportRefused(
        f"{source.name} is neither JSON Lines, a JSON list, CSV, TSV nor Parquet, nor one of them as .gz or in a "
        "zip. Convert it to one of them; the formats are described on the import page."
    )


def _encoding(start: bytes) -> tuple[str, int, str]:
    """The encoding's name, the length of its byte order mark, and the name for people."""
    for mark, encoding, shown in _MARKS:
        if start.startswith(mark):
            return encoding, len(mark), shown
    # Without a mark: two-byte characters of which every other byte is zero.
    if len(start) >= 4 and start[0] and not start[1] and start[2] and not start[3]:
        return "utf-16-le", 0, "UTF-16"
    if len(start) >= 4 and not start[0] and start[1] and not start[2] and start[3]:
        return "utf-16-be", 0, "UTF-16"
    return "utf-8", 0, "UTF-8"


def _runs_over_lines(head: str) -> bool:
    """Whether the first JSON object is written over several lines, as a pretty printer does."""
    head = head.lstrip("\ufeff \t\r\n")
    line, end, _ = head.partition("\n")
    if not end or line.strip() == "{":
        return bool(end)
    try:
        jsontext.decode(line)
    except (ValueError, RecursionError):
        try:
            return jsontext.decode_first(head)[1] > len(line)
        except (ValueError, RecursionError):
            return False
    return False


def rows(
    source: Source, on_progress: OnPosition = lambda position: None, columns: Collection[str] | None = None
) -> Iterator[tuple[int, Row | Problem]]:
    """(row number from 1, the row or why it cannot be read) of a file; `on_progress` gets the place in bytes on disk.

    Rows of JSON Lines are numbered by line, of a JSON list by element, of tables as a spreadsheet does (the header is
    row 1, blank rows count), of Parquet from 1. Of `columns`, where given, Parquet files are read; other columns of
    theirs are not. Raises ImportRefused when the file is none of these. The files of a zip or folder come one after
    another, each numbered anew: an import takes them apart first (`expanded`).
    """
    if source.member is None and (source.path.is_dir() or archives.is_zip(source.path)):
        for inside in expanded([source])[0]:
            yield from rows(inside, on_progress, columns)
        return
    with open_bytes(source, on_progress) as (stream, packed):
        seen = _look(source, stream, packed)
        if seen.container == "Parquet":
            with _on_disk(source, stream, packed) as path:
                yield from parquet.rows(source, on_progress, path, columns)
            return
        stream.read(seen.mark)
        text: io.BufferedReader = stream
        recoded = seen.encoding != "utf-8"
        errors = "surrogatepass" if recoded else "strict"
        if recoded or seen.carriage_returns:
            text = io.BufferedReader(
                _Recoded(stream, seen.encoding, carriage_returns=seen.carriage_returns), BUFFER
            )
        if seen.dialect:
            found = tables.rows(source, text, seen.dialect, recoded=recoded)
        elif seen.container == "JSON Lines":
            found = jsontext.lines(source, text, errors=errors)
        else:
            found = jsontext.elements(source, text, errors=errors, bare=seen.container == "JSON objects")
        yield from found
        on_progress(source.size)


@contextmanager
def _on_disk(source: Source, stream: io.BufferedReader, packed: bool) -> Iterator[Path]:
    """Where a Parquet file lies on disk: it is read from its end, so one that is packed is unpacked beside."""
    if source.member is None and not packed:
        yield source.path
        return
    own = settings.DATA_DIR in source.path.parents
    with tempfile.TemporaryDirectory(dir=source.path.parent if own else None) as folder:
        path = Path(folder) / "unpacked.parquet"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1024 * 1024)
        yield path
