"""Reading a project's labels as a stream, in a fixed order, as they stand at one moment.

The order is that of the bytes of the ids (not of a language's collation), so that both databases, and a project that
was exported and imported again, give the same rows in the same order.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Collate

from webapp.corpus.models import Project
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.names import Named

# Rows fetched from the database at a time.
CHUNK = 2000


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


def by_bytes(path: str) -> Collate:
    """An ordering expression: the text's bytes."""
    return Collate(F(path), "C" if connection.vendor == "postgresql" else "BINARY")


def iso(moment: datetime | None) -> str | None:
    """ISO time in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment else None


def short_id(*parts: Any) -> str:
    """32 hexadecimal digits that depend on the parts alone: an id that survives export and import."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]


def judgement_id(row: dict[str, Any]) -> str:
    return short_id(
        row["response_a_id"], row["response_b_id"], row["annotator"], iso(row["created_at"]), row["verdict"]
    )


def messages_text(messages: list[Any]) -> str:
    """A conversation, or tools, as one line of JSON, the same whatever order the database keeps the keys in."""
    return json.dumps(messages, sort_keys=True, ensure_ascii=False)


def response_rows(project: Project) -> Iterator[dict[str, Any]]:
    """Every response with its prompt, by id."""
    rows = project.responses.order_by(by_bytes("external_id")).values(
        "external_id",
        "text",
        "author",
        "metadata",
        "prompt__external_id",
        "messages",
        "prompt__group",
        "prompt__messages",
        "prompt__tools",
    )
    for row in rows.iterator(CHUNK):
        yield {
            "pk": row["external_id"],
            "response_id": row["external_id"],
            "prompt_id": row["prompt__external_id"],
            "group": row["prompt__group"] or row["prompt__external_id"],
            "messages": row["prompt__messages"],
            "tools": row["prompt__tools"] or None,
            "text": row["text"],
            "answer": row["messages"] or None,
            "author": row["author"],
            "metadata": row["metadata"],
        }


JUDGEMENT_FIELDS = (
    "pk", "pair_id", "annotator_id", "verdict", "strength", "reasons", "comment", "left", "shown_at", "created_at",
    "policy", "propensity", "source", "is_current", "retraction", "contradiction_kept",
)  # fmt: skip
PAIR_FIELDS = {
    "pair__external_id": "pair",
    "pair__response_a_id": "a_pk",
    "pair__response_b_id": "b_pk",
    "pair__response_a__external_id": "response_a_id",
    "pair__response_b__external_id": "response_b_id",
}


def judgement_rows(
    judgements: QuerySet[Judgement],
    project: Project,
    names: dict[int, Named],
    extra: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Judgements by (response a, response b, annotator's name, time). `extra`: further columns, path -> name."""
    paths = PAIR_FIELDS | (extra or {})
    rows = (
        judgements.filter(pair__project=project)
        .order_by(by_bytes("pair__response_a__external_id"), by_bytes("pair__response_b__external_id"))
        .values(*JUDGEMENT_FIELDS, *paths)
    )
    for _, group in groupby(rows.iterator(CHUNK), key=lambda row: row["pair_id"]):
        found = []
        for row in group:
            for path, name in paths.items():
                row[name] = row.pop(path)
            named = names[row["annotator_id"]]
            row["annotator"], row["annotator_kind"] = named
            found.append(row)
        found.sort(key=lambda row: (row["annotator"].encode(), row["created_at"], row["pk"]))
        yield from found


def level_rows(project: Project, names: dict[int, Named]) -> Iterator[dict[str, Any]]:
    """Current quality labels by (response, annotator's name)."""
    rows = (
        QualityLabel.objects.current()
        .filter(response__project=project)
        .order_by(by_bytes("response__external_id"))
        .values("response_id", "response__external_id", "annotator_id", "level", "comment", "created_at")
    )
    for _, group in groupby(rows.iterator(CHUNK), key=lambda row: row["response_id"]):
        found = []
        for row in group:
            row["response_pk"], row["response_id"] = row["response_id"], row.pop("response__external_id")
            row["annotator"], row["annotator_kind"] = names[row["annotator_id"]]
            found.append(row)
        found.sort(key=lambda row: row["annotator"].encode())
        yield from found
