"""The database's rows as files that know nothing of the database: one gzipped JSON line a row, in the keys' order.

The same rows give the same lines on SQLite and on PostgreSQL, so that their sha256 says whether two installations
hold the same. Memory is bounded by a batch of rows.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.management.color import no_style
from django.db import connection, models
from django.utils.duration import duration_string

from webapp.ratings.models import Derived

BATCH = 2000

Table = type[models.Model]
Row = list[Any]

# Their JSON form is not what the database driver takes.
CONVERTED = (
    models.JSONField,
    models.DateField,
    models.TimeField,
    models.UUIDField,
    models.DecimalField,
    models.DurationField,
    models.BinaryField,
)


class BadRow(Exception):
    """The database refused rows; the message names the table."""


def _managed() -> list[Table]:
    found = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    return sorted((m for m in found if not m._meta.proxy), key=lambda model: model._meta.db_table)


def _referred(model: Table) -> set[Table]:
    return {field.related_model for field in model._meta.concrete_fields if field.is_relation}  # type: ignore[misc]


@cache
def _left_out(model: Table) -> bool:
    """Sessions (people sign in again), content types (each database numbers them by itself), what hangs on these; and
    what follows from other rows: triggers note it when those are restored.
    """
    if model is ContentType or issubclass(model, (AbstractBaseSession, Derived)):
        return True
    return any(_left_out(other) for other in _referred(model) if other is not model)


def tables() -> list[Table]:
    """The tables that a backup holds: by rule, so that those of later apps are kept without a word here."""
    return [model for model in _managed() if not _left_out(model)]


def tables_left_out() -> list[Table]:
    return [model for model in _managed() if _left_out(model)]


def columns(model: Table) -> list["models.Field[Any, Any]"]:
    return [field for field in model._meta.local_concrete_fields if not getattr(field, "generated", False)]


def column_names(model: Table) -> list[str]:
    return [str(field.column) for field in columns(model)]


# --- Writing ---


def rows_write(model: Table, path: Path) -> dict[str, Any]:
    """Write the table's rows; their number, and the sha256 of the lines before compression."""
    digest, count = hashlib.sha256(), 0
    fields = columns(model)
    json_at = [index for index, field in enumerate(fields) if isinstance(field, models.JSONField)]
    rows = model._base_manager.order_by("pk").values_list(*[field.attname for field in fields])
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 3, raw, mtime=0) as file:
        for row in rows.iterator(chunk_size=BATCH):
            line = _line(row, json_at)
            digest.update(line)
            file.write(line)
            count += 1
    return {"columns": column_names(model), "rows": count, "sha256": digest.hexdigest()}


def _line(row: tuple[Any, ...], json_at: list[int]) -> bytes:
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), default=_plain)
    if json_at and ("e+" in text or "-0.0" in text):
        values = [_number_alike(value) if index in json_at else value for index, value in enumerate(row)]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_plain)
    return text.encode() + b"\n"


def _number_alike(value: Any) -> Any:
    """PostgreSQL's jsonb gives 1e+22 back as an integer, and -0.0 as 0.0. So do we, whatever the database."""
    if isinstance(value, float):
        if value == 0:
            return 0.0
        return int(value) if abs(value) >= 1e16 and value.is_integer() else value
    if isinstance(value, dict):
        return {key: _number_alike(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_number_alike(each) for each in value]
    return value


def _plain(value: Any) -> str:
    """What JSON has no form for."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, timedelta):
        return duration_string(value)
    raise TypeError(f"a backup has no form for {type(value).__name__}")


# --- Reading ---


def lines_read(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from file


def rows_digest(path: Path) -> tuple[int, str]:
    """Number and sha256 of the lines. Raises OSError or EOFError for a damaged file."""
    digest, count = hashlib.sha256(), 0
    for line in lines_read(path):
        digest.update(line)
        count += 1
    return count, digest.hexdigest()


def rows_load(model: Table, lines: Iterable[bytes]) -> None:
    """Put the lines into the table, inside a transaction whose end checks the references. Raises BadRow."""
    convert = [_converter(field) for field in columns(model)]
    rows = (
        [value if value is None or c is None else c(value) for c, value in zip(convert, row, strict=True)]
        for row in map(json.loads, lines)
    )
    quote = connection.ops.quote_name
    table, names = quote(model._meta.db_table), ", ".join(map(quote, column_names(model)))
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            else:
                places = ", ".join(["%s"] * len(convert))
                statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - names of our models
                for batch in _batches(rows):
                    cursor.executemany(statement, batch)
    except (TypeError, ValueError) as error:
        raise BadRow(f"A row of {model._meta.db_table} cannot be read: {error}.") from error


def _converter(field: "models.Field[Any, Any]") -> Callable[[Any], Any] | None:
    """From the JSON form to what the driver takes; None where they are the same."""
    if isinstance(field, models.ForeignKey):
        return _converter(field.target_field)
    if not isinstance(field, CONVERTED):
        return None
    if isinstance(field, models.DateTimeField):
        return lambda value: field.get_db_prep_save(datetime.fromisoformat(value), connection)
    return lambda value: field.get_db_prep_save(field.to_python(value), connection)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def filled_table() -> str:
    """The name of a table that a restore would write into and that has rows; empty if there is none."""
    return next((m._meta.db_table for m in tables() if m._base_manager.exists()), "")


def tables_empty() -> None:
    """Delete all rows that a restore replaces, sessions, and rows of other tables that point to any of these."""
    gone = {m for m in _managed() if not _left_out(m) or issubclass(m, AbstractBaseSession)}
    for model in _managed():
        if model in gone or _referred(model) & gone:
            model._base_manager.all()._raw_delete(connection.alias)


def sequences_reset() -> None:
    """The next key of each table comes after the largest. SQLite sees to that by itself."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), tables()):
            cursor.execute(statement)
