"""Rows of a file of unknown origin: JSON lines, a JSON array, CSV or Parquet, each perhaps gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .responses import BadInput, first_line, numbered_lines, unique_keys

MAX_BYTES = 1 << 30  # of a file, unpacked
MAX_ROWS = 200_000

Numbered = tuple[str, Any]  # "row 3" or "line 3", and the row; a ValueError where it can't be read


def rows_of(path: Path) -> Iterator[Numbered]:
    """Name and value of each row, as it stands. Raises BadInput for a file that can't be read, or is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadInput(
                f"{path.name} is larger than {MAX_BYTES >> 20:,} MB unpacked; split it into several files"
            )
        for count, row in enumerate(_rows(data, path), 1):
            if count > MAX_ROWS:
                raise BadInput(f"{path.name} has more than {MAX_ROWS:,} rows; split it into several files")
            yield row
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path.name} can't be read: {first_line(error)}") from None


def _rows(data: bytes, path: Path) -> Iterator[Numbered]:
    if data.startswith(b"PAR1"):
        return _parquet(data, path)
    if data.startswith(b"PK\x03\x04"):
        raise BadInput(f"{path.name} is a zip; unpack it, and give the files in it")
    start = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return _array(data, path)
    if {".csv", ".tsv"} & set(path.suffixes):
        return _cells(data, "\t" if ".tsv" in path.suffixes else ",")
    return ((where, value) for _, where, value in numbered_lines(data, path))


def _array(data: bytes, path: Path) -> Iterator[Numbered]:
    try:
        found = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except RecursionError:
        raise BadInput(f"{path.name} is nested too deeply") from None
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise BadInput(f"{path.name} is not JSON: {first_line(error)}") from None
    for number, row in enumerate(found, 1):
        yield f"row {number}", row


def _cells(data: bytes, delimiter: str) -> Iterator[Numbered]:
    csv.field_size_limit(MAX_BYTES)
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    for number, row in enumerate(csv.DictReader(text, delimiter=delimiter), 1):
        if None in row or None in row.values():
            yield (
                f"row {number}",
                ValueError("it has not as many cells as the header; quote cells with commas"),
            )
        else:
            yield f"row {number}", {name: _cell(value) for name, value in row.items()}


def _cell(value: str) -> Any:
    """A list of messages or texts may stand in a cell as JSON; everything else is the text that it is."""
    if value.startswith(("[{", '["')):
        try:
            return json.loads(value, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError):
            pass
    return value


def _parquet(data: bytes, path: Path) -> Iterator[Numbered]:
    file = pq.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{path.name} has two columns {twice!r}; keep one of them")
    if sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)) > MAX_BYTES:
        raise BadInput(
            f"{path.name} is larger than {MAX_BYTES >> 20:,} MB unpacked; split it into several files"
        )
    number = 0
    for batch in file.iter_batches(batch_size=64):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row
