"""Tables written as text: CSV with any delimiter, TSV. Cells are given exactly as they stand between the delimiters.

The delimiter is the one for which the header and the first rows have the same number of cells, so that texts full of
commas don't decide. A row that is broken costs that row: reading goes on where its quotes are closed.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from webapp.importing.sources import (
    MAX_COLUMNS,
    MAX_ROW_BYTES,
    Blanks,
    ImportRefused,
    Problem,
    Row,
    Source,
    Unreadable,
)

DELIMITERS = {"\t": "tab", ";": "“;”", ",": "“,”", "|": "“|”"}
SNIFFED_ROWS = 100
MAX_HEADER_CELL = 200
# A table that no file ending announces: at least so many of the first rows fit the header.
CLEAR = 0.8
_SEP = re.compile(r"sep=(.)\r?\n?")


@dataclass(frozen=True)
class Dialect:
    """How a table's cells are parted; without `quoted`, a quote is a letter like others (as in many TSV files)."""

    delimiter: str
    quoted: bool = True
    # Excel's first line “sep=;”, which is no row.
    told: bool = False

    def __str__(self) -> str:
        name = DELIMITERS.get(self.delimiter, f"“{self.delimiter}”")
        return f"{name} between cells" + ("" if self.quoted else ", quotes as letters")


def sniff(head: str, *, whole: bool, announced: bool) -> Dialect | None:
    """The dialect of a text by its beginning (`whole`: all of it), None if it looks like no table.

    `announced`: the file's ending says that it is a table; then one of a single column will do.
    """
    if told := _SEP.match(head):
        return Dialect(told[1], told=True)
    best: tuple[float, int, bool] | None = None
    chosen: Dialect | None = None
    for delimiter in DELIMITERS:
        for quoted in (True, False) if delimiter == "\t" and '"' in head else (True,):
            score = _score(head, delimiter, quoted=quoted, whole=whole)
            if score is not None and (best is None or score > best):
                best, chosen = score, Dialect(delimiter, quoted)
    if best is not None and (announced or best[0] >= CLEAR):
        return chosen
    return Dialect(",") if announced else None


