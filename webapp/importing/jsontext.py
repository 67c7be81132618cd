"""Rows from JSON: an object a line, a list of objects, or objects over several lines, decoded one by one.

What Python's json lets pass is looked at: a key that stands twice would lose a value, `NaN` is “not given”, a number
of thousands of digits is no number. Such a value is an `Unreadable`, which costs its row only where it is used.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from webapp.importing.sources import (
    MAX_ROW_BYTES,
    Blanks,
    ImportRefused,
    Problem,
    Row,
    Source,
    Unreadable,
    json_type,
)

# A row of a megabyte may be one long text; as a list of two-byte values it would need a hundred times the memory.
LARGE_ROW = 1024 * 1024
MAX_ROW_VALUES = 100_000
# More digits than these Python doesn't turn into a number.
MAX_DIGITS = 4300


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Unreadable:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return Unreadable(f"an object with the key “{double[:60]}” twice", "Keep one of them.")


def _digits(text: str) -> int | Unreadable:
    if len(text) <= MAX_DIGITS:
        return int(text)
    return Unreadable(f"a number of {len(text):,} digits", "Write it as text.")


_DECODER = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_object)
_PATIENT = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_object, parse_int=_digits)


def decode(text: str) -> Any:
    """The value of a JSON text. Raises ValueError or RecursionError."""
    return decode_first(text, _WHITE.match(text).end(), whole=True)[0]  # type: ignore[union-attr]


def decode_first(text: str, position: int = 0, *, whole: bool = False) -> tuple[Any, int]:
    """The value that begins there, and where it ends; with `whole` nothing may come after it."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError:
        raise
    except ValueError:
        value, end = _PATIENT.raw_decode(text, position)
    if whole and (after := _WHITE.match(text, end).end()) != len(text):  # type: ignore[union-attr]
        raise json.JSONDecodeError("Extra data", text, after)
    return value, end


_WHITE = re.compile(r"[ \t\r\n]*")
# A text (no backtracking: texts are long), or what opens, closes and parts values.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)


def too_many_values(text: str, position: int = 0) -> bool:
    """Whether the JSON value that begins there holds too many values, as far as the text goes. It is not decoded."""
    depth = values = 0
    for token in _TOKEN.finditer(text, position):
        sign = token[0] if token.end() - token.start() == 1 else ""
        if sign == '"':
            return False  # a text that has not ended yet
        if sign:
            values += sign in ",[{"
            depth += (sign in "[{") - (sign in "]}")
            if values > MAX_ROW_VALUES:
                return True
            if depth <= 0:
                return False
    return False


def _end_of_value(text: str, position: int) -> int | None:
    """Where a value that cannot be decoded ends, by its brackets and quotes; None if that isn't seen yet."""
    depth = 0
    for token in _TOKEN.finditer(text, position):
        sign = token[0] if token.end() - token.start() == 1 else ""
        if sign == '"':
            return None
        if sign and sign in ",]}" and depth == 0:
            return token.start() if sign != "}" else token.end()
        if sign:
            depth += (sign in "[{") - (sign in "]}")
            if depth == 0 and sign != ",":
                return token.end()
    return None


