"""The types of an export's columns, told without pyarrow: the web process writes JSONL and CSV, and has none.

Of a `Schema` a worker makes the Arrow schema of a Parquet file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Kind:
    """A type by its Arrow name; a list has the type of what it holds, a struct its fields."""

    name: str
    holds: "Kind | None" = None
    fields: "tuple[Field, ...]" = ()

    @property
    def is_nested(self) -> bool:
        return self.name in ("list", "struct", "json")

    def arrow(self) -> Any:
        """The Arrow type. For workers: it needs pyarrow."""
        import pyarrow as pa

        if self.holds is not None:
            return pa.list_(self.holds.arrow())
        if self.fields:
            return pa.struct([(field.name, field.type.arrow()) for field in self.fields])
        return {"json": pa.json_, "time": lambda: pa.timestamp("us", tz="UTC")}.get(
            self.name, lambda: pa.type_for_alias(self.name)
        )()


class Field(NamedTuple):
    """A column, or a field of a struct."""

    name: str
    type: Kind


TEXT, INT8, INT32, NUMBER = Kind("string"), Kind("int8"), Kind("int32"), Kind("double")
FLAG, TIME, JSON = Kind("bool"), Kind("time"), Kind("json")


def list_of(kind: Kind) -> Kind:
    return Kind("list", holds=kind)


def struct_of(**fields: Kind) -> Kind:
    return Kind("struct", fields=tuple(Field(name, kind) for name, kind in fields.items()))


class Schema:
    """The columns of a data file in their order."""

    def __init__(self, columns: Iterable[tuple[str, Kind]]) -> None:
        self.fields = [Field(name, kind) for name, kind in columns]
        self.names = [field.name for field in self.fields]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def arrow(self) -> Any:
        """The Arrow schema. For workers: it needs pyarrow."""
        import pyarrow as pa

        return pa.schema([(field.name, field.type.arrow()) for field in self.fields])
