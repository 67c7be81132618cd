"""A row that knows what was read of it, so that what an import leaves unused can be counted exactly."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from webapp.importing.fields import ANY_NUMBER, RowError, is_given, number_of
from webapp.importing.reading import Row, json_type


class ReadRow(dict[str, Any]):
    """A row, or an object in one, that notes which of its fields were read.

    `note` counts what was changed or passed over on the way, in words for people. `table` says that the file has only
    texts (CSV), where lists of messages stand as text.
    """

    __slots__ = ("beside", "children", "notes", "path", "read", "source", "table")

    def __init__(self, values: Row, *, source: str = "", table: bool = False, path: str = "") -> None:
        super().__init__(values)
        self.source, self.table, self.path = source, table, path
        self.read: set[str] = set()
        self.beside: set[str] = set()
        self.notes: set[str] = set()
        self.children: dict[str, ReadRow] = {}

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def child(self, key: str) -> "ReadRow":
        """The object in a field, read in its turn."""
        value = self.get(key)
        if key not in self:
            raise RowError(self.path + key, "is missing.", "Write an object: {…}.")
        if not isinstance(value, dict):
            raise RowError(self.path + key, f"is {json_type(value)}.", "Write an object: {…}.")
        if key not in self.children:
            self.children[key] = ReadRow(
                value, source=self.source, table=self.table, path=f"{self.path}{key}."
            )
        return self.children[key]

    def unused(self) -> set[str]:
        """Fields that say something and that nobody read."""
        if self.keys() <= self.read and not self.children:
            return self.beside
        found = {key for key, value in self.items() if key not in self.read and is_given(value)}
        for child in self.children.values():
            found |= {f"{child.path}{key}" for key in child.unused()}
        return found | self.beside

    def all_notes(self) -> set[str]:
        if not self.children:
            return self.notes
        return self.notes.union(*(child.all_notes() for child in self.children.values()))


def reading(row: Row) -> ReadRow:
    return row if isinstance(row, ReadRow) else ReadRow(row)


@dataclass
class Tally:
    """Of the rows that were taken: fields not used, and what was done to some on the way, each with its rows."""

    unused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, row: ReadRow) -> None:
        if unused := row.unused():
            self.unused.update(name[:100] for name in unused)
        if notes := row.all_notes():
            self.notes.update(notes)


def number_in(row: Row, name: str, low: float = -ANY_NUMBER, high: float = ANY_NUMBER) -> float | None:
    """A number, also one that a table holds as text; None where it isn't given."""
    return number_of(row, name, low, high)


def shown(number: float) -> str:
    """A number for a comment, exactly."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)