def _as_row(source: Source, number: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return value
    if isinstance(value, Unreadable):
        return Problem(source.name, number, "", f"is {value.what}.", value.remedy)
    message = f"is {json_type(value)} instead of a JSON object."
    return Problem(source.name, number, "", message, "Write {…} with named fields.")


_MANY_VALUES = (f"holds more than {MAX_ROW_VALUES:,} values.", "Remove the fields that are not needed.")


def lines(source: Source, stream: io.BufferedReader, *, errors: str) -> Iterator[tuple[int, Row | Problem]]:
    """Of each line that isn't blank its number and object. `errors` is how its UTF-8 is decoded."""
    number = 0
    blanks = Blanks(source.name)
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            message = f"is longer than {MAX_ROW_BYTES // 2**20} MB."
            yield number, Problem(source.name, number, "", message, "Shorten its texts.")
            continue
        # Files that were put one behind the other keep the mark of each.
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            blanks.add(number)
            continue
        try:
            text = line.decode("utf-8", errors)
            if len(line) > LARGE_ROW and too_many_values(text):
                yield number, Problem(source.name, number, "", *_MANY_VALUES)
                continue
            yield number, _as_row(source, number, decode(text))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text (byte {error.start + 1} of the line)."
            yield number, Problem(source.name, number, "", message, "Save the file as UTF-8.")
        except (ValueError, RecursionError) as error:
            message = f"is not JSON ({error})."
            remedy = "Write one complete JSON object on each line."
            yield number, Problem(source.name, number, "", message, remedy)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Text:
    """The text of a file from a moving position on; more of it is read where it is wanted."""

    def __init__(self, source: Source, stream: io.BufferedReader, errors: str) -> None:
        self._name, self._stream = source.name, stream
        self._strict = errors == "strict"
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if self._strict else errors)
        self._ended = False
        # Whether some of its bytes were no UTF-8; Python keeps them as half surrogates.
        self._has_bytes = False
        self.buffer, self.position, self.element = "", 0, 0

    @property
    def waiting(self) -> int:
        return len(self.buffer) - self.position

    def more(self) -> bool:
        """Read on, at least as much again as is waiting, so that a long element isn't decoded over and over."""
        if self._ended:
            return False
        data = self._stream.read(max(1024 * 1024, self.waiting))
        self._ended = not data
        text = self._decoder.decode(data, final=self._ended)
        self._has_bytes = self._has_bytes or (self._strict and not _is_utf8(text))
        self.buffer, self.position = self.buffer[self.position :] + text, 0
        return not self._ended

    def has_bytes(self, start: int) -> bool:
        """Whether bytes that are no UTF-8 stand between there and the position."""
        return self._has_bytes and not _is_utf8(self.buffer[start : self.position])

    def next(self) -> str:
        """The next character that isn't blank, "" at the end; the position is there then."""
        blank = 0
        while True:
            before = self.position
            self.position = _WHITE.match(self.buffer, before).end()  # type: ignore[union-attr]
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            blank += self.position - before
            if blank > MAX_ROW_BYTES:
                raise ImportRefused(
                    f"{self._name} has {blank // 2**20} MB of blank space after element {self.element}. Remove it."
                )
            if not self.more():
                return ""


def elements(
    source: Source, stream: io.BufferedReader, *, errors: str, bare: bool
) -> Iterator[tuple[int, Row | Problem]]:
    """Elements of a JSON list (`bare`: objects one after another without a list), decoded one by one.

    A broken element costs that row where its brackets and quotes show its end; a list that breaks off is refused.
    """
    text = _Text(source, stream, errors)
    if text.next() == "\ufeff":
        text.position += 1
    if not bare:
        text.next()
        text.position += 1  # the opening bracket
        if text.next() == "]":
            raise ImportRefused(f"{source.name} is an empty list. Choose a file with rows in it.")
    while True:
        follower = text.next()
        if follower == "" and bare:
            return
        if follower == "]" and not bare:
            if not _next_list(text):
                break
            continue
        text.element += 1
        yield text.element, _element(source, text)
        follower = text.next()
        if follower == ",":
            text.position += 1
        elif follower == "" and not bare:
            raise ImportRefused(
                f"{source.name}: the JSON list breaks off after element {text.element}. Is the file complete?"
            )
    if text.next():
        number = text.element + 1
        message = "begins after the end of the JSON list; nothing from here on is read."
        yield number, Problem(source.name, number, "", message, "Put all rows into one list.")


def _next_list(text: _Text) -> bool:
    """Step behind a list's end; whether another list follows, as in files put one behind the other."""
    text.position += 1
    while text.next() == "\ufeff":
        text.position += 1
    if text.next() != "[":
        return False
    text.position += 1
    return True


def _element(source: Source, text: _Text) -> Row | Problem:
    number = text.element
    while True:
        try:
            if text.waiting > LARGE_ROW and too_many_values(text.buffer, text.position):
                raise ImportRefused(
                    f"{source.name}: element {number} of the JSON list {_MANY_VALUES[0]} {_MANY_VALUES[1]}"
                )
            start = text.position
            value, text.position = decode_first(text.buffer, start)
            if text.has_bytes(start):
                return Problem(source.name, number, "", "is not UTF-8 text.", "Save the file as UTF-8.")
            return _as_row(source, number, value)
        except (ValueError, RecursionError) as error:
            end = _end_of_value(text.buffer, text.position)
            if end is not None:
                # A stray bracket is a broken element of its own; a comma is read next.
                stray = end == text.position and text.buffer[end] != ","
                text.position = end + stray
                message = f"is not JSON ({str(error).partition(': line')[0]})."
                return Problem(source.name, number, "", message, "Mend this element of the list.")
            if text.waiting < MAX_ROW_BYTES and text.more():
                continue
            raise ImportRefused(
                f"{source.name} is not a readable JSON list: element {number} is broken ({error}). Mend it, "
                "or write JSON Lines (one object on each line), where a broken row doesn't spoil the others."
            ) from error
