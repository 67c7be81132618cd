"""Writing batches of columns of a fixed schema as Parquet, JSONL or CSV.

The schema is explicit: a first batch in which a column is empty must not decide its type. A column is a sequence of
values, or `Repeated` where few values come often (the texts of responses that were judged many times): those are
encoded once. Times are ISO texts, messages are dicts.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as quote
from pathlib import Path
from typing import Any, BinaryIO, Self

from webapp.snapshots.columns import TEXT, TIME, Schema

# What a spreadsheet would take for a formula (OWASP, CSV injection); a quote in front makes it text.
_FORMULA = "=+-@"
_CONTROL = ("\t", "\r", "\n")
# `datasets` reads JSONL with pyarrow, which makes times of a column of such texts.
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?\s?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A column whose row i is `values[places[i]]`."""

    values: Sequence[Any]
    places: Sequence[int]


Column = Sequence[Any] | Repeated
Batch = dict[str, Column]


def repeated(column: Sequence[Any]) -> Repeated:
    """A column of values of which there are few."""
    places: dict[Any, int] = {}
    at = [places.setdefault(value, len(places)) for value in column]
    return Repeated(list(places), at)


def rows_of(batch: Batch) -> int:
    column = next(iter(batch.values()))
    return len(column.places if isinstance(column, Repeated) else column)


def spread(column: Column, change: Callable[[Any], Any] | None = None) -> Sequence[Any]:
    """The column's values row by row, each changed once."""
    if isinstance(column, Repeated):
        values = column.values if change is None else [change(value) for value in column.values]
        return [values[place] for place in column.places]
    return column if change is None else [change(value) for value in column]


def is_json(dtype: Any) -> bool:
    import pyarrow as pa

    return isinstance(dtype, pa.JsonType)


def arrow(column: Column, dtype: Any) -> Any:
    """The column as an Arrow array; times are read from ISO texts."""
    import pyarrow as pa

    if is_json(dtype) or (pa.types.is_list(dtype) and is_json(dtype.value_type)):
        return _arrow_json(column, dtype).cast(dtype)
    if isinstance(column, Repeated):
        return arrow(column.values, dtype).take(pa.array(column.places, pa.int32()))
    if pa.types.is_timestamp(dtype):
        return pa.array(column, pa.string()).cast(dtype)
    return pa.array(column, dtype)


def _arrow_json(column: Column, dtype: Any) -> Any:
    """JSON, or lists of JSON, as the texts that they are stored as."""
    import pyarrow as pa

    if isinstance(column, Repeated):
        return _arrow_json(column.values, dtype).take(pa.array(column.places, pa.int32()))
    if is_json(dtype):
        return pa.array([_json(value) for value in column], pa.string())
    texts = [None if value is None else [_json(one) for one in value] for value in column]
    return pa.array(texts, pa.list_(pa.string()))


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


class Sink:
    """A data file that batches are added to."""

    # Columns of texts that a reader of the file would take for times.
    like_times: set[str]

    def __init__(self, schema: Any) -> None:
        self.schema, self.rows, self.like_times = schema, 0, set()

    def write(self, batch: Any) -> None:
        if rows := rows_of(batch):
            self.rows += rows
            self.add(batch)

    def add(self, batch: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ParquetSink(Sink):
    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as pq

        super().__init__(schema)
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, batch: Batch) -> None:
        import pyarrow as pa

        arrays = [arrow(batch[field.name], field.type) for field in self.schema]
        self.writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        self.writer.close()


