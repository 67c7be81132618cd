"""LMArena: battles of two models in whole conversations, and the table of the Kaggle competition."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from webapp.corpus.conversations import Message
from webapp.importing.fields import (
    RowError,
    check_text,
    id_of,
    integer_of,
    is_given,
    name_of,
    optional,
    time_of,
)
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.making import answer_of_messages, pair_records, said
from webapp.importing.shapes.messages import list_in, messages_of, split, tools_of
from webapp.importing.shapes.records import Record
from webapp.importing.shapes.tracking import number_in

WINNERS = {
    "model_a": "a", "model_b": "b", "a": "a", "b": "b", "tie": "tie", "tie (bothbad)": "both_bad",
    "tie (both bad)": "both_bad", "both_bad": "both_bad", "bothbad": "both_bad", "both bad": "both_bad",
}  # fmt: skip


def parse_arena(row: Row) -> list[Record]:
    winner = row.get("winner")
    verdict = WINNERS.get(winner.strip().lower()) if isinstance(winner, str) else None
    if verdict is None:
        what = f"“{winner[:40]}”" if isinstance(winner, str) else json_type(winner)
        raise RowError("winner", f"is {what}.", "Write model_a, model_b, tie or tie (bothbad).")
    talks = []
    for field in ("conversation_a", "conversation_b"):
        value = row.get(field)
        if isinstance(value, str):
            value = list_in(field, value) or value
        talks.append(messages_of(field, value, row=row))
    annotator = next(
        (name_of(row, name) for name in ("judge", "judge_hash") if is_given(row.get(name))), "arena"
    )
    return _battle(row, talks[0], talks[1], annotator, verdict, created_at=_moment(row))


def _battle(
    row: Row,
    first: list[Message],
    second: list[Message],
    annotator: str,
    verdict: str,
    *,
    created_at: str = "",
) -> list[Record]:
    shared = split(first, second)
    if not shared:
        field = "conversation_b"
        raise RowError(
            field, "begins otherwise than conversation_a.", "Both have to begin with the same turns."
        )
    a, b = (
        answer_of_messages(f"conversation_{side}", talk[shared:]).by(optional(row, f"model_{side}", id_of))
        for side, talk in (("a", first), ("b", second))
    )
    vote = said(annotator, verdict, created_at=created_at)
    fields = ("conversation_a", "conversation_b")
    return pair_records("arena", first[:shared], a, b, [vote], fields=fields, tools=tools_of(row))


def _moment(row: Row) -> str:
    for name in ("tstamp", "timestamp"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and is_given(value):
            seconds = number_in(row, name, 0, 1e11) or 0.0
            return time_of({name: datetime.fromtimestamp(seconds, UTC)}, name)
        if is_given(value):
            if isinstance(value, str) and value.replace(".", "", 1).isdigit():
                seconds = number_in(row, name, 0, 1e11) or 0.0
                return time_of({name: datetime.fromtimestamp(seconds, UTC)}, name)
            return time_of(row, name)
    return ""


def parse_kaggle(row: Row) -> list[Record]:
    """One row of the 55k table: prompts and responses are lists of turns, written as text."""
    prompts = _turns(row, "prompt")
    talks: list[list[Message]] = []
    for side in "ab":
        field = f"response_{side}"
        answers = _turns(row, field)
        if len(answers) != len(prompts):
            message = f"has {len(answers)} turns, prompt has {len(prompts)}."
            raise RowError(field, message, "Give each question its answer.")
        talk: list[Message] = []
        for question, answer in zip(prompts, answers, strict=True):
            talk += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        talks.append(talk)
    names = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
    won = [verdict for name, verdict in names.items() if integer_of(row, name, 0, 1)]
    if len(won) != 1:
        raise RowError(
            "winner_model_a",
            f"and its fellows name {len(won)} winners.",
            "Write 1 in exactly one of the three.",
        )
    return _battle(row, talks[0], talks[1], "arena", won[0])


def _turns(row: Row, field: str) -> list[str]:
    value: Any = row.get(field)
    if isinstance(value, str):
        value = list_in(field, value)
    if not isinstance(value, list) or not value:
        raise RowError(field, "is no list of turns.", 'Write a JSON list of texts: ["…", "…"].')
    return [
        check_text(f"{field}[{place}]", text, limit=settings.MAX_TEXT_BYTES, empty=True)
        for place, text in enumerate(value, start=1)
    ]
