"""Rows of Parquet files, within bounds.

A few bytes of a Parquet file can stand for any amount of memory: a column names one long text in a dictionary (or as
"like the one before") and repeats it, row after row or in one row's list. So nothing is decoded before it is known
how large a value may be and how many of them a batch has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from webapp.importing import footer
from webapp.importing.json_columns import decoded, json_columns
from webapp.importing.sources import (
    MAX_COLUMNS,
    MAX_ROW_BYTES,
    UNPACK_FACTOR,
    ImportRefused,
    Problem,
    Unreadable,
    printable,
)
from webapp.importing.tables import refuse_doubles

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

    from webapp.importing.sources import OnPosition, Row, Source

BATCH_ROWS = 200
BATCH_BYTES = 16 * 1024 * 1024
# Values in all columns of all rows; each becomes an object.
MAX_CELLS = 50_000_000
# What turning a row into Python values raises: no UTF-8, a time of nanoseconds or far away, nested too deeply.
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError, KeyError, NotImplementedError)
# A column of so few bytes has no large value.
SMALL_COLUMN = 16 * 1024


def rows(
    source: Source, on_progress: OnPosition, path: Path, columns: Collection[str] | None
) -> Iterator[tuple[int, Row | Problem]]:
    """(row number from 1, the row or why it cannot be read) of the Parquet file at `path`. Raises ImportRefused."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            refuse_doubles(source, names)
            wanted = None if columns is None else [name for name in names if name in columns]
            leaves = [
                place
                for place in range(len(file.schema))
                if wanted is None or _is_of(file.schema.column(place).path, wanted)
            ]
            footer.check(path, [_leaf(file.schema.column(place)) for place in range(len(file.schema))])
            _check_size(source, file, leaves)
            number = 0
            for batch in _batches(source, path, file, leaves, wanted, on_progress):
                yield from _batch_rows(source, batch, number)
                number += batch.num_rows
                on_progress(source.size * number // max(1, file.metadata.num_rows))
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, footer.BadFooterError) as error:
        why = printable(str(error))[:300]
        raise ImportRefused(
            f"{source.name} is not a readable Parquet file ({why}). Write it again."
        ) from error


def _leaf(column: pyarrow.parquet.ColumnSchema) -> footer.Leaf:
    levels = column.max_repetition_level, column.max_definition_level
    return footer.Leaf(*levels, is_bytes=column.physical_type == "BYTE_ARRAY")


def _is_of(leaf: str, columns: list[str]) -> bool:
    """Whether a leaf, such as “chosen.list.element.role”, belongs to one of the columns."""
    return any(leaf == name or leaf.startswith(f"{name}.") for name in columns)


def _check_size(source: Source, file: pyarrow.parquet.ParquetFile, leaves: list[int]) -> None:
    """Refuse by what the file says of itself."""
    metadata = file.metadata
    if metadata.num_columns > MAX_COLUMNS:
        raise ImportRefused(
            f"{source.name} has {metadata.num_columns:,} columns, more than {MAX_COLUMNS:,}. "
            "Keep those of the format."
        )
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked > UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES:
        raise ImportRefused(f"{source.name} is too large once unpacked ({unpacked // 2**20} MB). Split it.")
    cells = sum(group.column(place).num_values for group in groups for place in leaves)
    if cells > MAX_CELLS:
        raise ImportRefused(
            f"{source.name} holds {cells:,} values in {metadata.num_rows:,} rows, more than {MAX_CELLS:,}. Split it, "
            "or keep only the columns of the format."
        )


