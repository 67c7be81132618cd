"""What the rows of each import format mean: a parser turns one row into neutral records.

FORMATS.md, one folder up, describes every format for the people who write such files. A parser is a function of
one row: it either returns all records of the row or raises `RowError`, so that a row is taken whole or left out.
Ids of formats without ids are made from the content, so that importing a file again finds what is already there.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from webapp.importing.fields import RowError
from webapp.importing.reading import ImportRefused, Problem, Row, Source, Tick, printable, rows
from webapp.importing.shapes.caliper import CALIPER_FIELDS, parse_caliper
from webapp.importing.shapes.pandalm import parse_pandalm
from webapp.importing.shapes.records import (
    LEVELS,
    VERDICTS,
    LevelRecord,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)
from webapp.importing.shapes.transcripts import is_transcript, parse_hh
from webapp.importing.shapes.trl import parse_trl
from webapp.importing.shapes.ukp import parse_ukp

__all__ = [
    "LEVELS",
    "PARSERS",
    "VERDICTS",
    "LevelRecord",
    "NotRecognised",
    "PairRecord",
    "PromptRecord",
    "Record",
    "ResponseRecord",
    "VoteRecord",
    "format_of",
    "recognise",
    "records",
]

logger = logging.getLogger(__name__)

PARSERS: dict[str, Callable[[Row], list[Record]]] = {
    "caliper": parse_caliper,
    "trl": parse_trl,
    "hh-rlhf": parse_hh,
    "pandalm": parse_pandalm,
    "ukp-convarg1": parse_ukp,
}


def format_of(row: Row) -> str | None:
    """The format whose fields the row has, or None."""
    if isinstance(row.get("type"), str) and row["type"] in CALIPER_FIELDS:
        return "caliper"
    if {"response1", "response2", "annotator1"} <= set(row):
        return "pandalm"
    if {"pair_id", "response_a_id", "votes"} <= set(row) or {"response_id", "topic", "text"} <= set(row):
        return "ukp-convarg1"
    if {"chosen", "rejected"} <= set(row):
        transcripts = "prompt" not in row and is_transcript(row["chosen"]) and is_transcript(row["rejected"])
        return "hh-rlhf" if transcripts else "trl"
    return None


class NotRecognised(ImportRefused):
    """The files are in no known format: somebody has to say which column is what."""


def recognise(sources: Sequence[Source]) -> str:
    """The one format of all the files, from the first readable rows. Raises ImportRefused when there is none."""
    found: dict[str, str] = {}
    for source in sources:
        seen: list[str] = []
        for number, row in rows(source):
            if isinstance(row, dict):
                if name := format_of(row):
                    found[source.name] = name
                    break
                seen = seen or sorted(row)
            if number >= 50:
                break
        if source.name not in found:
            columns = (
                f"Its first row has the fields {', '.join(seen)[:200]}. "
                if seen
                else "None of its rows could be read. "
            )
            raise NotRecognised(
                f"The format of {source.name} was not recognised. {columns}"
                f"Known formats: {', '.join(PARSERS)}; the import page shows what they look like."
            )
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in found.items())
        raise ImportRefused(f"The files are of different formats: {listed}. Import them one after the other.")
    return next(iter(found.values()))


def records(
    source: Source, format_name: str, tick: Tick, parse: Callable[[Row], list[Record]] | None = None
) -> Iterator[tuple[int, list[Record] | Problem]]:
    """(row number, the row's records or why it is left out) of a file in a known format, or one that `parse` reads."""
    parse = parse or PARSERS[format_name]
    for number, row in rows(source, tick):
        if isinstance(row, Problem):
            yield number, row
            continue
        try:
            yield number, parse(row)
        except RowError as error:
            yield number, Problem(source.name, number, error.field, error.message, error.remedy)
        except RecursionError:
            yield number, Problem(source.name, number, "", "is nested too deeply.", "Flatten it.")
        except (OverflowError, TypeError, ValueError) as error:
            # A value of a kind that no field check thought of costs its row, not the file.
            logger.exception("row %s of %s cannot be taken", number, source.name)
            message = f"cannot be taken ({printable(f'{type(error).__name__}: {error}')[:200]})."
            yield number, Problem(source.name, number, "", message, "Look for a value of an unusual kind.")
