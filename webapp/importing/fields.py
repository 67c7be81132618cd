"""Reading one field of an imported row: a good value, or a `RowError` that names the field and the remedy."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.duration import duration_iso_string

from webapp.importing.reading import Row, json_kind

MAX_ID = 200
MAX_NAME = 80
MAX_METADATA_BYTES = 64 * 1024
MAX_METADATA_DEPTH = 50
MAX_MESSAGES = 1000
# Letters and signs that are drawn as nothing, beside white space, controls and format characters (zero-width ones).
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


class RowError(Exception):
    """Why a row cannot be taken: the field, what is wrong with it, and the remedy."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message} {remedy}")
        self.field, self.message, self.remedy = field, message, remedy


def is_visible(text: str) -> bool:
    """Whether anything of the text can be seen. The text itself is never changed for that."""
    return any(
        not character.isspace()
        and character not in INVISIBLE
        and not "\ufe00" <= character <= "\ufe0f"
        and unicodedata.category(character) not in ("Cc", "Cf")
        for character in text
    )


def check_text(field: str, value: Any, *, limit: int, empty: bool = False) -> str:
    """The value, if it is a text that both databases can keep: no NUL, no half surrogates, at most `limit` bytes."""
    if not isinstance(value, str):
        raise RowError(field, f"is {json_kind(value)} instead of text.", "Put the text in quotes.")
    if "\x00" in value:
        raise RowError(field, "holds a NUL character.", "Remove \\u0000 from the text.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise RowError(field, "holds bytes that are not valid UTF-8.", "Save the file as UTF-8.") from None
    if size > limit:
        shown = (
            f"{size / 1024:,.0f} KB long, of {limit // 1024:,} KB allowed"
            if limit >= 1024
            else f"longer than {limit} bytes"
        )
        raise RowError(field, f"is {shown}.", "Shorten it.")
    if not empty and not value.strip():
        raise RowError(field, "is empty.", "Give it a text, or leave the row out.")
    if not empty and not is_visible(value):
        raise RowError(field, "has only invisible characters.", "Give it a text, or leave the row out.")
    return value


def text_of(row: Row, field: str) -> str:
    """A text that is judged or asked: required, not empty, at most settings.MAX_TEXT_BYTES."""
    if field not in row:
        raise RowError(field, "is missing.", "Add it.")
    return check_text(field, row[field], limit=settings.MAX_TEXT_BYTES)


def id_of(row: Row, field: str) -> str:
    """An id or a name: text (or a whole number) of at most 200 characters without control characters."""
    value = row.get(field)
    if value is None:
        raise RowError(field, "is missing.", "Add it.")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    checked = check_text(field, value, limit=4 * MAX_ID)
    if len(checked) > MAX_ID:
        raise RowError(field, f"is longer than {MAX_ID} characters.", "Shorten it.")
    if not checked.isprintable():
        raise RowError(field, "holds control characters.", "Use printable characters.")
    return checked


def name_of(row: Row, field: str) -> str:
    """An annotator's name: it becomes part of a username, which is short."""
    name = id_of(row, field)
    if len(name) > MAX_NAME:
        raise RowError(field, f"is longer than {MAX_NAME} characters.", "Shorten the annotator's name.")
    return name


def optional(row: Row, field: str, read: Callable[[Row, str], str]) -> str:
    """`read` of the field, or "" where it is absent, null or empty."""
    return "" if row.get(field) in (None, "") else read(row, field)


def comment_of(row: Row, field: str) -> str:
    value = row.get(field)
    return "" if value is None else check_text(field, value, limit=settings.MAX_TEXT_BYTES, empty=True)


def choice_of(row: Row, field: str, choices: Sequence[str]) -> str:
    value = row.get(field)
    if value is None:
        raise RowError(field, "is missing.", f"Write one of: {', '.join(choices)}.")
    if value not in choices:
        shown = f"“{value[:40]}”" if isinstance(value, str) else json_kind(value)
        raise RowError(field, f"is {shown}.", f"Write one of: {', '.join(choices)}.")
    return value


def short_number(value: float) -> str:
    """A number for a message; `str` refuses whole numbers of more than 4,300 digits."""
    if isinstance(value, int) and value.bit_length() > 120:
        return "a number of more than 36 digits"
    return str(value)[:40]


def number_of(row: Row, field: str, low: float, high: float) -> float | None:
    value = row.get(field)
    if value is None:
        return None
    # The comparison comes first: a whole number may be too large to be a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        shown = (
            json_kind(value)
            if isinstance(value, bool) or not isinstance(value, int | float)
            else short_number(value)
        )
        raise RowError(
            field, f"is {shown}.", f"Write a number from {low:g} to {high:g}, or leave the field out."
        )
    return value


def time_of(row: Row, field: str) -> str:
    """An ISO time in UTC with microseconds, "" where it is absent. A time without a zone is taken as UTC."""
    value = row.get(field)
    if value is None:
        return ""
    remedy = "Write an ISO time such as 2026-01-31T12:00:00Z, or leave the field out."
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise RowError(field, f"is not a time: {str(value)[:40]!r}.", remedy) from None
    if not datetime(1970, 1, 1, tzinfo=UTC) <= moment <= timezone.now() + timedelta(days=1):
        raise RowError(field, f"lies before 1970 or in the future: {str(value)[:40]!r}.", remedy)
    return moment.isoformat(timespec="microseconds")


def metadata_of(row: Row, field: str) -> dict[str, Any]:
    value = row.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RowError(field, f"is {json_kind(value)}.", "Write an object: {…}.")
    kept: dict[str, Any] = json_value(field, value)
    if len(json.dumps(kept, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise RowError(field, f"is longer than {MAX_METADATA_BYTES // 1024} KB.", "Shorten it.")
    return kept


def json_value(field: str, value: Any, depth: int = 0, limit: int = MAX_METADATA_BYTES) -> Any:
    """The value as JSON that PostgreSQL can hold. Times and decimals, which Parquet has, become their exact texts."""
    if depth > MAX_METADATA_DEPTH:
        raise RowError(field, f"is nested more than {MAX_METADATA_DEPTH} deep.", "Flatten it.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {
            check_text(field, key, limit=limit, empty=True): json_value(field, inner, depth + 1, limit)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_value(field, inner, depth + 1, limit) for inner in value]
    if isinstance(value, str):
        return check_text(field, value, limit=limit, empty=True)
    if isinstance(value, int):
        if value.bit_length() > 1024:
            raise RowError(field, f"holds {short_number(value)}.", "Write it as text.")
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise RowError(field, "holds a number that is not finite.", "Remove it.")
        return value if isinstance(value, float) else str(value)
    if isinstance(value, date | time):  # also datetime, and pandas' times with nanoseconds
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.isoformat() if hasattr(value, "isoformat") else duration_iso_string(value)
    raise RowError(field, f"holds {json_kind(value)}.", "Write it as text.")


def short_digest(*parts: str) -> str:
    """16 hexadecimal digits of sha256, for ids made from content."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
