"""New rows into the database in bulk: COPY on PostgreSQL, one prepared INSERT on SQLite.

A model's instances would take longer than all else that an import does, so a row here is a tuple of values. What the
tuple lacks gets the value that the model's default gives it, as with `bulk_create`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, Field, JSONField, Model

NULL = r"\N"


class Table:
    """Where an import's new rows of one model go.

    `columns` are attnames in the order of the rows' values, `same` what all rows have. Times are ISO texts in UTC with
    microseconds (as fields.time_of makes them), "" or None where there is none. Raises IntegrityError.
    """

    def __init__(self, model: type[Model], columns: Sequence[str], **same: Any) -> None:
        self.model, self._copies = model, connection.vendor == "postgresql"
        fields: dict[str, Field[Any, Any]] = {
            field.attname or "": field for field in model._meta.concrete_fields
        }
        assert {*columns, *same} <= fields.keys()
        self._given = [(fields[name], self._encoder(fields[name])) for name in columns]
        self._made: list[tuple[Field[Any, Any], Callable[[Sequence[Any]], Iterable[Any]]]] = []
        self._same: list[Any] = []
        same_fields = []
        for name, field in fields.items():
            if name in columns or (field.primary_key and name not in same):
                continue
            if name not in same and callable(field.default) and field.default not in (list, dict):
                self._made.append((field, self._encoder(field)))
                continue
            value = same[name] if name in same else field.get_default()
            same_fields.append(field)
            self._same += self._encoder(field)([iso(value) if isinstance(value, datetime) else value])
        quote = connection.ops.quote_name
        ordered = [field for field, _ in (*self._given, *self._made)] + same_fields
        listed = ", ".join(quote(str(field.column)) for field in ordered)
        table = quote(model._meta.db_table)
        marks = ", ".join(["?"] * len(ordered))
        self._sql = (
            f"COPY {table} ({listed}) FROM STDIN"
            if self._copies
            else f"INSERT INTO {table} ({listed}) VALUES ({marks})"  # noqa: S608
        )

    def keys(self, number: int) -> Sequence[int]:
        """Primary keys for so many rows to come. On SQLite they are free until the transaction ends."""
        if not number:
            return []
        name = self.model._meta.db_table
        with connection.cursor() as cursor:
            if self._copies:
                sql = "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)"
                cursor.execute(sql, [name, number])
                return [key for (key,) in cursor.fetchall()]
            cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [name])
            first = (cursor.fetchone() or (0,))[0] + 1
            return range(first, first + number)

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        columns: list[Iterable[Any]] = [
            encode(values) for (_, encode), values in zip(self._given, zip(*rows, strict=True), strict=True)
        ]
        for field, encode in self._made:
            made = [field.get_default() for _ in rows]
            columns.append(encode([iso(value) if isinstance(value, datetime) else value for value in made]))
        encoded = zip(*columns, *(repeat(value) for value in self._same))  # noqa: B905 - these have no end
        with connection.cursor() as cursor, connection.wrap_database_errors:
            if self._copies:
                with cursor.copy(self._sql) as copy:
                    copy.write("\n".join(map("\t".join, encoded)) + "\n")
            else:
                # Past Django, which would look for its own marks in the statement for each row.
                cursor.connection.executemany(self._sql, encoded)

    def _encoder(self, field: "Field[Any, Any]") -> Callable[[Sequence[Any]], Iterable[Any]]:
        """A function of a column's values: as texts of COPY, or as SQLite takes them."""
        if isinstance(field, DateTimeField):
            return _copied_times if self._copies else _sqlite_times
        if isinstance(field, JSONField):
            return _copied_json if self._copies else _json
        return _copied if self._copies else list


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _json(values: Sequence[Any]) -> list[str | None]:
    return ["[]" if value == [] else None if value is None else json.dumps(value) for value in values]


def _copied_json(values: Sequence[Any]) -> list[str]:
    return [NULL if text is None else text.replace("\\", "\\\\") for text in _json(values)]


def _copied_times(values: Sequence[str | None]) -> list[str]:
    return [value or NULL for value in values]


def _sqlite_times(values: Sequence[str | None]) -> list[str | None]:
    """As Django writes them: without a zone, and without a fraction that is none."""
    return [
        f"{value[:10]} {value[11:19]}{'' if value[19:26] == '.000000' else value[19:26]}" if value else None
        for value in values
    ]


def _copied(values: Sequence[Any]) -> list[str]:
    if all(type(value) is str for value in values):
        # No text has a NUL (fields.check_text), so that a column can be escaped as one.
        whole = "\x00".join(values).replace("\\", "\\\\")
        return whole.replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r").split("\x00")
    return [_copied_one(value) for value in values]


def _copied_one(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, str):
        return _copied([str(value)])[0]
    return repr(value)
