"""Reading rows of any columns by a mapping: somebody has said which column is what, and what its values mean.

A `Mapping` names the role of each column (ROLES), the meaning of the winner's values, and what ratings become. It is
kept as JSON with its import. `Reader` turns a row into records by it. A value that the mapping doesn't cover costs its
row, by name.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings

from webapp.corpus.conversations import Message
from webapp.corpus.models import messages_digest
from webapp.importing.cells import parsed_cell
from webapp.importing.fields import (
    ANY_NUMBER,
    RowError,
    check_text,
    comment_of,
    id_of,
    is_given,
    name_of,
    number_from,
    short_digest,
)
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.making import Answer, answer_of
from webapp.importing.shapes.messages import messages_of
from webapp.importing.shapes.records import (
    MAX_VOTES,
    LevelRecord,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)
from webapp.labels.models import LEVELS

ROLES = {
    "prompt": "prompt",
    "system": "system prompt",
    "history": "earlier turns, or the whole conversation",
    "a": "response A",
    "b": "response B",
    "chosen": "chosen response",
    "rejected": "rejected response",
    "response": "response (one of several, or a list)",
    "author_a": "author of A",
    "author_b": "author of B",
    "author": "author of the response",
    "winner": "winner",
    "rating_a": "rating of A",
    "rating_b": "rating of B",
    "rating": "rating of the response",
    "annotator": "annotator",
    "comment": "comment",
    "group": "group",
    "id": "id of the pair or response",
    "prompt_id": "id of the prompt",
}
# These may be said of several columns; all others of one.
SEVERAL = {"response", "winner", "rating", "author"}
MEANINGS = {
    "a": "A is better",
    "b": "B is better",
    "tie": "tie",
    "both_bad": "both are bad",
    "skip": "skipped",
    "none": "no verdict: to be judged",
    "a3": "A is much better",
    "a2": "A is better, clearly",
    "a1": "A is slightly better",
    "b1": "B is slightly better",
    "b2": "B is better, clearly",
    "b3": "B is much better",
    "row": "names a model, or repeats a response",
}
USES = {
    "levels": "quality levels, by cut points",
    "pairs": "verdicts on pairs, by difference",
    "both": "both: levels and verdicts",
}
ANNOTATOR = "imported"
MAX_RESPONSES = 100


@dataclass
class Mapping:
    """Which column is what. `roles` has every column of the files; those with the role "" are not used."""

    roles: dict[str, str] = field(default_factory=dict)
    winner: dict[str, str] = field(default_factory=dict)
    ratings: str = "levels"
    bad_to: float | None = None
    normal_to: float | None = None
    difference: float = 1.0
    annotator: str = ANNOTATOR

    def columns(self, role: str) -> list[str]:
        return [column for column, is_a in self.roles.items() if is_a == role]

    def column(self, role: str) -> str | None:
        return next(iter(self.columns(role)), None)

    @property
    def has_ratings(self) -> bool:
        return bool({"rating", "rating_a", "rating_b"} & set(self.roles.values()))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Mapping":
        return cls(**{name: kept[name] for name in cls.__dataclass_fields__ if name in kept})

    def errors(self) -> dict[str, str]:
        """What is wrong with the mapping, by column (or by the name of another field)."""
        found: dict[str, str] = {}
        roles = set(self.roles.values())
        for role, name in ROLES.items():
            for column in self.columns(role)[1:]:
                if role not in SEVERAL:
                    found[column] = f"“{self.column(role)}” is the {name} already. Choose one of the two."
        if not roles & {"prompt", "history"}:
            found["roles"] = "Say which column is the prompt (or the conversation)."
        elif not roles & {"a", "b", "chosen", "rejected", "response"}:
            found["roles"] = "Say which columns are the responses."
        for one, other in (("a", "b"), ("b", "a"), ("chosen", "rejected"), ("rejected", "chosen")):
            if one in roles and other not in roles:
                found["roles"] = f"Say which column is the {ROLES[other]} as well."
        layouts = [one for one in ({"a", "b"}, {"chosen", "rejected"}, {"response"}) if roles & one]
        if len(layouts) > 1:
            found["roles"] = (
                "Responses are either A and B, or chosen and rejected, or several: not two of these."
            )
        for role in ("rating_a", "rating_b", "author_a", "author_b"):
            if role in roles and not roles & {"a", "chosen"}:
                found[self.column(role) or "roles"] = f"There is no response that the {ROLES[role]} is of."
        if "winner" in roles and "chosen" in roles:
            found[self.column("winner") or ""] = "Chosen and rejected say who won. Don't use this column."
        if len(self.columns("response")) > 1:
            for role in ("rating", "author"):
                if self.columns(role) and len(self.columns(role)) != len(self.columns("response")):
                    found[self.columns(role)[0]] = (
                        f"Each response needs a {role} of its own, or none has one."
                    )
        if self.has_ratings:
            found |= self._rating_errors(roles)
        if not self.annotator.strip() or len(self.annotator) > 80 or not self.annotator.isprintable():
            found["annotator"] = "Write a name of at most 80 printable characters."
        return found

    def _rating_errors(self, roles: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.ratings not in USES:
            found["ratings"] = "Choose what ratings become."
        if self.ratings != "pairs":
            for name, value in (("bad_to", self.bad_to), ("normal_to", self.normal_to)):
                if value is None or not math.isfinite(value):
                    found[name] = "Write a number."
            if not found and (self.normal_to or 0) <= (self.bad_to or 0):
                found["normal_to"] = "“normal” has to end above “bad”."
        if self.ratings != "levels":
            if not math.isfinite(self.difference) or self.difference <= 0:
                found["difference"] = "Write a number above 0."
            if roles & {"winner", "chosen"}:
                found["ratings"] = "The winner is in another column already. Make levels of the ratings."
        return found


def value_key(value: Any) -> str:
    """How a value of the winner column is told from others: whatever case, and 1.0 like 1. Blank: not given."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)
    if not isinstance(value, str):
        raise ValueError(f"is {json_type(value)}.")
    key = value.strip().casefold()
    head, dot, zeros = key.partition(".")
    return head if dot and zeros and not zeros.strip("0") and head.lstrip("-").isdecimal() else key


