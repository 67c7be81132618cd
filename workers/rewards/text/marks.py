"""Texts with marks in them: what is put around them before a chat template is rendered, and read off it after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Marks(NamedTuple):
    """Private-use characters that stand in none of the texts: `split` a marker, and enclose a text and the response."""

    split: str
    begin: str
    end: str
    first: str
    last: str


class Piece(NamedTuple):
    """A special token that the template wrote, if any, and the text up to the next one."""

    token: int | None
    text: str
    contents: tuple[tuple[int, int], ...]  # where in it messages' texts stand
    response: tuple[int, int] | None


class Edges(NamedTuple):
    """The white space before and after a text, and whether there is a text between."""

    lead: str = ""
    trail: str = ""
    said: bool = True


def edges_of(text: str) -> tuple[str, Edges]:
    """A text without the white space around it, and that."""
    core = text.strip()
    lead = text[: len(text) - len(text.lstrip())]
    return core, Edges(lead, text[len(lead) + len(core) :], bool(core))


def unmarked(
    raw: str, marks: Marks, inside: bool
) -> tuple[str, list[tuple[int, int]], tuple[int, int] | None, bool]:
    """The text without marks, where messages' texts and the response stand in it, and whether one goes on."""
    text: list[str] = []
    size, opened = 0, 0 if inside else None
    contents: list[tuple[int, int]] = []
    response: list[int] = []
    for part in re.split(f"([{''.join(marks)}])", raw):
        if part == marks.begin:
            opened = size
        elif part == marks.end and opened is not None:
            contents.append((opened, size))
            opened = None
        elif part in (marks.first, marks.last):
            response.append(size)
        elif part not in marks:
            text.append(part)
            size += len(part)
    if opened is not None:
        contents.append((opened, size))
    span = (response[0], response[1]) if len(response) == 2 else None
    return "".join(text), contents, span, opened is not None


def within(places: Sequence[tuple[int, int]], begin: int, end: int, size: int) -> tuple[int, int]:
    """Tokens of the characters begin..end-1 of `size`; one that straddles an edge belongs to them."""
    start = 0
    if begin:
        start = next((n for n, place in enumerate(places) if place[1] > begin), len(places))
    if begin == end:
        return (start, start) if begin else (0, 0)
    if end == size:
        return start, len(places)
    stop = next((n + 1 for n in reversed(range(len(places))) if places[n][0] < end), 0)
    return start, max(start, stop)


def inside(place: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    return any(begin <= place[0] and place[1] <= end for begin, end in spans)
