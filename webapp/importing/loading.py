"""New rows into the database in bulk: COPY on PostgreSQL, one prepared INSERT on SQLite.

A model's instances would take longer than all else that an import does, so a row here is a tuple of values. What the
tuple lacks gets the value that the model's default gives it, as with `bulk_create`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Self

from django.db import connection
from django.db.models import DateTimeField, Field, JSONField, Model

NULL = r"\N"


# Keys that are asked for at a time.
KEYS = 5000


class Loader:
    """The tables of one load, inside a transaction of the caller's.

    On PostgreSQL a COPY goes on in a thread while the next rows are made; whatever else is asked of the connection
    waits for it, and so does the end. Foreign keys are checked meanwhile too, not all of them at the commit.
    """

    def __init__(self) -> None:
        self._copies = connection.vendor == "postgresql" and connection.in_atomic_block
        self._copy: Future[None] | None = None

    def table(self, model: type[Model], columns: Sequence[str], *, expected: int = 0, **same: Any) -> "Table":
        return Table(self, model, columns, expected=expected, **same)

    def __enter__(self) -> Self:
        self._stack = ExitStack().__enter__()
        if self._copies:
            self._thread = self._stack.enter_context(ThreadPoolExecutor(1))
            self._stack.enter_context(connection.execute_wrapper(self._in_turn))
            self._check("IMMEDIATE")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with self._stack:
            if self._copies and kind is None:
                self._check("DEFERRED")  # waits for the last COPY, as all questions do

    def _check(self, when: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET CONSTRAINTS ALL {when}")

    def copy(self, sql: str, data: str) -> None:
        self._wait()
        self._copy = self._thread.submit(_copy, connection.connection, sql, data)

    def _wait(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            with connection.wrap_database_errors:
                copy.result()

    def _in_turn(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        self._wait()
        return execute(*arguments)


def _copy(postgres: Any, sql: str, data: str) -> None:
    with postgres.cursor() as cursor, cursor.copy(sql) as copy:
        copy.write(data)


class Table:
    """Where an import's new rows of one model go.

    `columns` are attnames in the order of the rows' values, `same` what all rows have. Times are ISO texts in UTC with
    microseconds (as fields.time_of makes them), "" or None where there is none. At most about `expected` rows come.
    Raises IntegrityError, on PostgreSQL only with what is asked next.
    """

    def __init__(
        self, loader: Loader, model: type[Model], columns: Sequence[str], *, expected: int, **same: Any
    ) -> None:
        self.model, self._loader, self._copies = model, loader, connection.vendor == "postgresql"
        self._expected = expected
        self._keys: list[int] = []
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
        name = self.model._meta.db_table
        if not self._copies:
            with connection.cursor() as cursor:
                cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [name])
                first = (cursor.fetchone() or (0,))[0] + 1
            return range(first, first + number)
        if (missing := number - len(self._keys)) > 0:
            # For several chunks, since each question waits for the COPY that goes on.
            asked = max(missing, min(KEYS, self._expected))
            self._expected -= asked
            with connection.cursor() as cursor:
                sql = "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)"
                cursor.execute(sql, [name, asked])
                self._keys += [key for (key,) in cursor.fetchall()]
        keys, self._keys = self._keys[:number], self._keys[number:]
        return keys

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return None
        columns: list[Iterable[Any]] = [
            encode(values) for (_, encode), values in zip(self._given, zip(*rows, strict=True), strict=True)
        ]
        for field, encode in self._made:
            made = [field.get_default() for _ in rows]
            columns.append(encode([iso(value) if isinstance(value, datetime) else value for value in made]))
        encoded = zip(*columns, *(repeat(value) for value in self._same))  # noqa: B905 - these have no end
        if self._copies:
            return self._loader.copy(self._sql, "\n".join(map("\t".join, encoded)) + "\n")
        with connection.cursor() as cursor, connection.wrap_database_errors:
            # Past Django, which would look for its own marks in the statement for each row.
            cursor.connection.executemany(self._sql, encoded)
        return None

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
