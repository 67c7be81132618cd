"""The search of the lists: rows that contain a text, in large or small letters, found by an index of substrings.

PostgreSQL has one of trigrams (pg_trgm), SQLite a full text table of trigrams (FTS5). Of less than three letters there
is no trigram: then, and where the database can't have the index, all rows are read.
"""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable
from functools import cache
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import Q
from django.db.models.expressions import RawSQL

from webapp.corpus.conversations import spoken
from webapp.corpus.models import Pair, Prompt, Response
from webapp.ratings.models import SearchText

logger = logging.getLogger(__name__)

_FTS = "ratings_searchtext_fts"
_INDEX = "ratings_searchtext_words"


def says(text: str, path: str) -> Q:
    """Rows whose SearchText contains the text; `path`: from the rows to it, as "sought__"."""
    text = text.lower()
    if connection.vendor == "sqlite" and len(text) >= 3 and _has_trigrams():
        quoted = text.replace('"', '""')
        found = RawSQL(f"SELECT rowid FROM {_FTS} WHERE {_FTS} MATCH %s", [f'"{quoted}"'])  # noqa: S608, S611
        return Q(**{f"{path}pk__in": found})
    return Q(**{f"{path}words__contains": text})


def texts_keep(responses: Iterable[int], pairs: Iterable[int]) -> None:
    """Keep what rows are found by, of those that have nothing yet: texts never change. Two queries, if none is new."""
    new = Response.objects.filter(pk__in=responses, sought=None).select_related("prompt")
    rows = [SearchText(response=response, words=_words(response)) for response in new]
    named = Pair.objects.filter(pk__in=pairs, sought=None).values_list("pk", "external_id")
    rows += [SearchText(pair_id=pk, words=name.lower()) for pk, name in named]
    if rows:
        SearchText.objects.bulk_create(rows, ignore_conflicts=True)


def _words(response: Response) -> str:
    prompt = response.prompt
    parts = [response.text, response.author, response.external_id, prompt.external_id, *_said(prompt)]
    return "\n".join(parts).lower()


def _said(prompt: Prompt) -> list[str]:
    """Its messages; with names and tool calls as JSON writes them."""
    if all(message.keys() <= {"role", "content"} for message in prompt.messages):
        return [spoken(message) for message in prompt.messages]
    return [spoken(message) for message in prompt.messages] + [
        json.dumps(prompt.messages, ensure_ascii=False)
    ]


# --- The index ---


@cache
def _has_trigrams() -> bool:
    """Whether this SQLite has full text tables of trigrams. Asked of an empty database in memory."""
    with contextlib.closing(sqlite3.connect(":memory:")) as memory:
        try:
            memory.execute("CREATE VIRTUAL TABLE tried USING fts5(words, tokenize='trigram')")
        except sqlite3.OperationalError:
            return False
    return True


def _is_there() -> bool:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT 1 FROM pg_class WHERE relname = %s", [_INDEX])
        else:
            cursor.execute("SELECT 1 FROM sqlite_master WHERE name = %s", [_FTS])
        return cursor.fetchone() is not None


def index_install(**_: Any) -> None:
    """Make the index if it is not there. Called after each migration."""
    if _is_there():
        return
    postgresql = connection.vendor == "postgresql"
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in _POSTGRESQL if postgresql else _SQLITE:
                cursor.execute(statement)
    except DatabaseError as error:
        logger.warning(
            "no index for the search (%s): it reads all texts, which is slow in a large project. %s",
            str(error).strip(),
            "Have a superuser run CREATE EXTENSION pg_trgm in this database, then run manage.py migrate."
            if postgresql
            else "It needs SQLite 3.34 or newer with FTS5.",
        )


_POSTGRESQL = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"CREATE INDEX {_INDEX} ON ratings_searchtext USING gin (words gin_trgm_ops)",
)
_SQLITE = (
    "CREATE VIRTUAL TABLE ratings_searchtext_fts USING fts5"
    "(words, content='ratings_searchtext', content_rowid='id', tokenize='trigram')",
    "CREATE TRIGGER ratings_searchtext_insert AFTER INSERT ON ratings_searchtext BEGIN "
    "INSERT INTO ratings_searchtext_fts (rowid, words) VALUES (NEW.id, NEW.words); END",
    "CREATE TRIGGER ratings_searchtext_delete AFTER DELETE ON ratings_searchtext BEGIN "
    "INSERT INTO ratings_searchtext_fts (ratings_searchtext_fts, rowid, words) "
    "VALUES ('delete', OLD.id, OLD.words); END",
    "INSERT INTO ratings_searchtext_fts (ratings_searchtext_fts) VALUES ('rebuild')",
)
