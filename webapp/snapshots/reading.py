"""Reading a project's labels as a stream, in a fixed order, as they stand at one moment.

Rows are ordered by the bytes of their ids, not by a language's rules. So SQLite and PostgreSQL give the same order,
and so does a project that was exported and imported again.

Rows come in batches of columns: `batch.verdict[i]` is the verdict of row i. The database itself writes times as ISO
texts, and JSON stays text. Half a million rows are read this way in seconds.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from json.encoder import encode_basestring as quote
from operator import itemgetter
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import BooleanField, F, Func, IntegerField, TextField, Value
from django.db.models.functions import Cast, Collate

from webapp.corpus.models import Project
from webapp.jobs import JobFailed
from webapp.labels.models import JudgementQuerySet, QualityLabel
from webapp.labels.names import Named

# Rows fetched from the database at a time, and rows of a batch.
CHUNK = 2000
BATCH = 5000
LONGEST_IMPORT_SECONDS = 1800.0


@contextmanager
def consistent_read() -> Iterator[None]:
    """Every query inside sees the database as it was at the first one; nobody is kept from writing meanwhile.

    Inside somebody's transaction it is that transaction's view.
    """
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
    else:
        # transaction.atomic() would begin IMMEDIATE here, and with it lock out every writer.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")


@contextmanager
def whole_read(project: Project) -> Iterator[None]:
    """A consistent read that sees every import of the project whole or not at all; it waits for one to end.

    Raises JobFailed where that takes longer than any import.
    """
    deadline = time.monotonic() + LONGEST_IMPORT_SECONDS
    while True:
        with consistent_read():
            if not project.imports.unfinished().exists():
                yield
                return
        if time.monotonic() > deadline or connection.in_atomic_block:
            raise JobFailed("An import of the project is being written. Try again when it has ended.")
        time.sleep(1)


def by_bytes(path: str) -> Collate:
    """An ordering expression: the text's bytes."""
    return Collate(F(path), "C" if connection.vendor == "postgresql" else "BINARY")


class IsoTime(Func):
    """A time as ISO text in UTC with microseconds, made by the database: the same as `iso` makes of it."""

    output_field = TextField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # Stored as "2026-01-02 03:04:05", with ".678901" behind it unless that is zero.
        template = (
            "replace(substr(%(expressions)s || '.000000', 1, 26), ' ', 'T') || "
            "CASE WHEN %(expressions)s IS NULL THEN NULL ELSE '+00:00' END"
        )
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = """to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
        return self.as_sql(compiler, connection, template=template, **context)


class Among(Func):
    """`Among("pk", keys)`: whether a key is one of many, in one parameter; thousands of them would cost much."""

    output_field = BooleanField()

    def __init__(self, path: str, keys: Iterable[int]) -> None:
        super().__init__(F(path), Value(json.dumps(sorted(set(keys))), output_field=TextField()))

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "%(expressions)s))"
        return self.as_sql(
            compiler, connection, template=template, arg_joiner=" IN (SELECT value FROM json_each(", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "%(expressions)s, '[]', '{}')::bigint[])"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" = ANY(translate(", **context)


class Flag(Cast):
    """A flag as 0 or 1, which comes through without a converter for every row."""

    def __init__(self, path: str) -> None:
        super().__init__(path, IntegerField())

    def get_db_converters(self, connection: Any) -> list[Any]:
        return []


def json_text(path: str) -> Cast:
    """A JSON column as text, for those that read few of its different values."""
    return Cast(path, TextField())


def iso(moment: datetime | None) -> str | None:
    """ISO time in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment else None


