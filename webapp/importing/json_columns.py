"""Parquet columns of Arrow's JSON type (`datasets.Json`, Caliper's exports of tool calls): values, not their texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from webapp.importing.reading import Row


def decoded(row: Row, schema: pyarrow.Schema) -> Row:
    """The row with its JSON read; a text that is no JSON stays a text. Changes the row."""
    import pyarrow as pa

    for field in schema:
        column_type, value = field.type, row[field.name]
        if isinstance(column_type, pa.JsonType):
            row[field.name] = _read(value)
        elif (
            pa.types.is_list(column_type)
            and isinstance(column_type.value_type, pa.JsonType)
            and isinstance(value, list)
        ):
            row[field.name] = [_read(one) for one in value]
    return row


def _read(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
