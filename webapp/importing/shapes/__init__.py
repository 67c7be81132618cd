"""What the rows of each import format mean: a parser turns one row into neutral records.

FORMATS.md, one folder up, describes every format for the people who write such files. A parser is a function of
one row: it either returns all records of the row or raises `RowError`, so that a row is taken whole or left out.
Ids of formats without ids are made from the content, so that importing a file again finds what is already there.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from webapp.importing.fields import RowError, is_given
from webapp.importing.reading import ImportRefused, OnPosition, Problem, Row, Source, look, printable, rows
from webapp.importing.shapes.arena import parse_arena, parse_kaggle
from webapp.importing.shapes.caliper import CALIPER_FIELDS, parse_caliper
from webapp.importing.shapes.helpsteer import parse_helpsteer, parse_helpsteer_preference
from webapp.importing.shapes.messages import are_messages
from webapp.importing.shapes.pandalm import parse_autoj, parse_pandalm
from webapp.importing.shapes.prompts import COLUMNS
from webapp.importing.shapes.qa_feedback import parse_qa_feedback
from webapp.importing.shapes.records import (
    LevelRecord,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)
from webapp.importing.shapes.rewardbench import parse_rewardbench
from webapp.importing.shapes.tools_of_others import (
    answer_columns,
    parse_argilla,
    parse_label_studio,
    parse_potato,
)
from webapp.importing.shapes.tracking import ReadRow, Tally
from webapp.importing.shapes.transcripts import is_transcript
from webapp.importing.shapes.trl import parse_hh, parse_sharegpt, parse_trl, parse_unpaired
from webapp.importing.shapes.ukp import parse_ukp
from webapp.importing.shapes.ultrafeedback import parse_ultrafeedback

__all__ = [
    "PARSERS",
    "LevelRecord",
    "NotRecognised",
    "PairRecord",
    "PromptRecord",
    "Record",
    "ResponseRecord",
    "Tally",
    "VoteRecord",
    "format_of",
    "recognise",
    "records",
    "samples",
]

logger = logging.getLogger(__name__)

Parser = Callable[[Row], list[Record]]

PARSERS: dict[str, Parser] = {
    "caliper": parse_caliper,
    "trl": parse_trl,
    "trl-unpaired": parse_unpaired,
    "hh-rlhf": parse_hh,
    "arena": parse_arena,
    "arena-kaggle": parse_kaggle,
    "ultrafeedback": parse_ultrafeedback,
    "helpsteer": parse_helpsteer,
    "helpsteer-preference": parse_helpsteer_preference,
    "rewardbench": parse_rewardbench,
    "pandalm": parse_pandalm,
    "auto-j": parse_autoj,
    "qa-feedback": parse_qa_feedback,
    "sharegpt": parse_sharegpt,
    "argilla": parse_argilla,
    "label-studio": parse_label_studio,
    "potato": parse_potato,
    "ukp-convarg1": parse_ukp,
}

LOOKED_AT = 50
SAMPLES = 3


class NotRecognised(ImportRefused):
    """No format fits the columns of a file. It carries them with their first values, so that they can be mapped."""

    def __init__(
        self, message: str, source: Source | None = None, columns: dict[str, list[Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.source, self.columns = source, columns or {}


# Each format by columns that no other has; the first that fits is it.
_COLUMNS: tuple[tuple[str, set[str]], ...] = (
    ("arena", {"conversation_a", "conversation_b", "winner"}),
    ("arena-kaggle", {"response_a", "response_b", "winner_model_a", "winner_model_b"}),
    ("ultrafeedback", {"instruction", "completions"}),
    ("helpsteer-preference", {"response_1", "response_2", "preference_strength"}),
    ("helpsteer-preference", {"response1", "response2", "overall_preference"}),
    ("helpsteer-preference", {"response1", "response2", "individual_preference"}),
    ("helpsteer", {"prompt", "response", "helpfulness"}),
    ("auto-j", {"response 1", "response 2", "label"}),
    ("pandalm", {"response1", "response2", "annotator1"}),
    ("qa-feedback", {"question", "prediction 1", "prediction 2", "preference"}),
    ("ukp-convarg1", {"pair_id", "response_a_id", "votes"}),
    ("ukp-convarg1", {"response_id", "topic", "text"}),
    ("rewardbench", {"chosen", "rejected", "chosen_model"}),
    ("rewardbench", {"chosen", "rejected", "num_correct"}),
    ("trl-unpaired", {"completion", "label"}),
)


def format_of(row: Row) -> str | None:
    """The format whose fields the row has, or None."""
    names = set(row)
    if isinstance(row.get("type"), str) and row["type"] in CALIPER_FIELDS:
        return "caliper"
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):
        return "label-studio"
    if isinstance(row.get("fields"), dict) and {"responses", "suggestions"} & names:
        return "argilla"
    if any(isinstance(name, str) and name.endswith(".responses") for name in names):
        return "argilla"
    if isinstance(row.get("label_annotations"), dict) and {"id", "instance_id"} & names:
        return "potato"
    for name, columns in _COLUMNS:
        if columns <= names:
            return name
    if {"chosen", "rejected"} <= names:
        return _preference(row)
    if "id" in names and any(_is_potato_answer(value) for value in row.values()):
        return "potato"
    return None


def _is_potato_answer(value: Any) -> bool:
    return isinstance(value, dict) and bool({"selection", "scale_value"} & set(value)) and len(value) <= 2


def _preference(row: Row) -> str:
    sides = row["chosen"], row["rejected"]
    if all(isinstance(side, list) and side and not are_messages(side) for side in sides):
        return "rewardbench"
    turns = sides if all(isinstance(side, dict) for side in sides) else [row.get("conversations")]
    if all(isinstance(one, dict) and "from" in one for one in sides) and is_given(row.get("conversations")):
        return "sharegpt"
    if are_messages(turns[0]) and "from" in turns[0][0]:  # type: ignore[index]
        return "sharegpt"
    asks = any(is_given(row.get(name)) for name in COLUMNS)
    return "hh-rlhf" if not asks and all(is_transcript(side) for side in sides) else "trl"


def _is_potato_item(row: Row) -> bool:
    lists = [row.get(name) for name in ("responses", "items", "text")]
    return "id" in row and (any(isinstance(one, list) for one in lists) or len(answer_columns(row)) == 2)


def samples(source: Source) -> dict[str, list[Any]]:
    """The columns of a file with up to three different values each, of its first rows."""
    columns: dict[str, list[Any]] = {}
    for number, row in rows(source):
        if isinstance(row, dict):
            for name, value in row.items():
                found = columns.setdefault(str(name), [])
                if len(found) < SAMPLES and is_given(value) and value not in found:
                    found.append(value)
        if number >= LOOKED_AT:
            break
    return columns


def recognise(sources: Sequence[Source]) -> str:
    """The one format of all the files, from the first readable rows. Raises NotRecognised when a file has none."""
    found: dict[str, str] = {}
    items: set[str] = set()
    for source in sources:
        for number, row in rows(source):
            if isinstance(row, dict):
                if name := format_of(row):
                    found[source.name] = name
                    break
                if _is_potato_item(row):
                    items.add(source.name)
            if number >= LOOKED_AT:
                break
    if "potato" in found.values():
        # Potato's items stand in a file of their own beside the annotations.
        found |= dict.fromkeys(items - set(found), "potato")
    for source in sources:
        if source.name in found:
            continue
        columns = samples(source)
        first = (
            f"Its rows have the fields {', '.join(sorted(columns))[:200]}. "
            if columns
            else f"None of its rows could be read. {_first_problem(source)}"
        )
        message = (
            f"The format of {source.name} was not recognised. {first}"
            f"Known formats: {', '.join(PARSERS)}; the import page shows what they look like."
        )
        if not columns:
            raise ImportRefused(message)
        raise NotRecognised(message, source, columns)
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} ({format_name})" for name, format_name in found.items())
        raise ImportRefused(f"The files are of different formats: {listed}. Import them one after the other.")
    return next(iter(found.values()))


def _first_problem(source: Source) -> str:
    problem = next((row for _, row in rows(source) if isinstance(row, Problem)), None)
    return f"The first: {problem} " if problem else ""


def is_table(source: Source) -> bool:
    """Whether a file has only texts (CSV, TSV): lists of messages then stand in it as text."""
    return look(source).dialect is not None


def records(
    source: Source,
    format_name: str,
    on_progress: OnPosition = lambda position: None,
    tally: Tally | None = None,
    parse: Parser | None = None,
) -> Iterator[tuple[int, list[Record] | Problem]]:
    """(row number, the row's records or why it is left out) of a file in a known format.

    `tally` counts the columns that were not used, and what was done to rows on the way. `parse` stands in for the
    format's own reader.
    """
    parse = parse or PARSERS[format_name]
    table = is_table(source)
    for number, row in rows(source, on_progress):
        if isinstance(row, Problem):
            yield number, row
            continue
        try:
            read = ReadRow(row, source=source.name, table=table)
            found = parse(read)
            if tally is not None:
                tally.add(read)
            yield number, found
        except RowError as error:
            yield number, Problem(source.name, number, error.field, error.message, error.remedy)
        except RecursionError:
            yield number, Problem(source.name, number, "", "is nested too deeply.", "Flatten it.")
        except (OverflowError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            # A value of a kind that no field check thought of costs its row, not the file.
            logger.exception("row %s of %s cannot be taken", number, source.name)
            message = f"cannot be taken ({printable(f'{type(error).__name__}: {error}')[:200]})."
            yield number, Problem(source.name, number, "", message, "Look for a value of an unusual kind.")
