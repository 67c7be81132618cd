"""A look into a Parquet file's footer, for the two faults that make pyarrow end the whole process.

They are a column chunk that is encrypted, and one whose size statistics don't fit its column. pyarrow 26 raises an
error for both where nothing can catch it (`RowGroupMetaData.column`). The footer is written in Thrift's compact
protocol. This module reads the fields in question and skips all others.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MAX_FOOTER_BYTES = 32 * 1024 * 1024
MAX_DEPTH = 60
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = 1, 2, 3, 7, 8, 9, 10, 11, 12, 13


class BadFooterError(Exception):
    """The footer cannot be read, or says what it must not."""


class Leaf(NamedTuple):
    """What the schema says of a column: how often a value repeats or is missing at most, and whether it is bytes."""

    repetitions: int
    definitions: int
    is_bytes: bool


def check(path: Path, leaves: list[Leaf]) -> None:
    """Raise BadFooterError where a column chunk's metadata would end the process."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        end = file.read(8)
        size = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1":
            raise BadFooterError("its end is missing, or it is encrypted")
        if size > min(MAX_FOOTER_BYTES, path.stat().st_size - 8):
            raise BadFooterError(f"its footer has {size:,} bytes")
        file.seek(-8 - size, 2)
        data = file.read(size)
    try:
        _Footer(data, leaves).read()
    except IndexError:
        raise BadFooterError("its footer breaks off") from None


class _Footer:
    def __init__(self, data: bytes, leaves: list[Leaf]) -> None:
        self._data, self._at, self._leaves = data, 0, leaves
        self._leaf = Leaf(0, 0, True)

    def read(self) -> None:
        self._struct({4: lambda: self._each(lambda place: self._struct({1: self._chunks}))})

    def _chunks(self) -> None:
        if self._each(self._chunk) != len(self._leaves):
            raise BadFooterError("a row group has not all columns")

    def _chunk(self, place: int) -> None:
        self._leaf = self._leaves[place]
        if 3 not in self._struct({3: lambda: self._struct({16: self._statistics}), 8: self._encrypted}):
            raise BadFooterError("a column has no description")

    def _encrypted(self) -> None:
        raise BadFooterError("a column is encrypted")

    def _statistics(self) -> None:
        self._struct(
            {
                1: self._unencoded,
                2: lambda: self._histogram(self._leaf.repetitions),
                3: lambda: self._histogram(self._leaf.definitions),
            }
        )

    def _unencoded(self) -> None:
        self._number()
        if not self._leaf.is_bytes:
            raise BadFooterError("a column's size statistics are of another type")

    def _histogram(self, most: int) -> None:
        if self._each(lambda place: self._number()) not in (0, most + 1):
            raise BadFooterError("a column's size statistics have another depth")

    # --- The protocol ---

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise BadFooterError("its footer holds a broken number")

    def _fields(self) -> Iterator[tuple[int, int]]:
        """(number, type_code) of each field of a struct; its value has to be read before the next."""
        number = 0
        while header := self._byte():
            step = header >> 4
            if step:
                number += step
            else:
                coded = self._number()
                number = (coded >> 1) ^ -(coded & 1)
            yield number, header & 0x0F

    def _struct(self, wanted: dict[int, Callable[[], object]]) -> set[int]:
        """Read a struct: the wanted fields by their readers, which expect Parquet's types; others are skipped."""
        seen = set()
        for number, type_code in self._fields():
            seen.add(number)
            if number in wanted and type_code in (_STRUCT, _LIST, 5, 6):
                wanted[number]()
            else:
                self._skip(type_code, 0)
        return seen

    def _each(self, read: Callable[[int], object]) -> int:
        """Read a list's elements; how many there are."""
        count, _ = self._list_header()
        for place in range(count):
            read(place)
        return count

    def _list_header(self) -> tuple[int, int]:
        header = self._byte()
        count = header >> 4
        return (self._number() if count == 15 else count), header & 0x0F

    def _skip(self, type_code: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BadFooterError("its footer is nested too deeply")
        if type_code in (_TRUE, _FALSE):
            return
        if type_code in (_BYTE, _DOUBLE, _UUID, _BINARY):
            size = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}.get(type_code) or self._number()
            self._at += size
        elif type_code in (_LIST, _SET):
            count, inner = self._list_header()
            self._skip_many(inner, count, depth)
        elif type_code == _MAP:
            if count := self._number():
                codes = self._byte()
                for _ in range(count):
                    self._skip_many(codes >> 4, 1, depth)
                    self._skip_many(codes & 0x0F, 1, depth)
        elif type_code == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif type_code in (4, 5, 6):
            self._number()
        else:
            raise BadFooterError("its footer holds an unknown kind of value")
        if self._at > len(self._data):
            raise BadFooterError("its footer breaks off")

    def _skip_many(self, type_code: int, count: int, depth: int) -> None:
        if type_code in (_TRUE, _FALSE):  # inside lists and maps a byte each
            self._at += count
            return
        for _ in range(count):
            self._skip(type_code, depth + 1)
