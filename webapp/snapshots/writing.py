"""Writing rows of a fixed Arrow schema, in batches, as Parquet, JSONL or CSV.

The schema is explicit: a first batch in which a column is empty must not decide its type.
"""

import csv
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from webapp.snapshots.reading import iso

BATCH = 1000
# What a spreadsheet would take for a formula (OWASP, CSV injection); a quote in front makes it text.
_FORMULA = "=+-@"
_CONTROL = ("\t", "\r", "\n")

Row = dict[str, Any]
Counted = Callable[[int], None]


def write_rows(path: Path, schema: Any, rows: Iterable[Row], counted: Counted = lambda count: None) -> int:
    """Write the rows in the way the file's suffix says; returns how many. `counted` is told after every batch."""
    writers = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv}
    count = 0

    def batches() -> Iterator[list[Row]]:
        nonlocal count
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH:
                count += len(batch)
                yield batch
                batch = []
                counted(count)
        if batch:  # an empty row group would be more than `datasets` can load
            count += len(batch)
            yield batch

    writers[path.suffix](path, schema, batches())
    return count


def _write_parquet(path: Path, schema: Any, batches: Iterable[list[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def _write_jsonl(path: Path, schema: Any, batches: Iterable[list[Row]]) -> None:
    names = schema.names if schema is not None else None
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            for row in batch:
                ordered = {name: row[name] for name in names} if names else row
                file.write(json.dumps(ordered, ensure_ascii=False, default=_time) + "\n")


def _time(value: object) -> str:
    if isinstance(value, datetime):
        return str(iso(value))
    raise TypeError(f"cannot write {type(value).__name__}")


def _write_csv(path: Path, schema: Any, batches: Iterable[list[Row]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for batch in batches:
            writer.writerows([csv_cell(row[name]) for name in schema.names] for row in batch)


def csv_cell(value: Any) -> Any:
    """A cell: nested values as JSON, times as ISO, and no text that a spreadsheet would run."""
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, datetime):
        return iso(value)
    elif isinstance(value, bool):
        return "true" if value else "false"
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