def _reader(lines: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    if dialect.quoted:
        return csv.reader(lines, delimiter=dialect.delimiter, strict=True)
    return csv.reader(lines, delimiter=dialect.delimiter, strict=True, quoting=csv.QUOTE_NONE)


def _score(head: str, delimiter: str, *, quoted: bool, whole: bool) -> tuple[float, int, bool] | None:
    """The share of rows with as many cells as the header, and how many these are; None where it is no header."""
    rows: list[list[str]] = []
    broken = 0
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = _reader(io.StringIO(head, newline=""), Dialect(delimiter, quoted))
    while len(rows) <= SNIFFED_ROWS:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error:
            broken += 1
            continue
        if any(cell.strip() for cell in cells):
            rows.append(cells)
    if not whole and len(rows) > 1 and len(rows) <= SNIFFED_ROWS:
        rows.pop()  # may be cut off
        broken = max(0, broken - 1)
    if not rows:
        return None
    header = _without_blank_end(rows[0])
    names = [cell.strip() for cell in header if cell.strip()]
    if len(header) < 2 or len(names) < len(header) - 1 or any(len(name) > MAX_HEADER_CELL for name in names):
        return None
    fitting = sum(
        len(cells) == len(rows[0]) or len(_without_blank_end(cells)) == len(header) for cells in rows[1:]
    )
    others = len(rows) - 1 + broken
    if not others:
        return 0.5, len(header), quoted
    return fitting / others, len(header), quoted


def _without_blank_end(cells: list[str]) -> list[str]:
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


class _Lines:
    """Lines of a text for csv.reader, one row's at a time: how long they are, and whether their quotes close."""

    def __init__(self, source: Source, text: io.TextIOBase) -> None:
        self._name, self._text = source.name, text
        self.row = self.length = self.quotes = 0
        self.plain = True

    def begin(self, row: int) -> None:
        self.row, self.length, self.quotes, self.plain = row, 0, 0, True

    def __iter__(self) -> Iterator[str]:
        # A row may run over lines, inside quotes; neither a line nor a row fills the memory.
        while line := self._text.readline(MAX_ROW_BYTES):
            self.length += len(line)
            if self.length >= MAX_ROW_BYTES:
                raise ImportRefused(
                    f"{self._name}: row {self.row} is longer than {MAX_ROW_BYTES // 2**20} MB. Is a quote not "
                    "closed? Mend it, or shorten its texts."
                )
            self.quotes += line.count('"')
            self.plain = self.plain and line.isascii()
            yield line

    def skip_to_end_of_row(self) -> int:
        """Leave out the lines up to which the row's quotes are open; how many these were."""
        count = 0
        lines = iter(self)
        while self.quotes % 2 and next(lines, None) is not None:
            count += 1
        return count


def rows(
    source: Source, stream: io.BufferedIOBase, dialect: Dialect, *, recoded: bool
) -> Iterator[tuple[int, Row | Problem]]:
    """(row of the spreadsheet, its cells by column or why it cannot be read); blank rows count and are no rows.

    A blank cell is None. `recoded`: the bytes were made from another encoding, in which half surrogates may stand.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    errors = "surrogatepass" if recoded else "surrogateescape"
    text = io.TextIOWrapper(stream, "utf-8", errors=errors, newline="")  # type: ignore[type-var]
    lines, blanks, number = _Lines(source, text), Blanks(source.name), 0
    if dialect.told:
        next(iter(lines), None)
    reader = _reader(lines, dialect)
    header: list[str] = []
    while True:
        number += 1
        lines.begin(number)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not header:
                raise ImportRefused(
                    f"{source.name}: the header (row {number}) is not readable CSV ({error}). Mend its quotes."
                ) from error
            yield number, _broken(source, number, error, lines)
            continue
        if not header:
            if len(cells) > MAX_COLUMNS:
                raise ImportRefused(
                    f"{source.name} has {len(cells):,} columns, more than {MAX_COLUMNS:,}. "
                    "Keep those of the format."
                )
            if not any(cell.strip() for cell in cells):
                blanks.add(number)
                continue
            if cells[0].startswith("\ufeff"):
                cells[0] = cells[0].removeprefix("\ufeff")
            header = _header(source, cells)
            continue
        if len(cells) > len(header) and (extra := _cells_too_many(cells, len(header))):
            message = f"has {extra} more cells than the header has columns."
            remedy = f"Put texts that hold {DELIMITERS.get(dialect.delimiter, dialect.delimiter)} in double quotes."
            yield number, Problem(source.name, number, "", message, remedy)
            continue
        if not any(cell.strip() for cell in cells):
            blanks.add(number)
            continue
        if len(cells) < len(header):
            message = f"has {len(cells)} of {len(header)} cells: “{header[len(cells)][:60]}” is missing."
            remedy = "Write every cell, also the blank ones, and put texts with line ends in double quotes."
            yield number, Problem(source.name, number, "", message, remedy)
            continue
        values: Row = {
            name: cell or None for name, cell in zip(header, cells, strict=False) if name or cell.strip()
        }
        if "" in values:
            values[_unnamed(header)] = values.pop("")
        if not (lines.plain or recoded):
            _mark_bytes(values)
        yield number, values


def _header(source: Source, cells: list[str]) -> list[str]:
    """The columns' names, without blanks around them. One may lack a name (pandas writes its index so)."""
    while len(cells) > 1 and not cells[-1].strip():
        cells.pop()
    names = [cell.strip() for cell in cells]
    refuse_doubles(source, names)
    return names


def refuse_doubles(source: Source, names: list[str]) -> None:
    """Two columns of one name: nobody could say which is meant."""
    places: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name in places:
            what = f"are named “{name[:60]}”" if name else "have no name"
            raise ImportRefused(
                f"{source.name}: two columns {what} (columns {places[name]} and {place}). Rename or remove one."
            )
        places[name] = place


def _unnamed(header: list[str]) -> str:
    """A name for the column without one that no other has."""
    name = f"column {header.index('') + 1}"
    while name in header:
        name += "*"
    return name


def _cells_too_many(cells: list[str], columns: int) -> int:
    """How many cells say something beyond the last column, or are too many to be a slip."""
    extra = len(cells) - columns
    return extra if extra > MAX_COLUMNS or any(cell.strip() for cell in cells[columns:]) else 0


def _broken(source: Source, number: int, error: csv.Error, lines: _Lines) -> Problem:
    skipped = lines.skip_to_end_of_row()
    more = f"; the {skipped:,} lines after it belong to it" if skipped > 1 else ""
    if "unexpected end" in str(error):
        message = f"opens a quote that is never closed, up to the end of the file{more}."
    else:
        message = f"is not readable CSV ({error}{more})."
    return Problem(source.name, number, "", message, 'Write a quote inside a quoted cell twice: "".')


def _mark_bytes(values: Row) -> None:
    """Cells with bytes that are no UTF-8: Python keeps them as half surrogates."""
    for name, cell in values.items():
        if cell is None:
            continue
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            byte = ord(cell[error.start]) & 0xFF
            values[name] = Unreadable(
                f"text with the byte 0x{byte:02X} at character {error.start + 1}, which is not UTF-8",
                "Save the file as UTF-8 (in Excel: “CSV UTF-8”).",
            )


def decoded(head: bytes) -> str:
    """The beginning of a text, for the sniffer; the last character may be cut."""
    return codecs.decode(head, "utf-8", "replace").removeprefix("\ufeff")
