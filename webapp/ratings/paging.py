"""Pages of a long list: by number as far as the hundredth, and from there on by the row that a page begins with.

The database finds the row at number 1,000,000 by counting that far; it finds a row by what the list is sorted by at
once. Counting ends where the numbers end, too.
"""

import math
from dataclasses import dataclass
from typing import Any

from django.db.models import F, OrderBy, Q, QuerySet

from webapp.ratings.tallies import Freshness

PER_PAGE = 20
NUMBERED = 100
MOST = PER_PAGE * NUMBERED


@dataclass(frozen=True)
class Count:
    """How many rows a list has; where it has `more`, `number` is as far as they were counted."""

    number: int
    more: bool = False


@dataclass(frozen=True)
class Ordered:
    """The rows of a list and its order, which ends with the key. A column that may be null has nulls last.

    fresh: how new that is which they are narrowed and sorted by.
    """

    rows: QuerySet[Any]
    order: list[OrderBy]
    fresh: Freshness

    @property
    def keys(self) -> QuerySet[Any]:
        return self.rows.order_by(*self.order, "pk").values_list("pk", flat=True)

    def count(self) -> Count:
        found = self.rows.order_by()[: MOST + 1].count()
        return Count(min(found, MOST), found > MOST)

    def around(self, pk: int) -> tuple[QuerySet[Any], QuerySet[Any]] | None:
        """Keys of the rows before one, the nearest first, and of the row itself with those after it. One query.

        None where the list hasn't got it.
        """
        order = [*self.order, F("pk").asc()]
        values = self.rows.filter(pk=pk).values_list(*(each.expression for each in order)).first()
        if values is None:
            return None
        names = [f"key_{number}" for number in range(len(order))]
        rows = self.rows.alias(**dict(zip(names, (each.expression for each in order), strict=True)))

        def beyond(index: int, after: bool) -> Q:
            """The rows after the one (itself too), or before it, among those equal in the first `index` columns."""
            if index == len(order):
                return Q(pk=pk) if after else Q(pk__in=[])
            name, value, each = names[index], values[index], order[index]
            rest = beyond(index + 1, after)
            if value is None:
                same = Q(**{f"{name}__isnull": True}) & rest
                return same if after else same | Q(**{f"{name}__isnull": False})
            apart = Q(**{f"{name}__gt" if each.descending != after else f"{name}__lt": value})
            if each.nulls_last and after:
                apart |= Q(**{f"{name}__isnull": True})
            return apart | Q(**{name: value}) & rest

        before = rows.filter(beyond(0, False)).order_by(*(_turned(each) for each in order))
        following = rows.filter(beyond(0, True)).order_by(*order)
        return before.values_list("pk", flat=True), following.values_list("pk", flat=True)


def _turned(each: OrderBy) -> OrderBy:
    nulls = {"nulls_first": True} if each.nulls_last else {}
    return OrderBy(each.expression, descending=not each.descending, **nulls)


@dataclass(frozen=True)
class Link:
    """What the address of another page says: its number, or the key that it begins with."""

    page: int | None = None
    at: int | None = None


@dataclass
class ListPage:
    """A page, at first of keys; `number` is None beyond the numbered pages, and `pages` where nobody counted them."""

    object_list: list[Any]
    count: Count
    number: int | None
    pages: int | None
    previous: Link | None
    next: Link | None
    fresh: Freshness

    @property
    def start(self) -> int | None:
        """The number of its first row."""
        return None if self.number is None else (self.number - 1) * PER_PAGE + 1


def page_of(ordered: Ordered, *, number: int, at: int | None, total: int | None) -> ListPage:
    """The page that begins with the row `at`, else the one of that number, or the nearest.

    total: how many rows there are, where somebody knows that better than by counting them.
    """
    count = ordered.count() if total is None else Count(total)
    if at is not None and (found := ordered.around(at)) is not None:
        before, keys = list(found[0][:PER_PAGE]), list(found[1][: PER_PAGE + 1])
        following = Link(at=keys[PER_PAGE]) if len(keys) > PER_PAGE else None
        previous = Link(at=before[-1]) if before else None
        return ListPage(keys[:PER_PAGE], count, None, None, previous, following, ordered.fresh)
    pages = max(1, math.ceil(count.number / PER_PAGE))
    number = min(number, pages, NUMBERED)
    start = (number - 1) * PER_PAGE
    keys = list(ordered.keys[start : start + PER_PAGE + 1])
    following = None
    if len(keys) > PER_PAGE:
        following = Link(page=number + 1) if number < NUMBERED else Link(at=keys[PER_PAGE])
    return ListPage(
        keys[:PER_PAGE],
        count,
        number,
        None if count.more else pages,
        Link(page=number - 1) if number > 1 else None,
        following,
        ordered.fresh,
    )


@dataclass(frozen=True)
class Place:
    """Where one row stands in the list that it was opened from, and its neighbours' keys; no number beyond MOST."""

    pk: int
    number: int | None
    total: Count
    previous: int | None
    next: int | None

    @property
    def link(self) -> Link:
        """The page of the list that shows it."""
        if self.number is None:
            return Link(at=self.pk)
        return Link(page=(self.number - 1) // PER_PAGE + 1)


def place_in(ordered: Ordered, pk: int) -> Place | None:
    """The place of a row in a list; None if the list hasn't got it. Five queries, over keys alone."""
    if (found := ordered.around(pk)) is None:
        return None
    before, following = found
    ahead = before.order_by()[:MOST].count()
    neighbours = list(following[:2])
    return Place(
        pk=pk,
        number=ahead + 1 if ahead < MOST else None,
        total=ordered.count(),
        previous=before.first(),
        next=neighbours[1] if len(neighbours) > 1 else None,
    )