def conversation(column: str, value: Any) -> list[Message]:
    """Messages of a column, in any of the forms that messages_of reads; a text is one user turn."""
    value = parsed_cell(value)
    if isinstance(value, str):
        return [{"role": "user", "content": check_text(column, value, limit=settings.MAX_TEXT_BYTES)}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowError(
            column, f"is {json_type(value)}.", "Write a text, or a list of {role, content} messages."
        )
    return messages_of(column, value)


@dataclass
class _Answer:
    """One response of a row, with what the row says of it."""

    column: str
    said: Answer
    author: str = ""
    rating: Any = None
    id: str = ""

    @property
    def text(self) -> str:
        return self.said.text


class Reader:
    """Reads rows by a mapping; counts the values in columns that are not used."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._unused: dict[str, int] = {
            column: 0 for column, role in mapping.roles.items() if role not in ROLES
        }
        self._used = {column for column, role in mapping.roles.items() if role in ROLES}

    def unused(self) -> dict[str, int]:
        return {column: count for column, count in self._unused.items() if count}

    def __call__(self, row: Row) -> list[Record]:
        for column, value in row.items():
            if column not in self._used and is_given(value):
                self._unused[column] = self._unused.get(column, 0) + 1
        answers = self._answers(row)
        messages = self._messages(row)
        prompt = self._id(row, "prompt_id") or f"mapped-{messages_digest(messages)[:16]}"
        records: list[Record] = [PromptRecord(prompt, messages, self._id(row, "group"))]
        own = self._id(row, "id")
        for place, answer in enumerate(answers, start=1):
            said = json.dumps(answer.said.messages, sort_keys=True) if answer.said.messages else answer.text
            answer.id = f"{prompt}-{short_digest(answer.author, said)[:12]}"
            if own and len(answers) != 2:
                answer.id = own if len(answers) == 1 else f"{own}-{place}"
            records.append(
                ResponseRecord(answer.id, prompt, answer.text, answer.author, {}, answer.said.messages)
            )
        if len(answers) == 2:
            if answers[0].id == answers[1].id:
                raise RowError(
                    answers[1].column,
                    "is the same as the other response.",
                    "A pair needs two different ones.",
                )
            records.append(PairRecord(own, answers[0].id, answers[1].id))
        return [*records, *self._votes(row, answers), *self._levels(row, answers)]

    def _value(self, row: Row, role: str) -> Any:
        column = self.mapping.column(role)
        value = row.get(column) if column else None
        return value if is_given(value) else None

    def _id(self, row: Row, role: str) -> str:
        column = self.mapping.column(role)
        return "" if column is None or not is_given(row.get(column)) else _named(row, column)

    # --- Prompt and responses ---

    def _messages(self, row: Row) -> list[Message]:
        messages: list[Message] = []
        history, prompt = self._value(row, "history"), self._value(row, "prompt")
        if history is not None:
            messages = conversation(self.mapping.column("history") or "", history)
        if prompt is not None:
            asked = conversation(self.mapping.column("prompt") or "", prompt)
            # The turns may stand in both columns; they are kept once.
            if asked[: len(messages)] == messages:
                messages = asked
            elif messages[-len(asked) :] != asked:
                messages = [*messages, *asked]
        if not messages:
            column = self.mapping.column("prompt") or self.mapping.column("history") or ""
            raise RowError(column, "is empty.", "Give the row a prompt, or leave it out.")
        if (system := self._value(row, "system")) is not None:
            column = self.mapping.column("system") or ""
            said = {"role": "system", "content": check_text(column, system, limit=settings.MAX_TEXT_BYTES)}
            if messages[0]["role"] != "system":
                messages = [said, *messages]
            elif messages[0] != said:
                raise RowError(
                    column, "differs from the conversation's system prompt.", "Keep one of the two."
                )
        return messages_of(self.mapping.column("prompt") or self.mapping.column("history") or "", messages)

    def _answers(self, row: Row) -> list[_Answer]:
        mapping = self.mapping
        if columns := mapping.columns("response"):
            return self._several(row, columns)
        first, second = ("a", "b") if mapping.column("a") else ("chosen", "rejected")
        found = []
        for role, side in ((first, "a"), (second, "b")):
            column = mapping.column(role) or ""
            if not is_given(row.get(column)) and role in ("a", "b"):
                continue  # a row of one response
            author = mapping.column(f"author_{side}")
            rated = mapping.column(f"rating_{side}")
            found.append(
                _Answer(
                    column,
                    _answer_in(column, row.get(column)),
                    _named(row, author) if author and is_given(row.get(author)) else "",
                    row.get(rated) if rated else None,
                )
            )
        if not found:
            raise RowError(
                mapping.column(first) or "", "is empty.", "Give the row a response, or leave it out."
            )
        return found

    def _several(self, row: Row, columns: list[str]) -> list[_Answer]:
        mapping = self.mapping
        authors, ratings = mapping.columns("author"), mapping.columns("rating")
        listed = parsed_cell(row.get(columns[0])) if len(columns) == 1 else None
        if isinstance(listed, list) and not _is_conversation(listed):
            found = self._listed(row, columns[0], listed)
        else:
            found = []
            for place, column in enumerate(columns):
                if not is_given(row.get(column)):
                    continue
                author = authors[place] if place < len(authors) else None
                rated = row.get(ratings[place]) if place < len(ratings) else None
                name = _named(row, author) if author and is_given(row.get(author)) else ""
                found.append(_Answer(column, _answer_in(column, row[column]), name, rated))
        if not found:
            raise RowError(columns[0], "is empty.", "Give the row a response, or leave it out.")
        return found

    def _listed(self, row: Row, column: str, listed: list[Any]) -> list[_Answer]:
        if len(listed) > MAX_RESPONSES:
            raise RowError(
                column, f"has {len(listed):,} responses, of {MAX_RESPONSES} allowed.", "Split the row."
            )
        found = []
        for place, item in enumerate(listed, start=1):
            name = f"{column}[{place}]"
            if isinstance(item, dict):
                of = {key: item[key] for key in item if is_given(item[key])}
                text = _first_of(
                    of, ("text", "response", "content", "answer", "completion", "output", "value")
                )
                author = _first_of(of, ("author", "model", "model_name", "name"))
                rating = _first_of(of, ("rating", "score", "overall_score"))
                author = "" if author is None else id_of({name: author}, name)
            else:
                text, author, rating = item, "", None
            found.append(_Answer(name, _answer_in(name, text), author, rating))
        for role, attribute in (("author", "author"), ("rating", "rating")):
            beside = parsed_cell(self._value(row, role))
            if isinstance(beside, list):
                other = self.mapping.column(role) or ""
                if len(beside) != len(found):
                    raise RowError(
                        other,
                        f"has {len(beside)} entries for {len(found)} responses.",
                        "Give each response one.",
                    )
                for answer, value in zip(found, beside, strict=True):
                    if is_given(value):
                        setattr(
                            answer, attribute, value if role == "rating" else id_of({other: value}, other)
                        )
        return found

    # --- Labels ---

    def _annotator(self, row: Row) -> str:
        column = self.mapping.column("annotator")
        if column is None or not is_given(row.get(column)):
            return self.mapping.annotator
        return name_of({column: _number_as_text(row[column])}, column)

    def _votes(self, row: Row, answers: list[_Answer]) -> list[VoteRecord]:
        comment_column = self.mapping.column("comment")
        comment = comment_of(row, comment_column) if comment_column else ""
        annotator = self._annotator(row)
        verdicts: list[tuple[str, int, int, str, int | None]] = []
        winners = self.mapping.columns("winner")
        if self.mapping.column("chosen"):
            verdicts.append((annotator, 0, 1, "a", None))
        for column in winners:
            who = annotator
            if len(winners) > 1 and self.mapping.column("annotator") is None:
                who = name_of({column: column}, column)
            verdicts += [(who, *said) for said in self._verdicts(row, column, answers)]
        if self.mapping.has_ratings and self.mapping.ratings != "levels":
            verdicts += [(annotator, *said) for said in self._by_difference(answers)]
        if len(verdicts) > MAX_VOTES:
            raise RowError(
                "", f"makes {len(verdicts):,} verdicts, of {MAX_VOTES:,} allowed.", "Split the row."
            )
        records: list[Any] = []
        for who, first, second, verdict, strength in verdicts:
            a, b = answers[first].id, answers[second].id
            if len(answers) > 2:
                if a == b:
                    continue
                records.append(PairRecord("", a, b))
            records.append(VoteRecord("", a, b, who, verdict, strength, comment))
        return records

    def _verdicts(
        self, row: Row, column: str, answers: list[_Answer]
    ) -> list[tuple[int, int, str, int | None]]:
        """(first response, second, verdict, strength) by the meaning of the row's value; none where it is blank."""
        value = row.get(column)
        try:
            key = value_key(value)
        except ValueError as error:
            raise RowError(column, str(error), "Write a text or a number.") from None
        if not key:
            return []
        meaning = self.mapping.winner.get(key, "row")
        best: int | None = None
        if meaning == "row":
            best = _named_by_row(value, answers)
            if best is None:
                raise RowError(
                    column,
                    f"is “{str(value).strip()[:40]}”, and the mapping does not say what that means.",
                    "Change the mapping, or mend the value.",
                )
        elif meaning[0] == "r" and meaning[1:].isdecimal():
            best = int(meaning[1:]) - 1
        elif meaning[0] in "ab" and meaning[1:] in ("", "1", "2", "3") and len(answers) > 2:
            best = "ab".index(meaning[0])
        if meaning == "none":
            return []
        if len(answers) < 2 or (best is not None and best >= len(answers)):
            raise RowError(
                column,
                f"is “{str(value).strip()[:40]}”, but that response is not given.",
                "Add it, or clear this.",
            )
        if best is not None:
            if len(answers) == 2:
                return [(0, 1, "ab"[best], None)]
            return [(best, other, "a", None) for other in range(len(answers)) if other != best]
        if len(answers) > 2:
            pairs = itertools.combinations(range(len(answers)), 2)
            return [(first, second, meaning, None) for first, second in pairs]
        strength = int(meaning[1:]) if meaning[:1] in ("a", "b") and meaning[1:].isdecimal() else None
        return [(0, 1, meaning[0] if strength else meaning, strength)]

    def _rating(self, answer: _Answer) -> float | str | None:
        """A number, a level by its name, or None where it is not given."""
        value = answer.rating
        if isinstance(value, str) and (word := value.strip().casefold()) in LEVELS:
            return word
        if not is_given(value):
            return None
        return number_from(self._rating_column(answer), value, -ANY_NUMBER, ANY_NUMBER)

    def _rating_column(self, answer: _Answer) -> str:
        for role in ("a", "b", "chosen", "rejected"):
            if self.mapping.column(role) == answer.column:
                return (
                    self.mapping.column("rating_a" if role in ("a", "chosen") else "rating_b")
                    or answer.column
                )
        return self.mapping.column("rating") or answer.column

    def _by_difference(self, answers: list[_Answer]) -> list[tuple[int, int, str, int | None]]:
        ratings = [self._rating(answer) for answer in answers]
        found: list[tuple[int, int, str, int | None]] = []
        for (i, first), (j, second) in itertools.combinations(enumerate(ratings), 2):
            if first is None or second is None:
                continue
            if isinstance(first, str) or isinstance(second, str):
                raise RowError(
                    self._rating_column(answers[i]), "is a word.", "Write a number for a difference."
                )
            if first == second:
                found.append((i, j, "tie", None))
            elif abs(first - second) >= self.mapping.difference:
                found.append((i, j, "a" if first > second else "b", None))
        return found

    def _levels(self, row: Row, answers: list[_Answer]) -> list[LevelRecord]:
        if not self.mapping.has_ratings or self.mapping.ratings == "pairs":
            return []
        bad_to, normal_to = self.mapping.bad_to, self.mapping.normal_to
        assert bad_to is not None
        assert normal_to is not None
        found = []
        for answer in answers:
            rating = self._rating(answer)
            if rating is None:
                continue
            if not isinstance(rating, str):
                rating = "bad" if rating <= bad_to else "normal" if rating <= normal_to else "good"
            found.append(LevelRecord(answer.id, self._annotator(row), rating))
        return found


def _named_by_row(value: Any, answers: Sequence[_Answer]) -> int | None:
    """Which response the value names by its author, its column, or by repeating its text; None if not just one."""
    for told in (
        [answer.text == value for answer in answers],
        [bool(answer.author) and value_key(value) == value_key(answer.author) for answer in answers],
        [value_key(value) == value_key(answer.column) for answer in answers],
    ):
        if told.count(True) == 1:
            return told.index(True)
    return None


def _answer_in(column: str, value: Any) -> Answer:
    """The answer that a cell holds: a text, or the assistant's messages."""
    if value is None:
        raise RowError(column, "is missing.", "Add it.")
    found = parsed_cell(value)
    if isinstance(found, list | dict) and (_is_conversation(found) or not isinstance(value, str)):
        return answer_of(column, found if isinstance(found, list) else [found])
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a spreadsheet's column of whole numbers
    return Answer(check_text(column, value, limit=settings.MAX_TEXT_BYTES))


def _is_conversation(value: Any) -> bool:
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict) and (turn.keys() >= {"role", "content"} or turn.keys() >= {"from", "value"})
        for turn in turns
    )


def _number_as_text(value: Any) -> Any:
    """Spreadsheets make numbers of what looks like one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _named(row: Row, column: str) -> str:
    return id_of({column: _number_as_text(row[column])}, column)


def _first_of(of: dict[str, Any], names: Sequence[str]) -> Any:
    return next((of[name] for name in names if name in of), None)
