"""PandaLM and Auto-J: two responses to an instruction, and who is better, in one row."""

import re
from typing import Any

from webapp.importing.fields import RowError, id_of, is_given, optional, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.making import Answer, pair_records, said
from webapp.importing.shapes.prompts import required
from webapp.importing.shapes.records import Record
from webapp.importing.shapes.tracking import number_in


def parse_pandalm(row: Row) -> list[Record]:
    question = required(row)
    key = optional(row, "cmp_key", id_of)
    models = key.split("_") if key.count("_") == 1 else ["", ""]
    # Of a name with more underscores nobody knows where it parts.
    metadata: dict[str, Any] = {"cmp_key": key} if key and key.count("_") != 1 else {}
    a, b = (Answer(text_of(row, f"response{i}"), None, models[i - 1], metadata) for i in (1, 2))
    fields = sorted(
        (field for field in row if re.fullmatch(r"annotator\d{1,3}", field)), key=lambda name: int(name[9:])
    )
    votes = [
        said(field, ("tie", "a", "b")[choice])
        for field in fields
        if (choice := _choice(row, field, (0, 1, 2), "Write 0 (tie), 1 or 2.")) is not None
    ]
    return pair_records(
        "pandalm", question.messages, a, b, votes, fields=("response1", "response2"), tools=question.tools
    )


def _choice(row: Row, field: str, allowed: tuple[int, ...], remedy: str) -> int | None:
    value = row.get(field)
    try:
        number = None if isinstance(value, bool) else number_in(row, field)
    except RowError:
        number = -1
    if (number is None and is_given(value)) or (number is not None and number not in allowed):
        raise RowError(field, f"is {str(value)[:40]!r}.", remedy)
    return None if number is None else int(number)


def parse_autoj(row: Row) -> list[Record]:
    """label 0: the first is better, 1: the second, 2: a tie."""
    question = required(row)
    metadata = {"scenario": id_of(row, "scenario")} if is_given(row.get("scenario")) else {}
    label = _choice(row, "label", (0, 1, 2), "Write 0 (the first), 1 (the second) or 2 (tie).")
    if label is None:
        raise RowError("label", "is missing.", "Write 0 (the first), 1 (the second) or 2 (tie).")
    a, b = (Answer(text_of(row, f"response {i}"), None, "", metadata) for i in (1, 2))
    vote = said("auto-j", ("a", "b", "tie")[label])
    fields = ("response 1", "response 2")
    return pair_records("auto-j", question.messages, a, b, [vote], fields=fields, tools=question.tools)