class JsonlSink(Sink):
    def __init__(self, file: BinaryIO, schema: Schema) -> None:
        super().__init__(schema)
        self._times: set[tuple[str, str]] = set()
        self._texts: set[tuple[str, str]] = set()
        self.file = file
        self.line = "{" + ", ".join(f"{quote(field.name)}: %s" for field in schema) + "}\n"

    def add(self, batch: Batch) -> None:
        columns = [self._encoded(field, batch[field.name]) for field in self.schema]
        self.file.write("".join([self.line % values for values in zip(*columns, strict=True)]).encode())

    def _encoded(self, field: Any, column: Column) -> Sequence[str]:
        if isinstance(column, Repeated):
            texts = self._encoded(field, column.values)
            return [texts[place] for place in column.places]
        if field.type == TEXT:
            self._look(field.name, column)
            return ["null" if value is None else quote(value) for value in column]
        if field.type == TIME:
            return [f'"{value}"' if value else "null" for value in column]
        if field.type.is_nested:
            for value in column:
                for key, text in _contents(value):
                    self._look(field.name, (text,), key)
            return [json.dumps(value, ensure_ascii=False) for value in column]
        return [_number(value) for value in column]

    def _look(self, name: str, texts: Sequence[str | None], key: str = "") -> None:
        """Note whether all texts of a column (of one key of its messages) look like times."""
        if (name, key) not in self._texts:
            given = [text for text in texts if text is not None]
            if not all(map(_TIME.fullmatch, given)):
                self._texts.add((name, key))
            elif given:
                self._times.add((name, key))

    def close(self) -> None:
        self.like_times = {name for name, _ in self._times - self._texts}
        self.file.close()


def _number(value: float | None) -> str:
    """A number or a flag."""
    if value is None:
        return "null"
    return ("true" if value else "false") if isinstance(value, bool) else repr(value)


def _contents(value: Any) -> Iterator[tuple[str, str]]:
    """The texts of a list of messages or of completions, with their keys."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield from ((key, text) for key, text in item.items() if isinstance(text, str))


class LinesSink(Sink):
    """JSONL whose lines are of several kinds: a batch is a list of encoded lines."""

    def __init__(self, file: BinaryIO, schema: None) -> None:
        super().__init__(schema)
        self.file = file

    def write(self, batch: list[str]) -> None:
        self.rows += len(batch)
        self.file.write("".join(batch).encode())

    def close(self) -> None:
        self.file.close()


class CsvSink(Sink):
    def __init__(self, file: BinaryIO, schema: Schema, *, safe: bool = False) -> None:
        super().__init__(schema)
        self.file = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self.writer = csv.writer(self.file)
        self.writer.writerow(schema.names)
        self.cell = safe_cell if safe else csv_cell

    def add(self, batch: Batch) -> None:
        columns = [spread(batch[name], self.cell) for name in self.schema.names]
        self.writer.writerows(zip(*columns, strict=True))

    def close(self) -> None:
        self.file.close()


def sink(path: Path, schema: Schema | None, *, safe: bool = False) -> Sink:
    """The sink of the path's suffix; without a schema the lines are of several kinds."""
    if schema is not None and path.suffix == ".parquet":
        return ParquetSink(path, schema.arrow())
    return text_sink(path.open("wb"), schema, is_csv=path.suffix == ".csv", safe=safe)


def text_sink(file: BinaryIO, schema: Schema | None, *, is_csv: bool, safe: bool = False) -> Sink:
    """The same for JSONL and CSV, into an open file. It needs no pyarrow."""
    if schema is None:
        return LinesSink(file, schema)
    return CsvSink(file, schema, safe=safe) if is_csv else JsonlSink(file, schema)


def csv_cell(value: Any) -> Any:
    """A cell: texts as they are, nested values as JSON, nothing for what is absent."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return ("true" if value else "false") if isinstance(value, bool) else value


def safe_cell(value: Any) -> Any:
    """The same with an apostrophe before a text that a spreadsheet would run."""
    value = csv_cell(value)
    # A text that has such a quote already gets one more, so that taking one away gives back every text.
    if isinstance(value, str) and _runs(value.lstrip("'")):
        return "'" + value
    return value


def _runs(text: str) -> bool:
    """Whether a spreadsheet may run it: also behind blanks and invisible characters, and with full-width signs."""
    if text.startswith(_CONTROL):
        return True
    # Z: blanks; Cc and Cf: control and format characters (byte order mark, zero-width space).
    seen = (c for c in text if not unicodedata.category(c).startswith(("Z", "Cc", "Cf")))
    # NFKC makes plain signs of full-width, small and raised ones.
    return unicodedata.normalize("NFKC", next(seen, " ")) in _FORMULA
