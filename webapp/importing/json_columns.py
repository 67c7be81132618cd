"""Parquet columns of Arrow's JSON type (`datasets.Json`, Caliper's exports of tool calls): values, not their texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from webapp.importing.reading import Row


def json_columns(schema: pyarrow.Schema) -> tuple[list[str], list[str]]:
    """Names of the columns of JSON, and of those of lists of JSON: asked once a batch, not once a row."""
    import pyarrow as pa

    lists = [field for field in schema if pa.types.is_list(field.type)]
    return (
        [field.name for field in schema if isinstance(field.type, pa.JsonType)],
        [field.name for field in lists if isinstance(field.type.value_type, pa.JsonType)],
    )


def decoded(row: Row, columns: tuple[list[str], list[str]]) -> Row:
    """The row with the JSON of `json_columns` read; a text that is no JSON stays a text. Changes the row."""
    plain, lists = columns
    for name in plain:
        row[name] = _read(row[name])
    for name in lists:
        if isinstance(row[name], list):
            row[name] = [_read(one) for one in row[name]]
    return row


def _read(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
