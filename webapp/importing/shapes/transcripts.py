"""hh-rlhf: transcripts of Human and Assistant, taken apart by speaker."""

import re
from typing import Any

from django.conf import settings

from webapp.importing.fields import Message, RowError, check_text, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.making import preference
from webapp.importing.shapes.records import Record

_SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}
_TURN = re.compile(r"\s*(Human|Assistant|System):")
_SPEAKER = re.compile(r"\n\n(Human|Assistant|System):")


def parse_hh(row: Row) -> list[Record]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not _TURN.match(text):
            remedy = "Write “\\n\\nHuman: …\\n\\nAssistant: …”, or import the file as TRL preference."
            raise RowError(field, "does not begin with “Human:” or “Assistant:”.", remedy)
    messages, texts = transcripts(chosen, rejected)
    return preference("hh", messages, *texts)


def transcripts(chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    """The shared turns are the prompt; the answers begin where the transcripts part (and may run over turns)."""
    turns = [_SPEAKER.split("\n\n" + text.lstrip())[1:] for text in (chosen, rejected)]
    first, second = ([(t[i], t[i + 1]) for i in range(0, len(t), 2)] for t in turns)
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    # An answer begins with the assistant: step back where they part at a human turn.
    while shared and not (first[shared][0] == second[shared][0] == "Assistant"):
        shared -= 1
    if not shared:
        raise RowError(
            "rejected", "shares no first turn with chosen.", "Both have to begin with the same prompt."
        )
    messages = [{"role": _SPEAKERS[speaker], "content": text.strip()} for speaker, text in first[:shared]]
    if not any(message["content"] for message in messages):
        raise RowError("chosen", "has an empty prompt.", "Give the prompt a text.")
    answers = []
    for field, rest in (("chosen", first[shared:]), ("rejected", second[shared:])):
        text = (rest[0][1] + "".join(f"\n\n{speaker}:{said}" for speaker, said in rest[1:])).strip()
        answers.append(check_text(field, text, limit=settings.MAX_TEXT_BYTES))
    return messages, (answers[0], answers[1])


def is_transcript(value: Any) -> bool:
    return isinstance(value, str) and bool(_TURN.match(value))
