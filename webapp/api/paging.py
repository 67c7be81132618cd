"""Lists in pages: `?limit=` and `?cursor=`, whatever is added meanwhile. No count, no offset."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from django.db.models import Model, QuerySet
from ninja import Query, Schema

from webapp.api.problems import Problem

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Model)

Limit = Annotated[int, Query(ge=1, le=200, description="How many items a page has at most.")]
Cursor = Annotated[
    str | None, Query(max_length=100, description="`next` of the page before; nothing for the first page.")
]
LIMIT = 50


class Page(Schema, Generic[Item]):
    """Some items, and the cursor of the page behind them: null on the last one."""

    items: list[Item]
    next: str | None = None


def paged(
    rows: "QuerySet[Row]",
    cursor: str | None,
    limit: int,
    *,
    oldest_first: bool = False,
    shown: Callable[[list[Row]], list[Any]] | None = None,
) -> dict[str, Any]:
    """One page of rows by primary key, newest first unless told otherwise. One query, and those of `shown`.

    `shown` makes the items of the rows of this page, where the rows themselves are not what is answered.
    Raises Problem 400 for a cursor that no page of ours has given.
    """
    order, beyond = ("pk", "pk__gt") if oldest_first else ("-pk", "pk__lt")
    if cursor is not None:
        rows = rows.filter(**{beyond: _key_of(cursor)})
    found = list(rows.order_by(order)[: limit + 1])
    page = found[:limit]
    return {
        "items": shown(page) if shown else page,
        "next": _cursor_of(page[-1].pk) if len(found) > limit else None,
    }


def _cursor_of(key: int) -> str:
    return urlsafe_b64encode(f"after {key}".encode()).decode().rstrip("=")


def _key_of(cursor: str) -> int:
    try:
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        text = ""
    if found := re.fullmatch(r"after ([0-9]{1,18})", text):
        return int(found[1])
    raise Problem(
        400,
        "Unknown cursor",
        "The cursor is none that a page of this list has given. Begin again without one.",
        errors=[
            {
                "field": "cursor",
                "message": "No page has given this cursor.",
                "remedy": "Send `next` of the page before, or no cursor.",
            }
        ],
    )
