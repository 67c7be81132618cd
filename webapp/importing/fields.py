"""Reading one field of an imported row: a good value, or a `RowError` that names the field and the remedy."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils.duration import duration_iso_string

from webapp.importing.cells import parsed_cell
from webapp.importing.sources import Row, Unreadable, json_type

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
    return "!" <= text[:1] <= "~" or any(
        not character.isspace()
        and character not in INVISIBLE
        and not "\ufe00" <= character <= "\ufe0f"
        and unicodedata.category(character) not in ("Cc", "Cf")
        for character in text
    )


def is_given(value: Any) -> bool:
    """Whether a value says anything: null, NaN, white space alone, and an empty list or object don't."""
    # called for every cell of a file, so the commonest kinds come first
    if value is None:
        return False
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, (float, Decimal)):
        return value == value
    return value != [] and value != {}


def _is_present(value: Any) -> bool:
    """Whether a field has a value, if only of white space: a comment of a space is kept, an id of one is refused."""
    return value is not None and value != "" and not (isinstance(value, (float, Decimal)) and value != value)


def refuse_unreadable(field: str, value: Any) -> None:
    if isinstance(value, Unreadable):
        raise RowError(field, f"is {value.what}.", value.remedy)


def check_text(field: str, value: Any, *, limit: int, empty: bool = False) -> str:
    """The value, if it is a text that both databases can keep: no NUL, no half surrogates, at most `limit` bytes."""
    # Most texts are plain; every field of every row comes through here.
    plain = type(value) is str and value.isascii() and len(value) <= limit and "\x00" not in value
    if plain and "!" <= value[:1] <= "~":
        return value
    refuse_unreadable(field, value)
    if not _is_present(value) and value != "":
        raise RowError(field, "is empty (null).", "Give it a text, or leave the row out.")
    if not isinstance(value, str):
        raise RowError(field, f"is {json_type(value)} instead of text.", "Put the text in quotes.")
    if "\x00" in value:
        raise RowError(field, "holds a NUL character.", "Remove \\u0000 from the text.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        half, place = ord(value[error.start]), error.start + 1
        raise RowError(
            field,
            f"holds half of a surrogate pair, \\u{half:04x}, at character {place}.",
            "Write the whole character (both halves), or remove the half.",
        ) from None
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


# Zero-width joiners, which some scripts need between letters. All other format characters are refused in names.
JOINERS = "\u200c\u200d"


def _control_character(text: str) -> tuple[int, str] | None:
    """The place and code of the first character that no name has: controls, formats, line and paragraph ends."""
    if text.isprintable():
        return None
    for place, character in enumerate(text, start=1):
        if character not in JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return place, f"U+{ord(character):04X}"
    return None


def id_of(row: Row, field: str) -> str:
    """An id or a name: text (or a whole number) of at most 200 characters without control characters."""
    value = row.get(field)
    if (
        type(value) is str
        and value.isascii()
        and value.isprintable()
        and len(value) <= MAX_ID
        and value[:1] > " "
    ):
        return value
    if not _is_present(value):
        raise RowError(field, "is missing.", "Add it.")
    # pandas turns a column of whole numbers into 1.0, 2.0 when one is missing.
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**MAX_ID:
            raise RowError(field, f"is longer than {MAX_ID} characters.", "Shorten it.")
        value = str(value)
    elif isinstance(value, UUID):
        value = str(value)
    checked = check_text(field, value, limit=4 * MAX_ID)
    if len(checked) > MAX_ID:
        raise RowError(field, f"is longer than {MAX_ID} characters.", "Shorten it.")
    if control := _control_character(checked):
        raise RowError(
            field,
            f"holds control characters: {control[1]} at character {control[0]}.",
            "Use printable characters.",
        )
    return checked


def name_of(row: Row, field: str) -> str:
    """An annotator's name: it becomes part of a username, which is short."""
    name = id_of(row, field)
    if len(name) > MAX_NAME:
        raise RowError(field, f"is longer than {MAX_NAME} characters.", "Shorten the annotator's name.")
    return name


def optional(row: Row, field: str, read: Callable[[Row, str], str]) -> str:
    """`read` of the field, or "" where it is absent or not given."""
    return read(row, field) if _is_present(row.get(field)) else ""


def comment_of(row: Row, field: str) -> str:
    value = row.get(field)
    return check_text(field, value, limit=settings.MAX_TEXT_BYTES, empty=True) if _is_present(value) else ""


def choice_of(row: Row, field: str, choices: Sequence[str]) -> str:
    value = row.get(field)
    if type(value) is str and value in choices:
        return value
    if not _is_present(value):
        raise RowError(field, "is missing.", f"Write one of: {', '.join(choices)}.")
    if value not in choices:
        shown = f"“{value[:40]}”" if isinstance(value, str) else json_type(value)
        raise RowError(field, f"is {shown}.", f"Write one of: {', '.join(choices)}.")
    return str(value)


def short_number(value: float) -> str:
    """A number for a message; `str` refuses whole numbers of more than 4,300 digits."""
    if isinstance(value, int) and value.bit_length() > 120:
        return "a number of more than 36 digits"
    return str(value)[:40]


# What pandas, R and spreadsheets write for a number that isn't there.
_NO_NUMBER = frozenset(("", "nan", "na", "n/a", "<na>", "null", "none", "nat", "#n/a"))
_NUMBER = re.compile(
    r"[+-]?(\d+)(?:([.,])(\d*))?(?:[eE][+-]?\d{1,4})?|[+-]?[.,]\d+(?:[eE][+-]?\d{1,4})?", re.ASCII
)
MAX_NUMBER_LENGTH = 400
ANY_NUMBER = 1e300
"""A bound for numbers that need none; whatever is larger is no rating of anybody's."""
_TRUE = frozenset(("true", "yes", "1", "1.0"))
_FALSE = frozenset(("false", "no", "0", "0.0"))


def _is_no_number(value: Any) -> bool:
    return not _is_present(value) or (isinstance(value, str) and value.strip().lower() in _NO_NUMBER)


def number_from(field: str, value: Any, low: float, high: float) -> float | None:
    """The number, also where it is written as text, as in CSV; None where it is not given.

    A comma is read as the decimal one, unless it may as well part thousands.
    """
    if type(value) in (int, float) and low <= value <= high:
        return value
    refuse_unreadable(field, value)
    if _is_no_number(value):
        return None
    bounds = f" from {low:g} to {high:g}" if high < ANY_NUMBER else ""
    remedy = f"Write a number{bounds}, or leave the field out."
    number: float | None = None
    if isinstance(value, str):
        text = value.strip()
        match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_LENGTH else None
        if match and match[2] == "," and len(match[3]) == 3 and len(match[1]) <= 3 and match[1].strip("0"):
            plain = text.replace(",", "")
            raise RowError(
                field,
                f"is “{text}”, which may be {plain} or {text.replace(',', '.')}.",
                "Write the one you mean.",
            )
        if match:
            number = int(text) if text.lstrip("+-").isdecimal() else float(text.replace(",", "."))
        shown = f"“{value[:40]}”"
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        shown = json_type(value)
    else:
        number = float(value) if isinstance(value, Decimal) else value
        shown = short_number(number)
    # The comparison comes before all else: a whole number may be too large to be a float.
    if number is None or not low <= number <= high:
        raise RowError(field, f"is {shown}.", remedy)
    return number


def number_of(row: Row, field: str, low: float, high: float) -> float | None:
    return number_from(field, row.get(field), low, high)


def integer_of(row: Row, field: str, low: int, high: int) -> int | None:
    """A whole number, also as “1” or “1.0”; None where it is not given."""
    number = number_of(row, field, low, high)
    if number is not None and number != int(number):
        raise RowError(field, f"is {number:g}.", f"Write a whole number from {low} to {high}.")
    return None if number is None else int(number)


def boolean_of(row: Row, field: str) -> bool | None:
    """True or false, also as 1 and 0, yes and no, and as text; None where it is not given."""
    value = row.get(field)
    if value is None or value is True or value is False:
        return value
    refuse_unreadable(field, value)
    if _is_no_number(value):
        return None
    if isinstance(value, int | float | Decimal) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    shown = f"“{value[:40]}”" if isinstance(value, str) else json_type(value)
    raise RowError(field, f"is {shown}.", "Write true or false.")


EPOCH, DAY = datetime(1970, 1, 1, tzinfo=UTC), timedelta(days=1)


def time_of(row: Row, field: str) -> str:
    """An ISO time in UTC with microseconds, "" where it is absent. A time without a zone is taken as UTC."""
    value: Any = row.get(field)
    if value is None:
        return ""
    refuse_unreadable(field, value)
    if _is_no_number(value):
        return ""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = value.isoformat()
    remedy = "Write an ISO time such as 2026-01-31T12:00:00Z, or leave the field out."
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise RowError(field, f"is not a time: {str(value)[:40]!r}.", remedy) from None
    if not EPOCH <= moment <= datetime.now(UTC) + DAY:
        raise RowError(field, f"lies before 1970 or in the future: {str(value)[:40]!r}.", remedy)
    return moment.isoformat(timespec="microseconds")


def metadata_of(row: Row, field: str) -> dict[str, Any]:
    value = parsed_cell(row.get(field))
    refuse_unreadable(field, value)
    if not _is_present(value):
        return {}
    if not isinstance(value, dict):
        raise RowError(field, f"is {json_type(value)}.", "Write an object: {…}.")
    kept: dict[str, Any] = json_value(field, value)
    if len(json.dumps(kept, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise RowError(field, f"is longer than {MAX_METADATA_BYTES // 1024} KB.", "Shorten it.")
    return kept


def json_value(field: str, value: Any, depth: int = 0, limit: int = MAX_METADATA_BYTES) -> Any:
    """The value as JSON that PostgreSQL can hold. Times and decimals, which Parquet has, become their exact texts.

    NaN is “not given”, so it becomes null.
    """
    refuse_unreadable(field, value)
    if depth > MAX_METADATA_DEPTH:
        raise RowError(field, f"is nested more than {MAX_METADATA_DEPTH} deep.", "Flatten it.")
    if isinstance(value, bool):
        return value
    if value is None or (isinstance(value, float | Decimal) and value != value):
        return None
    if isinstance(value, dict):
        return {
            check_text(field, str(key) if type(key) is int else key, limit=limit, empty=True): json_value(
                field, inner, depth + 1, limit
            )
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
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, timedelta):
        return value.isoformat() if hasattr(value, "isoformat") else duration_iso_string(value)
    raise RowError(field, f"holds {json_type(value)}.", "Write it as text.")


def short_digest(*parts: str) -> str:
    """16 hexadecimal digits of sha256, for ids made from content."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:16]