def _batches(
    source: Source,
    path: Path,
    file: pyarrow.parquet.ParquetFile,
    leaves: list[int],
    wanted: list[str] | None,
    on_progress: OnPosition,
) -> Iterator[pyarrow.RecordBatch]:
    """Batches of few enough rows that each stays small; columns whose lists repeat large values stay encoded."""
    import pyarrow.parquet

    for index in range(file.metadata.num_row_groups):
        on_progress(0)
        group = file.metadata.row_group(index)
        if not group.num_rows:
            continue
        row_bytes, encoded = group.total_byte_size / group.num_rows, []
        cells = 0
        for place in leaves:
            column, leaf = group.column(place), file.schema.column(place)
            cells += column.num_values
            largest = _largest_repeated(path, index, column, leaf)
            if largest > MAX_ROW_BYTES:
                raise ImportRefused(
                    f"{source.name}: column “{leaf.path[:60]}” holds a value of {largest // 2**20} MB, more than "
                    f"{MAX_ROW_BYTES // 2**20} MB. Shorten it, or remove the column."
                )
            longest_list = column.num_values - group.num_rows + 1
            if (
                leaf.max_repetition_level
                and largest * longest_list > BATCH_BYTES
                and _only_dictionary(column)
            ):
                encoded.append(leaf.path)
            else:
                row_bytes += largest * max(1.0, column.num_values / group.num_rows)
        if row_bytes > 4 * MAX_ROW_BYTES:
            raise ImportRefused(
                f"{source.name} has rows of up to {row_bytes / 2**20:,.0f} MB. Shorten their texts, or remove columns."
            )
        count = min(
            BATCH_ROWS, int(BATCH_BYTES // max(1, row_bytes)), 1_000_000 * group.num_rows // max(1, cells)
        )
        with pyarrow.parquet.ParquetFile(path, read_dictionary=encoded, buffer_size=1024 * 1024) as opened:
            yield from opened.iter_batches(
                max(1, count), row_groups=[index], columns=wanted, use_threads=False
            )


def _only_dictionary(column: Any) -> bool:
    """Whether the pages of a column hold (next to) nothing but numbers of its dictionary's values."""
    pages = column.total_uncompressed_size - MAX_ROW_BYTES
    return "RLE_DICTIONARY" in column.encodings and pages < 8 * column.num_values


def _largest_repeated(path: Path, index: int, column: Any, leaf: Any) -> int:
    """The size of the largest value of a column that its pages may repeat at next to no cost."""
    import pyarrow.compute
    import pyarrow.parquet

    if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return int(leaf.length)
    if leaf.physical_type != "BYTE_ARRAY":
        return 8
    whole = int(column.total_uncompressed_size)
    if whole <= SMALL_COLUMN or "DELTA_BYTE_ARRAY" in column.encodings:
        return whole
    if not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(column.encodings):
        return 0
    # One row, still encoded, brings the whole dictionary.
    with pyarrow.parquet.ParquetFile(path, read_dictionary=[leaf.path], buffer_size=1024 * 1024) as file:
        batch = next(file.iter_batches(1, row_groups=[index], columns=[leaf.path], use_threads=False))
        values = batch.column(0)
    while not isinstance(values, pyarrow.DictionaryArray):
        if isinstance(values, pyarrow.StructArray):
            values = values.field(0)
        elif isinstance(values, pyarrow.MapArray):
            values = values.keys if leaf.path.endswith(".key") else values.items
        elif isinstance(values, pyarrow.ListArray | pyarrow.LargeListArray):
            values = values.values
        else:
            return whole  # of a type that stays plain: its whole column is an upper bound
    largest = pyarrow.compute.max(pyarrow.compute.binary_length(values.dictionary)).as_py()
    return int(largest or 0)


def _batch_rows(
    source: Source, batch: pyarrow.RecordBatch, before: int
) -> Iterator[tuple[int, Row | Problem]]:
    """The batch's rows as Python values; rows that are too large by name, values without a Python value marked."""
    import numpy as np
    import pyarrow as pa

    batch = _without_views(batch)
    sizes = 64 * batch.num_columns + sum(
        (_row_bytes(column) for column in batch.columns if _varies(column.type)),
        np.zeros(batch.num_rows, np.int64),
    )
    floats = [field.name for field in batch.schema if pa.types.is_floating(field.type)]
    as_json = json_columns(batch.schema)
    whole: list[Row] | None = None
    if sizes.sum() <= 4 * BATCH_BYTES:
        with contextlib.suppress(*UNREADABLE):
            whole = batch.to_pylist(maps_as_pydicts="strict")
    for place in range(batch.num_rows):
        number = before + place + 1
        if whole is None and sizes[place] > MAX_ROW_BYTES:
            message = f"is {sizes[place] // 2**20:,} MB long, of {MAX_ROW_BYTES // 2**20} MB allowed."
            yield number, Problem(source.name, number, "", message, "Shorten its texts and lists.")
            continue
        row = whole[place] if whole is not None else _cell_by_cell(batch, place)
        for name in floats:
            if row[name] != row[name]:  # NaN, which is “not given”
                row[name] = None
        yield number, decoded(row, as_json)


def _cell_by_cell(batch: pyarrow.RecordBatch, place: int) -> Row:
    """A row in which what cannot be read is marked: it costs the row only where the column is used."""
    row: Row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[place].as_py(maps_as_pydicts="strict")
        except UNREADABLE as error:
            why = printable(str(error))[:200]
            row[name] = Unreadable(f"a value that cannot be read ({why})", "Store it as text.")
    return row


def _without_views(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """Columns of string views as columns of strings: the sizes of views cannot be told."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if not any(column.type in plain for column in batch.columns):
        return batch
    columns = [column.cast(plain.get(column.type, column.type)) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _varies(column_type: pyarrow.DataType) -> bool:
    """Whether values of the type differ in size."""
    import pyarrow.types as types

    return bool(
        types.is_nested(column_type)
        or types.is_dictionary(column_type)
        or not types.is_primitive(column_type)
    )


def _row_bytes(array: pyarrow.Array) -> Any:
    """Of each row, how many bytes its values in this column take (as an object, at least 64 each)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.ExtensionArray):
        return _row_bytes(array.storage)
    if isinstance(array, pa.FixedSizeListArray):
        inner = _row_bytes(array.values.slice(array.offset * array.type.list_size))
        width = array.type.list_size
        return inner[: len(array) * width].reshape(len(array), width).sum(axis=1) + 64
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64) + 64
    if isinstance(array, pa.StructArray):
        return sum((_row_bytes(field) for field in array.flatten()), np.full(len(array), 64, np.int64))
    if isinstance(array, pa.MapArray):
        inner = _row_bytes(array.keys) + _row_bytes(array.items)
    elif isinstance(array, pa.ListArray | pa.LargeListArray):
        inner = _row_bytes(array.values)
    elif (
        pa.types.is_string(array.type)
        or pa.types.is_binary(array.type)
        or pa.types.is_large_string(array.type)
    ):
        lengths = pc.fill_null(pc.binary_length(array), 0)
        return lengths.to_numpy(zero_copy_only=False).astype(np.int64) + 64
    else:
        return np.full(len(array), 64, np.int64)
    ends = np.concatenate([[0], np.cumsum(inner)])[array.offsets.to_numpy()]
    return ends[1:] - ends[:-1] + 64
