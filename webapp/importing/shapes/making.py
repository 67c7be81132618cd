"""From neutral parts to records: what a row says, whatever its columns were called.

Every reader ends here, and so does a mapping of columns: messages and tools make a prompt, texts or messages an
`Answer`, and `said` one annotator's word. Ids are made from the content.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from django.conf import settings

from webapp.corpus.conversations import Message, answer_text, is_plain
from webapp.corpus.models import messages_digest
from webapp.importing.fields import RowError, check_text, short_digest
from webapp.importing.reading import json_type
from webapp.importing.shapes.messages import messages_of
from webapp.importing.shapes.records import (
    LevelRecord,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)

MAX_ANSWERS = 50


@dataclass(frozen=True)
class Answer:
    """One response: its text, its messages where it is more than a text, and who wrote it."""

    text: str
    messages: list[Message] | None = None
    author: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def by(self, author: str, metadata: dict[str, Any] | None = None) -> "Answer":
        return replace(self, author=author, metadata=self.metadata if metadata is None else metadata)

    @property
    def content(self) -> tuple[str, Any]:
        return self.text, self.messages


def answer_of(name: str, value: Any) -> Answer:
    """An answer from a text, or from messages that begin and end with the assistant's."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return Answer(check_text(name, value, limit=settings.MAX_TEXT_BYTES))
    return answer_of_messages(name, messages_of(name, value, spoken_of=False))


def answer_of_messages(name: str, messages: Sequence[Message]) -> Answer:
    for message, place in ((messages[0], "begins"), (messages[-1], "ends")):
        if message["role"] != "assistant":
            raise RowError(
                name,
                f"{place} with a message of role {message['role']}, where the answer is expected.",
                "An answer begins and ends with a message of the assistant.",
            )
    text = check_text(name, answer_text(messages), limit=settings.MAX_TEXT_BYTES)
    return Answer(text, None if is_plain(messages) else list(messages))


def prompt_record(
    source: str, messages: Sequence[Message], *, tools: Sequence[Any] = (), group: str = "", id: str = ""
) -> PromptRecord:
    id = id or f"{source}-{messages_digest(list(messages), list(tools))[:16]}"
    return PromptRecord(id, list(messages), group, tuple(tools))


def response_record(prompt: PromptRecord, answer: Answer) -> ResponseRecord:
    parts = [answer.author] if answer.author else []
    parts.append(messages_digest(answer.messages) if answer.messages else answer.text)
    id = f"{prompt.id}-{short_digest(*parts)[:12]}"
    return ResponseRecord(id, prompt.id, answer.text, answer.author, answer.metadata, answer.messages)


def said(
    annotator: str, verdict: str, *, strength: int | None = None, comment: str = "", created_at: str = ""
) -> VoteRecord:
    """One annotator's verdict on a pair that is named later."""
    return VoteRecord(
        "", "", "", annotator, verdict, strength=strength, comment=comment, created_at=created_at
    )


def pair_records(
    source: str,
    messages: Sequence[Message],
    a: Answer,
    b: Answer,
    votes: Sequence[VoteRecord],
    *,
    fields: tuple[str, str] = ("chosen", "rejected"),
    tools: Sequence[Any] = (),
    group: str = "",
) -> list[Record]:
    """A prompt, two answers, their pair, and what was said on it."""
    if (a.content, a.author) == (b.content, b.author):
        same = "text" if not a.author else "answer of the same author"
        raise RowError(
            fields[1], f"is the same {same} as {fields[0]}.", "A preference needs two different answers."
        )
    prompt = prompt_record(source, messages, tools=tools, group=group)
    first, second = response_record(prompt, a), response_record(prompt, b)
    return [
        prompt,
        first,
        second,
        PairRecord("", first.id, second.id),
        *(vote._replace(a=first.id, b=second.id) for vote in votes),
    ]


def scored_records(
    source: str,
    messages: Sequence[Message],
    answers: Sequence[tuple[Answer, float | None]],
    *,
    annotator: str,
    tools: Sequence[Any] = (),
    group: str = "",
    name: str = "completions",
) -> list[Record]:
    """A prompt and scored answers: each pair is a vote for the higher score, or a tie; without a score, none."""
    if len(answers) > MAX_ANSWERS:
        raise RowError(name, f"has {len(answers)} answers, of {MAX_ANSWERS} allowed.", "Leave some out.")
    prompt = prompt_record(source, messages, tools=tools, group=group)
    scored = [(response_record(prompt, answer), score) for answer, score in answers]
    records: list[Record] = [prompt, *{record.id: record for record, _ in scored}.values()]
    for (a, score_a), (b, score_b) in combinations(scored, 2):
        if score_a is None or score_b is None or a.id == b.id:
            continue
        verdict = "tie" if score_a == score_b else "a" if score_a > score_b else "b"
        records += [PairRecord("", a.id, b.id), VoteRecord("", a.id, b.id, annotator, verdict)]
    return records


def level_records(
    source: str,
    messages: Sequence[Message],
    answer: Answer,
    levels: Sequence[tuple[str, str, str]] = (),
    *,
    tools: Sequence[Any] = (),
    group: str = "",
) -> list[Record]:
    """A prompt, one answer, and its quality levels as (annotator, level, comment)."""
    prompt = prompt_record(source, messages, tools=tools, group=group)
    response = response_record(prompt, answer)
    return [
        prompt,
        response,
        *(LevelRecord(response.id, annotator, level, comment) for annotator, level, comment in levels),
    ]


def level_of(rating: float, bad_to: float, normal_to: float) -> str:
    """The level of a rating by its cut points: bad and normal end there, good is above."""
    return "bad" if rating <= bad_to else "normal" if rating <= normal_to else "good"


def verdict_of(signed: float) -> str:
    """A signed preference as HelpSteer and Potato write it: negative for the first answer, zero a tie."""
    return "tie" if signed == 0 else "a" if signed < 0 else "b"


def listed(name: str, value: Any, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(name, f"is {json_type(value)}.", "Write a list.")
    if len(value) > limit:
        raise RowError(name, f"has {len(value):,} entries, of {limit:,} allowed.", "Split the row.")
    return value
