"""Files are read once, and their records laid down by what they are, so that a file may name things in any order."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from webapp.importing import shapes
from webapp.importing.reading import Problem, Row, Source, read_as
from webapp.importing.report import Problems, Report
from webapp.importing.shapes import LevelRecord, PairRecord, PromptRecord, Record, ResponseRecord, VoteRecord
from webapp.labels.models import Verdict

# Rows looked up and written at a time: below SQLite's limit of variables in one statement.
CHUNK = 500

OnProgress = Callable[[str, int, int], None]
Parser = Callable[[Row], list[Record]]
_SKIP = Verdict.SKIP.value


class Where(NamedTuple):
    """The place of a record: the file (its place among the sources) and the row."""

    file: int
    row: int


RECORD_TYPES: dict[str, Callable[..., Record]] = {
    "prompts": PromptRecord,
    "responses": ResponseRecord,
    "pairs": PairRecord,
    "implied": PairRecord,
    "votes": VoteRecord,
    "levels": LevelRecord,
}


_TYPE_OF: dict[type, str] = {make: name for name, make in RECORD_TYPES.items() if name != "implied"}  # type: ignore[misc]


def _record_type(record: Record) -> str:
    # Pairs that only votes speak of come after those with ids of their own.
    return "implied" if type(record) is PairRecord and not record.id else _TYPE_OF[type(record)]


class Spool:
    """The records of an import in files, one for each type, so that memory stays small."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {record_type: (folder / record_type).open("wb") for record_type in RECORD_TYPES}
        self._waiting: dict[str, list[tuple[Any, ...]]] = {record_type: [] for record_type in RECORD_TYPES}
        self.sizes = dict.fromkeys(RECORD_TYPES, 0)
        # How many votes that say something speak of a pair, by its id, or by its responses where it has none.
        self.votes: dict[str | tuple[str, str], int] = {}

    def add(self, where: Where, record: Record) -> None:
        record_type = _record_type(record)
        waiting = self._waiting[record_type]
        waiting.append((*where, *record))
        self.sizes[record_type] += 1
        if type(record) is VoteRecord and record.verdict != _SKIP:
            pair = record.pair or (record.a, record.b)
            self.votes[pair] = self.votes.get(pair, 0) + 1
        if len(waiting) == CHUNK:
            self._flush(record_type)

    def _flush(self, record_type: str) -> None:
        waiting = self._waiting[record_type]
        pickle.dump(waiting, self._files[record_type], pickle.HIGHEST_PROTOCOL)
        waiting.clear()

    def close(self) -> None:
        for record_type, file in self._files.items():
            if not file.closed:
                self._flush(record_type)
                file.close()

    def read(self, record_type: str) -> Iterator[tuple[Where, Any]]:
        for chunk in self.chunks(record_type):
            yield from chunk

    def chunks(self, record_type: str) -> Iterator[list[tuple[Where, Any]]]:
        """The records as they came, at most CHUNK at a time."""
        make = RECORD_TYPES[record_type]
        with (self._folder / record_type).open("rb") as file:
            while file.peek(1):
                # A file of this process, in a folder of its own.
                chunk = pickle.load(file)  # noqa: S301
                yield [(Where(values[0], values[1]), make(*values[2:])) for values in chunk]


def in_chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def spool_records(
    sources: Sequence[Source],
    format_name: str,
    spool: Spool,
    problems: Problems,
    report: Report,
    progress: OnProgress,
    parse: Parser | None = None,
) -> None:
    """Read every file once; good rows go to the spool, bad ones to the problems. Progress counts kilobytes."""
    sizes = [source.size for source in sources]
    tally = shapes.Tally()
    for place, source in enumerate(sources):
        before = sum(sizes[:place])
        count = 0

        def reached(position: int, before: int = before) -> None:
            progress("reading", (before + position) // 1024, sum(sizes) // 1024)

        for number, found in shapes.records(source, format_name, reached, tally, parse):
            count += 1
            if isinstance(found, Problem):
                problems.add(found)
                continue
            for record in found:
                spool.add(Where(place, number), record)
        report.rows += count
        report.files.append(
            {"name": source.name, "bytes": sizes[place], "rows": count, "read_as": read_as(source)}
        )
    report.unused, report.notes = dict(tally.unused.most_common(1000)), dict(tally.notes.most_common())
    spool.close()