def short_id(*parts: Any) -> str:
    """32 hexadecimal digits that depend on the parts alone: an id that survives export and import."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]


def messages_text(messages: Any) -> str:
    """A conversation, or tools, as one line of JSON, the same whatever order the database keeps the keys in."""
    return json.dumps(messages, sort_keys=True, ensure_ascii=False)


class Responses(NamedTuple):
    """Columns of responses with their prompts. `messages`, `tools` and `answer` are JSON texts."""

    id: Sequence[str]
    text: Sequence[str]
    author: Sequence[str]
    prompt: Sequence[int]
    prompt_id: Sequence[str]
    group: Sequence[str]
    messages: Sequence[str]
    tools: Sequence[str]
    answer: Sequence[str | None]


def response_batches(project: Project) -> Iterator[Responses]:
    """Every response with its prompt, by id."""
    rows = project.responses.order_by(by_bytes("external_id")).values_list(
        "external_id", "text", "author", "prompt_id", "prompt__external_id", "prompt__group",
        json_text("prompt__messages"), json_text("prompt__tools"), json_text("messages"),
    )  # fmt: skip
    for chunk in chunks(rows.iterator(CHUNK), BATCH):
        yield Responses(*zip(*chunk, strict=True))


class Judgements(NamedTuple):
    """Columns of judgements with the keys and ids of their pairs, of whole pairs only. Flags are 0 or 1."""

    a_id: Sequence[str]
    b_id: Sequence[str]
    annotator: Sequence[int]
    created_at: Sequence[str]
    pk: Sequence[int]
    pair: Sequence[int]
    pair_id: Sequence[str]
    a: Sequence[int]
    b: Sequence[int]
    prompt_a: Sequence[int]
    prompt_b: Sequence[int]
    verdict: Sequence[str]
    strength: Sequence[int | None]
    reasons: Sequence[str]
    contradiction_kept: Sequence[int]
    comment: Sequence[str]
    left: Sequence[str]
    shown_at: Sequence[str | None]
    policy: Sequence[str]
    propensity: Sequence[float | None]
    source: Sequence[str]
    is_current: Sequence[int]
    retraction: Sequence[int]

    def of(self, rows: Sequence[int]) -> "Judgements":
        """The same columns of some rows."""
        if len(rows) == len(self.pk):
            return self
        if not rows:
            return Judgements(*((),) * len(self))
        pick = itemgetter(*rows) if len(rows) > 1 else lambda column: (column[rows[0]],)
        return Judgements(*map(pick, self))


_PAIR = Judgements._fields.index("pair")


def judgement_batches(
    judgements: JudgementQuerySet, project: Project, names: dict[int, Named]
) -> Iterator[Judgements]:
    """Judgements by (response a, response b, annotator's name, time), in batches that part no pair."""
    rows = (
        judgements.of(project)
        .order_by(by_bytes("pair__response_a__external_id"), by_bytes("pair__response_b__external_id"))
        .values_list(
            "pair__response_a__external_id", "pair__response_b__external_id", "annotator_id",
            IsoTime("created_at"), "pk", "pair_id", "pair__external_id", "pair__response_a_id",
            "pair__response_b_id", "pair__response_a__prompt_id", "pair__response_b__prompt_id", "verdict",
            "strength", json_text("reasons"), Flag("contradiction_kept"), "comment", "left",
            IsoTime("shown_at"), "policy", "propensity", "source", Flag("is_current"), Flag("retraction"),
        )
    )  # fmt: skip
    rank = ranks(names)

    def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[0], row[1], rank[row[2]], row[3], row[4]

    found: list[tuple[Any, ...]] = []
    for chunk in chunks(rows.iterator(CHUNK), BATCH):
        found += chunk
        end = len(found)
        while end and found[end - 1][_PAIR] == found[-1][_PAIR]:
            end -= 1
        if end:
            yield Judgements(*zip(*sorted(found[:end], key=place), strict=True))
            del found[:end]
    if found:
        yield Judgements(*zip(*sorted(found, key=place), strict=True))


class Levels(NamedTuple):
    """Columns of quality labels with the keys and ids of their responses."""

    response_id: Sequence[str]
    response: Sequence[int]
    annotator: Sequence[int]
    level: Sequence[str]
    comment: Sequence[str]
    created_at: Sequence[str]

    def of(self, rows: Sequence[int]) -> "Levels":
        """The same columns of some rows."""
        columns: Any = ([column[row] for row in rows] for column in self)
        return Levels(*columns)


def level_batches(project: Project, names: dict[int, Named]) -> Iterator[Levels]:
    """Current quality labels by (response, annotator's name)."""
    rows = (
        QualityLabel.objects.of(project)
        .current()
        .order_by(by_bytes("response__external_id"))
        .values_list(
            "response__external_id", "response_id", "annotator_id", "level", "comment", IsoTime("created_at")
        )
    )
    rank = ranks(names)
    found: list[tuple[Any, ...]] = []

    def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[0], rank[row[2]]

    for chunk in chunks(rows.iterator(CHUNK), BATCH):
        found += chunk
        end = len(found)
        while end and found[end - 1][1] == found[-1][1]:
            end -= 1
        if end:
            yield Levels(*zip(*sorted(found[:end], key=place), strict=True))
            del found[:end]
    if found:
        yield Levels(*zip(*sorted(found, key=place), strict=True))


def ranks(names: dict[int, Named]) -> dict[int, int]:
    """The place of every annotator in the order of the names' bytes."""
    return {pk: place for place, pk in enumerate(sorted(names, key=lambda pk: (names[pk].name.encode(), pk)))}


def judgement_ids(rows: Judgements, names: dict[int, Named]) -> list[str]:
    """`short_id` of response a, response b, annotator, time and verdict, for every row."""
    quoted = {pk: quote(named.name) for pk, named in names.items()}
    sha256 = hashlib.sha256
    return [
        sha256(f'[{quote(a)}, {quote(b)}, {quoted[who]}, "{when}", "{verdict}"]'.encode()).hexdigest()[:32]
        for a, b, who, when, verdict in zip(
            rows.a_id, rows.b_id, rows.annotator, rows.created_at, rows.verdict, strict=True
        )
    ]


def chunks(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(rows, size)):
        yield chunk
