"""HelpSteer2 ratings (0 to 4) and the preferences of HelpSteer2 and HelpSteer3 (-3 to 3)."""

import re

from webapp.importing.fields import RowError, comment_of, integer_of, is_given, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.making import (
    Answer,
    answer_of,
    level_of,
    level_records,
    listed,
    pair_records,
    said,
    verdict_of,
)
from webapp.importing.shapes.messages import messages_of
from webapp.importing.shapes.prompts import Asked, required
from webapp.importing.shapes.records import Record, VoteRecord
from webapp.importing.shapes.tracking import ReadRow, number_in, reading

ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# Helpfulness: 0 and 1 are bad, 2 is normal, 3 and 4 are good.
BAD_TO, NORMAL_TO = 1, 2
# How HelpSteer2 writes a prompt of several turns in one text.
_MARK = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def parse_helpsteer(row: Row) -> list[Record]:
    question = _question(row)
    ratings = {name: number for name in ASPECTS if (number := number_in(row, name, 0, 4)) is not None}
    if "helpfulness" not in ratings:
        raise RowError("helpfulness", "is missing.", "Write a number from 0 to 4.")
    level = level_of(ratings["helpfulness"], BAD_TO, NORMAL_TO)
    answer = Answer(text_of(row, "response"), None, "", dict(ratings))
    return level_records(
        "helpsteer", question.messages, answer, [("helpsteer2", level, "")], tools=question.tools
    )


def _question(row: Row) -> Asked:
    found = required(row)
    if not found.text or not _MARK.search(found.text):
        return found
    first, *rest = _MARK.split(found.text)
    turns = [{"role": "user", "content": first}]
    turns += [
        {"role": "user" if role == "User" else "assistant", "content": text}
        for role, text in zip(rest[::2], rest[1::2], strict=True)
    ]
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return found._replace(messages=[*found.messages[:-1], *messages_of("prompt", turns)])


def parse_helpsteer_preference(row: Row) -> list[Record]:
    row = reading(row)
    fields = ("response_1", "response_2") if "response_1" in row else ("response1", "response2")
    question = _question(row)
    a, b = (answer_of(field, _response(row, field)) for field in fields)
    individual = row.get("individual_preference")
    overall = "preference_strength" if "preference_strength" in row else "overall_preference"
    strength = integer_of(row, overall, -3, 3)
    votes: list[VoteRecord] = []
    if is_given(individual):
        for place, one in enumerate(listed("individual_preference", individual, 100), start=1):
            votes.append(_individual(row, place, one))
        metadata = {} if strength is None else {overall: strength}
        a, b = a.by("", metadata), b.by("", metadata)
    elif strength is None:
        raise RowError(overall, "is missing.", "Write a whole number from -3 (the first) to 3 (the second).")
    else:
        comment = "\n\n".join(
            text
            for name in ("preference_statement", "preference_elaboration")
            if (text := comment_of(row, name)).strip()
        )
        annotator = "helpsteer3" if overall == "overall_preference" else "helpsteer2"
        votes.append(_vote(annotator, strength, comment))
    return pair_records("helpsteer", question.messages, a, b, votes, fields=fields, tools=question.tools)


def _response(row: Row, field: str) -> object:
    value = row.get(field)
    return value if isinstance(value, list) else text_of(row, field)


def _individual(row: ReadRow, place: int, value: object) -> VoteRecord:
    name = f"individual_preference[{place}]"
    if not isinstance(value, dict):
        raise RowError(name, "is no object.", "Write {score, reasoning, feedback1, feedback2}.")
    one = ReadRow(value)
    try:
        score = integer_of(one, "score", -3, 3)
        texts = [comment_of(one, "reasoning")]
        for side, field in (("A", "feedback1"), ("B", "feedback2")):
            if (text := comment_of(one, field)).strip():
                texts.append(f"{side}: {text}")
    except RowError as error:
        raise RowError(f"{name}.{error.field}", error.message, error.remedy) from None
    if score is None:
        raise RowError(f"{name}.score", "is missing.", "Write a whole number from -3 to 3.")
    row.beside |= {f"individual_preference[].{field}" for field in one.unused()}
    return _vote(f"helpsteer3-{place}", score, "\n\n".join(text for text in texts if text.strip()))


def _vote(annotator: str, strength: int, comment: str) -> VoteRecord:
    return said(annotator, verdict_of(strength), strength=abs(strength) or None, comment=comment)
