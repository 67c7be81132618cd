"""Reading a file of responses to score: every row as it stands, or refused by its line, field and remedy."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .messages import checked

UNKNOWN_SHARE = 0.05  # of the tokens: from here on it is said that the model doesn't know them
COLUMNS = ("response_id", "text", "messages", "tools")

Row = dict[str, Any]


class BadInput(Exception):
    """The responses can't be read; the message names file, row and remedy."""


def read_responses(path: Path) -> tuple[list[Row], list[str]]:
    """Rows with response_id (the line's number if not given), messages, tools and text; and what was refused, by line.

    Raises BadInput for a file that can't be read at all, or holds no row.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        numbered = list(_table(data, path) if data.startswith(b"PAR1") else numbered_lines(data, path))
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {first_line(error)}") from None
    if not numbered:
        raise BadInput(f"{path} holds no response; give a row with a text for each")
    rows: list[Row] = []
    refused: list[str] = []
    known: dict[str, str] = {}  # ids, and where they stand
    for number, where, found in numbered:
        try:
            if isinstance(found, ValueError):
                raise found
            row = _read(found, number)
            if (first := known.setdefault(row["response_id"], where)) != where:
                raise ValueError(
                    f"response_id {row['response_id']!r} is that of {first}; give every row its own"
                )
            rows.append(row)
        except (ValueError, RecursionError) as error:
            message = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            refused.append(f"{path} {where}: {message}")
    return rows, refused


def numbered_lines(data: bytes, path: Path) -> Iterator[tuple[int, str, Any]]:
    """Number, name and value of each line that isn't blank; a ValueError for one that is no JSON.

    Lines end where JSON lets none go on: at CR and LF, not at U+2028 or other characters that str.splitlines splits at.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4]:
        raise BadInput(f"{path} is UTF-16 or UTF-32; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", data), 1):
        if line.strip():
            try:
                value: Any = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
            except UnicodeDecodeError as error:
                value = ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")
            except RecursionError:
                value = ValueError("it is nested too deeply")
            except json.JSONDecodeError as error:
                value = ValueError(f"it is not JSON: {error.msg} at character {error.pos + 1}")
            except ValueError as error:
                value = error
            yield number, f"line {number}", value


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object (json's object_pairs_hook). Raises ValueError for a key that stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object; keep one of them")
    return found


def _table(data: bytes, path: Path) -> Iterator[tuple[int, str, Any]]:
    """Number, name and value of each row of a Parquet file; other columns are not read."""
    file = pq.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    for name in COLUMNS:
        if names.count(name) > 1:
            raise BadInput(f"{path} has two columns {name!r}; keep one of them")
    number = 0
    for batch in file.iter_batches(columns=[name for name in COLUMNS if name in names]):
        for row in batch.to_pylist():
            number += 1
            yield number, f"row {number}", row


def _read(found: Any, number: int) -> Row:
    """One row. Raises ValueError naming field and remedy."""
    if not isinstance(found, dict):
        raise ValueError('it must be an object {"text": ..., "messages": ...}, one a line')
    text, name = found.get("text"), found.get("response_id")
    if not isinstance(text, str):
        given = "it is not given" if text is None else f"not {text!r:.40}"
        raise ValueError(f"text must be a text, {given}; an empty response is an empty text")
    if isinstance(name, bool) or not isinstance(name, (str, int, float, type(None))):
        raise ValueError(f"response_id must be a text or a number, not {name!r:.40}")
    if isinstance(name, float) and not math.isfinite(name):
        raise ValueError(
            "response_id must be a text or a number, not NaN or infinite; leave it out, and it is the line's"
        )
    messages = checked(_parsed(found.get("messages"), "messages") or [])
    tools = _parsed(found.get("tools"), "tools") or []
    if not isinstance(tools, list):
        raise ValueError("tools must be a list of tools' JSON schemas")
    row = {
        "response_id": str(number if name is None else name),
        "messages": messages,
        "tools": tools,
        "text": text,
    }
    for field, value in row.items():
        without_surrogates(value, field)
    return row


def _parsed(value: Any, field: str) -> Any:
    """A column of Parquet may hold lists as JSON texts."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=unique_keys) if value.strip() else []
    except json.JSONDecodeError as error:
        raise ValueError(f"{field} is a text that is not JSON: {error.msg}") from None


def without_surrogates(value: Any, field: str) -> None:
    """Raises ValueError where half a character stands in a text, at any depth."""
    if isinstance(value, str):
        if (found := re.search("[\ud800-\udfff]", value)) is not None:
            raise ValueError(
                f"{field} holds half a character (the lone surrogate U+{ord(found[0]):04X} at {found.start() + 1}), "
                "which stands for nothing; write the whole character or take it out"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            without_surrogates(key, field)
            without_surrogates(item, f"{field}.{key}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            without_surrogates(item, f"{field}[{place}]")


def first_line(error: Exception) -> str:
    """What an error says, in one line; its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
