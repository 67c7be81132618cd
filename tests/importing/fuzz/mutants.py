"""Good files of every import format, and the many ways in which files go bad.

A mutant is a good row with something odd in it, or a good file with damaged bytes. An import may leave rows out or
refuse the file, each with a message of its own; it must not fail in any other way (`Fuzzed.failures`).
"""

import copy
import csv
import gzip
import io
import json
import logging
import random
import tempfile
import time
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.importing.fuzz.samples import ODD, SAMPLES, Row
from webapp.corpus.models import Project
from webapp.importing.reading import ImportRefused, Problem, Source, rows
from webapp.importing.services import import_files
from webapp.importing.shapes import PARSERS, format_of

# Rows of a mutated file: an import costs some milliseconds, whatever is in it.
BATCH = 100
HEAD = 6


def good_rows(shared: Path | None) -> dict[str, list[Row]]:
    """By format: the samples here, rows of every shared case and of the heads of the shared data."""
    found = copy.deepcopy(SAMPLES)
    for source in shared_files(shared):
        try:
            for number, row in rows(source):
                if isinstance(row, dict) and (name := format_of(row)):
                    found[name].append(row)
                if number >= HEAD:
                    break
        except ImportRefused:
            continue
    return found


def shared_files(shared: Path | None) -> list[Source]:
    if shared is None or not shared.is_dir():
        return []
    endings = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz")
    paths = [*(shared / "cases").glob("*"), *(shared / "data").glob("*/*")]
    return [Source(path, path.name) for path in sorted(paths) if path.name.endswith(endings)]


# Rows --------------------------------------------------------------------------------------------------------


def places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside, some levels deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        if depth < 5:
            yield from places(inner, depth + 1)


def mutated(row: Row, rng: random.Random, others: Sequence[Row]) -> Row:
    """The row with one to three things changed."""
    row = json.loads(json.dumps(row, default=str))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = list(places(row))
        if not found:
            break
        container, key = rng.choice(found)
        match rng.randrange(8):
            case 0 | 1 | 2:
                container[key] = copy.deepcopy(rng.choice(ODD))
            case 3:
                container[key] = copy.deepcopy(wrapped(container[key], rng))
            case 4 if isinstance(container, dict):
                del container[key]
            case 5 if isinstance(container, dict):
                container[rng.choice([str(key).upper(), "", "extra", "\ud83d", "type", f"{key}2"])] = (
                    container[key]
                )
            case 6:
                other = rng.choice(others)
                container[key] = copy.deepcopy(rng.choice(list(other.values()) or [None]))
            case _:
                container[key] = cut(container[key], rng)
    return row


def wrapped(value: Any, rng: random.Random) -> Any:
    """The same in another type."""
    return rng.choice(
        [
            [value],
            {"value": value},
            [value, value],
            str(value)[:100_000],
            repr(value)[:100_000],
            json.dumps(value, default=str),
            [[value]],
            {"content": value},
            [{"role": "user", "content": value}],
        ]
    )


def cut(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str | list):
        return value[: rng.randrange(len(value) + 1)]
    return -value if isinstance(value, int | float) else None


# Files -------------------------------------------------------------------------------------------------------


def json_line(row: Row, rng: random.Random) -> str:
    try:
        text = json.dumps(row, ensure_ascii=rng.random() < 0.5, default=str)
    except ValueError:  # whole numbers of more digits than Python writes
        text = "{}"
    if row and rng.random() < 0.03:
        key = rng.choice(list(row))
        text = text[:-1] + f", {json.dumps(key)}: 1}}"
    elif rng.random() < 0.01:
        text = text[: rng.randrange(len(text))] + rng.choice(["", "}", "]", '"', ",,", "\x00"])
    return text


def as_json(value: Any) -> str:
    return json.dumps(value, default=str)


