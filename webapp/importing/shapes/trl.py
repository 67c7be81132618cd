"""TRL preference: chosen and rejected, with and without prompt, as texts and as lists of messages."""

import math
from typing import Any

from django.conf import settings

from webapp.importing.fields import (
    Message,
    RowError,
    check_text,
    messages_of,
    text_of,
)
from webapp.importing.reading import Row, json_kind
from webapp.importing.shapes.making import preference
from webapp.importing.shapes.records import Record
from webapp.importing.shapes.transcripts import is_transcript, transcripts


def parse_trl(row: Row) -> list[Record]:
    """All four shapes: with and without `prompt`, as texts and as lists of messages."""
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise RowError(field, "is missing.", "A preference needs chosen and rejected.")
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    conversational = isinstance(chosen, list)
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise RowError(
            "rejected",
            f"is {json_kind(rejected)}, chosen is {json_kind(chosen)}.",
            "Write both in the same way.",
        )
    if conversational:
        messages, texts = _conversational(
            prompt, messages_of("chosen", chosen), messages_of("rejected", rejected)
        )
    elif prompt is None:
        messages, texts = _implicit(text_of(row, "chosen"), text_of(row, "rejected"))
    else:
        if isinstance(prompt, list):
            messages = messages_of("prompt", prompt)
        else:
            messages = [{"role": "user", "content": text_of(row, "prompt")}]
        texts = text_of(row, "chosen"), text_of(row, "rejected")
    margin = row.get("margin")
    if margin is not None:
        try:  # CSV has only texts
            margin = float(margin) if isinstance(margin, str) and margin.strip() else margin
            fine = isinstance(margin, int | float) and not isinstance(margin, bool) and math.isfinite(margin)
        except (ValueError, OverflowError):
            fine = False
        if not fine:
            raise RowError("margin", f"is {json_kind(margin)}.", "Write a number, or leave the field out.")
    comment = "" if margin is None else f"margin {margin:g}"
    return preference("trl", messages, texts[0], texts[1], comment=comment)


def _conversational(
    prompt: Any, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], tuple[str, str]]:
    shared: list[Message] = []
    # The last message of each is its answer, unless it isn't the assistant's.
    while chosen and rejected and chosen[0] == rejected[0]:
        if chosen[0]["role"] == "assistant" and min(len(chosen), len(rejected)) == 1:
            break
        shared.append(chosen[0])
        chosen, rejected = chosen[1:], rejected[1:]
    if isinstance(prompt, list):
        shared = messages_of("prompt", prompt) + shared
    elif prompt is not None and not shared:
        shared = [{"role": "user", "content": check_text("prompt", prompt, limit=settings.MAX_TEXT_BYTES)}]
    for field, rest in (("chosen", chosen), ("rejected", rejected)):
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            remedy = "It has to end in exactly one assistant message that the other answer doesn't share."
            raise RowError(field, f"has {len(rest)} messages after the shared prompt.", remedy)
        check_text(field, rest[0]["content"], limit=settings.MAX_TEXT_BYTES)
    if not shared:
        raise RowError(
            "prompt", "is missing, and chosen and rejected share no first message.", "Add the prompt."
        )
    return shared, (chosen[0]["content"], rejected[0]["content"])


def _implicit(chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    """The shared beginning, up to a whole word, is the prompt; transcripts are taken apart by speaker."""
    if is_transcript(chosen) and is_transcript(rejected):
        return transcripts(chosen, rejected)
    length = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        length += 1
    # Back to a space, so that no answer begins in the middle of a word.
    while length and not chosen[length - 1].isspace():
        length -= 1
    prompt = chosen[:length].strip()
    if not prompt:
        raise RowError(
            "prompt", "is missing, and chosen and rejected share no beginning.", "Add a prompt field."
        )
    answers = chosen[length:].strip(), rejected[length:].strip()
    for field, text in zip(("chosen", "rejected"), answers, strict=True):
        check_text(field, text, limit=settings.MAX_TEXT_BYTES)
    return [{"role": "user", "content": prompt}], answers
