"""Reading one field of an imported row: a good value, or a `RowError` that names the field and the remedy."""

import hashlib
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from webapp.corpus.reading import Row, json_kind

MAX_ID = 200
MAX_NAME = 80
MAX_METADATA_BYTES = 64 * 1024
ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]


class RowError(Exception):
    """Why a row cannot be taken: the field, what is wrong with it, and the remedy."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message} {remedy}")
        self.field, self.message, self.remedy = field, message, remedy


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


def messages_of(field: str, value: Any) -> list[Message]:
    """A conversation: a list of {role, content}, of which only role and content are kept."""
    if not isinstance(value, list) or not value:
        raise RowError(
            field,
            f"is {json_kind(value) if value else 'empty'}.",
            "Write a list of {role, content} messages.",
        )
    messages = []
    for place, message in enumerate(value, start=1):
        name = f"{field}[{place}]"
        if not isinstance(message, dict):
            raise RowError(name, f"is {json_kind(message)}.", "Write {role, content}.")
        role = choice_of(message, "role", ROLES) if message.get("role") in ROLES else None
        if role is None:
            raise RowError(
                f"{name}.role", f"is {str(message.get('role'))[:40]!r}.", f"Write one of: {', '.join(ROLES)}."
            )
        content = check_text(
            f"{name}.content", message.get("content"), limit=settings.MAX_TEXT_BYTES, empty=True
        )
        messages.append({"role": role, "content": content})
    if not any(message["content"].strip() for message in messages):
        raise RowError(field, "has no text in any message.", "Give the prompt a text.")
    if sum(len(message["content"].encode()) for message in messages) > settings.MAX_TEXT_BYTES:
        raise RowError(field, f"is longer than {settings.MAX_TEXT_BYTES // 1024} KB in all.", "Shorten it.")
    return messages


def number_of(row: Row, field: str, low: float, high: float) -> float | None:
    value = row.get(field)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        shown = (
            json_kind(value)
            if isinstance(value, bool) or not isinstance(value, int | float)
            else str(value)[:40]
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
    _check_values(field, value)
    if len(str(value)) > MAX_METADATA_BYTES:
        raise RowError(field, f"is longer than {MAX_METADATA_BYTES // 1024} KB.", "Shorten it.")
    return value


def _check_values(field: str, value: Any) -> None:
    """Refuse what PostgreSQL's JSON cannot hold, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_text(field, key, limit=MAX_METADATA_BYTES, empty=True)
            _check_values(field, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(field, inner)
    elif isinstance(value, str):
        check_text(field, value, limit=MAX_METADATA_BYTES, empty=True)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RowError(field, "holds a number that is not finite.", "Remove it.")


def short_digest(*parts: str) -> str:
    """16 hexadecimal digits of sha256, for ids made from content."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