def as_table(batch: Sequence[Row], delimiter: str, rng: random.Random) -> str:
    names = list(dict.fromkeys(key for row in batch for key in row))[:40]
    written = io.StringIO(newline="")
    table = csv.writer(written, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n", "\r"]))
    table.writerow(names)
    for row in batch:
        cells = [row.get(name, "") for name in names]
        shown = [
            c if isinstance(c, str) else "" if c is None else rng.choice([as_json, repr])(c) for c in cells
        ]
        if rng.random() < 0.03:
            shown = shown[: rng.randrange(len(shown) + 1)] + [""] * rng.randrange(3)
        table.writerow(shown)
    text = written.getvalue()
    if rng.random() < 0.1:
        text = text.replace('"', "", rng.randrange(3))
    return text


def as_parquet(batch: Sequence[Row], rng: random.Random) -> bytes:
    """A Parquet file of the columns that one type fits, some in types that few files have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, names = [], []
    for name in dict.fromkeys(key for row in batch for key in row):
        values = [row.get(name) for row in batch]
        for kind in (None, pa.string()):
            try:
                column = pa.array(
                    values if kind is None else [None if v is None else str(v) for v in values], kind
                )
                break
            except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError, TypeError):
                column = pa.nulls(len(batch))
        arrays.append(odd_type(column, rng))
        names.append(name if name.isprintable() else "odd")
    written = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_arrays(arrays, names), written)
    except (pa.ArrowException, NotImplementedError):
        return b"PAR1"
    return written.getvalue()


def odd_type(column: Any, rng: random.Random) -> Any:
    import pyarrow as pa

    count = len(column)
    kind = rng.randrange(40)
    odd = {
        0: lambda: column.dictionary_encode(),
        1: lambda: column.cast(pa.large_string()),
        2: lambda: column.cast(pa.string_view()),
        3: lambda: column.cast(pa.binary()),
        4: lambda: pa.nulls(count),
        5: lambda: pa.array([Decimal("1.10")] * count),
        6: lambda: pa.array([2**63] * count, pa.uint64()),
        7: lambda: pa.array([10**17] * count, pa.timestamp("ms")),
        8: lambda: pa.array([1] * count, pa.timestamp("ns")),
        9: lambda: pa.array([1] * count, pa.duration("ns")),
        10: lambda: pa.array([1] * count, pa.time64("ns")),
        11: lambda: pa.array([[("a", 1), ("a", 2)]] * count, pa.map_(pa.string(), pa.int64())),
        12: lambda: pa.array([float("nan")] * count, pa.float16()),
        13: lambda: pa.array([[b"\xff"]] * count, pa.list_(pa.binary(), 1)),
        14: lambda: pa.array([10**9] * count, pa.date32()),
        15: lambda: pa.array([{"a": float("inf")}] * count),
        16: lambda: column.cast(pa.int8()),
        17: lambda: column.cast(pa.float64()),
    }.get(kind)
    try:
        return odd() if odd else column
    except (pa.ArrowException, NotImplementedError, ValueError, OverflowError):
        return column


ENCODINGS = (
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "utf-7",
)


def written(batch: Sequence[Row], rng: random.Random) -> tuple[str, bytes]:
    """A file of the rows: its ending and its bytes."""
    kind = rng.choice(["jsonl", "jsonl", "json", "csv", "tsv", "txt", "parquet"])
    if kind == "parquet":
        return "parquet", as_parquet(batch, rng)
    if kind == "jsonl":
        text = rng.choice(["\n", "\r\n", "\n\n", "\r"]).join(json_line(row, rng) for row in batch)
    elif kind == "json":
        indent = rng.choice([None, 1])
        lines = [json_line(row, rng) for row in batch]
        text = (
            "[" + rng.choice([",", ",\n", ", "]).join(lines) + rng.choice(["]", "]", "]", ",]", "] []", ""])
        )
        if indent and rng.random() < 0.5:
            text = "\n".join(
                json.dumps(row, indent=1, default=str) for row in batch[:5] if 10**400 not in row.values()
            )
    else:
        text = as_table(batch, {"tsv": "\t", "csv": rng.choice(",;|"), "txt": rng.choice(",;\t")}[kind], rng)
    encoding = rng.choice(ENCODINGS)
    errors = "surrogatepass" if encoding.startswith(("utf-8", "utf-16", "utf-32")) else "replace"
    return kind, text.encode(encoding, errors)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    if not data:
        return data
    at, other = rng.randrange(len(data)), rng.randrange(len(data))
    first, last = min(at, other), max(at, other)
    match rng.randrange(7):
        case 0:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 3, 30))):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 1:
            return data[:at]
        case 2:
            return data[at:]
        case 3:
            return data[:first] + data[last:]
        case 4:
            return data[:at] + data[first : first + 2000] + data[at:]
        case 5:
            junk = rng.choice(
                [
                    b"\x00",
                    b"\xff\xfe",
                    b"\xef\xbb\xbf",
                    b'"',
                    b"\r",
                    b"\n\n",
                    b"\xe2\x80\xa8",
                    b"{",
                    b"]",
                    b"PAR1",
                    rng.randbytes(20),
                ]
            )
            return data[:at] + junk + data[at:]
        case _:
            return data[:first] + bytes(last - first) + data[last:]


def packed(name: str, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    match rng.randrange(8):
        case 0:
            return f"{name}.gz", gzip.compress(data, 1)
        case 1:
            inside = io.BytesIO()
            with zipfile.ZipFile(
                inside, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            ) as archive:
                archive.writestr(
                    rng.choice([name, f"a/b/{name}", f"../{name}", f"/{name}", f"c:\\{name}"]), data
                )
                archive.writestr("__MACOSX/._" + name, b"x")
                archive.writestr("README.txt", b"Hello, you.")
            return f"{name}.zip", inside.getvalue()
        case _:
            return name, data


# Runs --------------------------------------------------------------------------------------------------------


@dataclass
class Fuzzed:
    """What a run of mutants came to."""

    mutants: int = 0
    imports: int = 0
    refused: int = 0
    rows: int = 0
    left_out: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class _Heard(logging.Handler):
    """Collects what the importer logs as an error: a value that no field check thought of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        frames = traceback.format_exception(error)[-3:] if error else []
        self.messages.append(record.getMessage() + "\n" + "".join(frames))


class Fuzz:
    """Imports mutants into a project, for looking only. Deterministic by its seed."""

    def __init__(self, project: Project, folder: Path, shared: Path | None, seed: int) -> None:
        self.project, self.folder = project, folder
        self.rng = random.Random(seed)
        self.good = good_rows(shared)
        missing = set(PARSERS) - set(self.good)
        assert not missing, f"formats without a sample: {missing}"
        self.files = [
            source.path.read_bytes()[:20_000] for source in shared_files(shared) if source.size < 200_000
        ]
        self.file_names = [source.name for source in shared_files(shared) if source.size < 200_000]
        self.found = Fuzzed()

    def run(self, mutants: int, *, files: float = 0.1) -> Fuzzed:
        """So many mutants, of which the share `files` are damaged files and the others rows."""
        started = time.monotonic()
        heard, logger = _Heard(), logging.getLogger("webapp.importing")
        before, logger.propagate = logger.propagate, False
        logger.addHandler(heard)
        try:
            while self.found.mutants < int(mutants * (1 - files)):
                self._rows()
            while self.found.mutants < mutants:
                self._file()
        finally:
            logger.removeHandler(heard)
            logger.propagate = before
        self.found.failures += heard.messages
        self.found.seconds = time.monotonic() - started
        return self.found

    def _rows(self) -> None:
        name = self.rng.choice(list(self.good))
        batch = [mutated(self.rng.choice(self.good[name]), self.rng, self.good[name]) for _ in range(BATCH)]
        kind, data = written(batch, self.rng)
        self._import(f"rows.{kind}", data, name)
        self.found.mutants += BATCH

    def _file(self) -> None:
        name = self.rng.choice(list(self.good))
        if self.files and self.rng.random() < 0.3:
            place = self.rng.randrange(len(self.files))
            file, data, name = self.file_names[place], self.files[place], "auto"
        else:
            batch = [self.rng.choice(self.good[name]) for _ in range(self.rng.randrange(1, 5))]
            kind, data = written(batch, self.rng)
            file, data = packed(f"file.{kind}", data, self.rng)
        data = damaged(data, self.rng)
        if self.rng.random() < 0.1:
            file, data = packed(file, data, self.rng)
        self._import(file, data, self.rng.choice([name, "auto"]))
        self.found.mutants += 1

    def _import(self, name: str, data: bytes, format_name: str) -> None:
        path = self.folder / name
        path.write_bytes(data)
        self.found.imports += 1
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            try:
                report = import_files(
                    project=self.project, sources=[Source(path, name)], format_name=format_name, dry_run=True,
                    folder=Path(work),
                )  # fmt: skip
                self.found.rows += report.rows
                self.found.left_out += report.left_out
                assert all(str(Problem(**error)) for error in report.errors)
            except ImportRefused as refusal:
                self.found.refused += 1
                if not str(refusal):
                    self.found.failures.append(f"{name} as {format_name} is refused without a word")
            except Exception as error:
                frames = traceback.format_exception(error)[-4:]
                kept = self.folder / f"failure-{len(self.found.failures)}-{name}"
                kept.write_bytes(data)
                self.found.failures.append(f"{kept} as {format_name}:\n" + "".join(frames))
        path.unlink()
