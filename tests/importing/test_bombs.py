"""Small files that would take much: each is read, or refused, within 400 MB of memory and 20 seconds."""

import gzip
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from webapp.importing.reading import ImportRefused, Source
from webapp.importing.report import MAX_ERRORS_BYTES, Problems, Report
from webapp.importing.spool import Spool, spool_records

MEMORY_MB, SECONDS = 400, 20.0
GOOD = b'{"type": "prompt", "id": "p", "text": "Why?"}\n'


def read_in_child(path: Path, format_name: str, answers: Any) -> None:
    """What a worker does with an import before it looks into the database."""
    before, started = psutil.Process().memory_info().rss, time.monotonic()
    report = Report()
    work = path.parent / "work"
    work.mkdir()
    with (path.parent / "errors.jsonl").open("w") as errors:
        problems = Problems(errors, report)
        try:
            spool_records(
                [Source(path, path.name)], format_name, Spool(work), problems, report, lambda *_: None
            )
            refusal = ""
        except ImportRefused as error:
            refusal = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before // 2**20
    first = str(problems.first or "")
    answers.put((grown, time.monotonic() - started, refusal, first, report.rows, report.left_out))


def gz(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, 6))


def parquet(path: Path, table: pa.Table, **options: Any) -> None:
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, **options)


def repeated(value: Any, count: int, kind: pa.DataType | None = None) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value], kind))


def list_of_dictionary(path: Path) -> None:
    texts = repeated("x" * 1_000_000, 100_000)
    lists = pa.ListArray.from_arrays(pa.array([0, 99_999, 100_000], pa.int32()), texts)
    parquet(
        path, pa.table({"chosen": ["a", "b"], "rejected": ["b", "a"], "prompt": ["c", "c"], "extra": lists})
    )


def front_coded(path: Path) -> None:
    table = pa.table({name: pa.array(["x" * 1_000_000] * 300) for name in ("chosen", "rejected")})
    encoding = dict.fromkeys(table.column_names, "DELTA_BYTE_ARRAY")
    parquet(path, table, use_dictionary=False, column_encoding=encoding)


MB = 1_000_000
MANY = "holds more than 100,000 values"
# name of the file, the text that is packed into it, words of the refusal
TEXTS: list[tuple[str, Callable[[], bytes], str]] = [
    ("rows.jsonl.gz", lambda: GOOD + b"0\n" * (2 * MB), "More than 10,000 rows had to be left out"),
    ("blank.jsonl.gz", lambda: GOOD + b"\n" * (100 * MB), "blank lines among its first 1 rows"),
    ("spaces.json.gz", lambda: b"[" + b" " * (100 * MB) + b"{}]", "MB of blank space after element 0"),
    ("line.csv.gz", lambda: b"chosen,rejected\n" + b"x" * (100 * MB), "row 2 is longer than 16 MB"),
    ("quote.csv.gz", lambda: b"a,b\n" + b'"\n",' * (20 * MB), "row 2 is longer than 16 MB"),
    ("header.csv.gz", lambda: b"," * (10 * MB) + b"\n", "columns, more than 1,000"),
    ("cells.csv.gz", lambda: b"a,b\n" + b"," * (15 * MB) + b"\n", "more cells than the header"),
    ("blank.csv.gz", lambda: b"a,b\n" + b"\n" * (100 * MB), "blank lines among its first 1 rows"),
    ("element.json.gz", lambda: b'[{"a": [' + b"{}," * (30 * MB), MANY),
    ("text.json.gz", lambda: b'[{"a": "' + b"x" * (100 * MB), "is broken"),
    ("values.jsonl.gz", lambda: b'{"a": [' + b"{}," * (5 * MB) + b"0]}\n", MANY),
    ("deep.jsonl.gz", lambda: b'{"a": ' + b"[" * (10 * MB) + b"\n", MANY),
    (
        "messages.jsonl.gz",
        lambda: (
            b'{"type": "prompt", "id": "p", "messages": ['
            + b'{"role":"user","content":""},' * 400_000
            + b'{"role":"user","content":"x"}]}\n'
        ),
        MANY,
    ),
    (
        "reasons.jsonl.gz",
        lambda: (
            b'{"type": "vote", "a": "a", "b": "b", "annotator": "n", "verdict": "a", "reasons": ['
            + b'"r",' * 300_000
            + b'"r"]}\n'
        ),
        MANY,
    ),
]


def columns(value: Any, count: int, *names: str) -> pa.Table:
    return pa.table({name: repeated(value, count) for name in names})


def fixed_size() -> pa.Table:
    return pa.table({"chosen": repeated(b"x" * (8 * MB), 100, pa.binary(8 * MB))})


def wide() -> pa.Table:
    return pa.table({f"c{i}": pa.array([0]).take(pa.array([0] * 50_000)) for i in range(900)})


TABLES: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "dictionary.parquet",
        lambda path: parquet(path, columns("x" * (8 * MB), 300, "chosen", "rejected")),
        "of 256 KB allowed",
    ),
    (
        "cell.parquet",
        lambda path: parquet(path, columns("x" * (20 * MB), 100, "a")),
        "holds a value of 19 MB",
    ),
    ("fixed.parquet", lambda path: parquet(path, fixed_size()), "“rejected”: is missing"),
    ("wide.parquet", lambda path: parquet(path, wide()), "More than 10,000 rows"),
    (
        "cells.parquet",
        lambda path: parquet(path, pa.table({"c": [[0] * (51 * MB)]})),
        "values in 1 rows, more than 50,000,000",
    ),
    ("list.parquet", list_of_dictionary, "MB long, of 16 MB allowed"),
    ("front.parquet", front_coded, "of 256 KB allowed"),
]
BOMBS: list[tuple[str, Callable[[Path], None], str]] = [
    *((name, lambda path, text=text: gz(path, text()), words) for name, text, words in TEXTS),  # type: ignore[misc]
    *TABLES,
]


@pytest.mark.parametrize(("name", "make", "words"), BOMBS, ids=[bomb[0] for bomb in BOMBS])
def test_a_bomb_costs_little_and_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], None], words: str
) -> None:
    format_name = "caliper" if "json" in name else "trl"
    context = multiprocessing.get_context("fork")
    maker = context.Process(target=make, args=(tmp_path / name,))
    maker.start()
    maker.join()
    assert (tmp_path / name).stat().st_size < 2_000_000
    answers = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(tmp_path / name, format_name, answers))
    child.start()
    child.join(3 * SECONDS)
    assert child.exitcode == 0
    grown, seconds, refusal, first, _, left_out = answers.get()
    assert words in (refusal or first)
    assert grown < MEMORY_MB
    assert seconds < SECONDS
    assert left_out <= 10_000
    assert (tmp_path / "errors.jsonl").stat().st_size <= MAX_ERRORS_BYTES + 1000
