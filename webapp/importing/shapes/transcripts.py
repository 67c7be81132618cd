"""hh-rlhf: transcripts of Human and Assistant, taken apart by speaker.

The standard form of a turn is two line ends, the speaker, a colon, one space and what was said; this is what is
exported. CR LF, single line ends and a missing space are read as well; the turns' own text is never changed.
"""

import re
from typing import Any, NamedTuple

from django.conf import settings

from webapp.corpus.conversations import Message, answer_text, is_plain
from webapp.importing.fields import RowError, check_text, is_visible
from webapp.importing.shapes.making import Answer

SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system", "Tool": "tool"}
_NAMES = "|".join(SPEAKERS)
_START = re.compile(rf"\s*({_NAMES}):")
_DOUBLE = re.compile(rf"(?:\r\n\r\n|\n\n)({_NAMES}):")
_SINGLE = re.compile(rf"\r?\n({_NAMES}):")
ODD_FORM = (
    "transcripts whose line ends or spaces are not the standard ones: the turns are kept, an export writes "
    "“\\n\\nHuman: …\\n\\nAssistant: …”"
)


class Turn(NamedTuple):
    speaker: str
    text: str
    # Where what was said begins in the transcript.
    start: int

    @property
    def message(self) -> Message:
        return {"role": SPEAKERS[self.speaker], "content": self.text}


def is_transcript(value: Any) -> bool:
    return isinstance(value, str) and bool(_START.match(value))


def separator(*transcripts: str) -> re.Pattern[str]:
    """What parts the turns: empty lines where there are any before a speaker, else line ends."""
    for text in transcripts:
        start = _START.match(text)
        if start and _DOUBLE.search(text, start.end()):
            return _DOUBLE
    return _SINGLE


def turns(text: str, parted_by: re.Pattern[str]) -> list[Turn]:
    start = _START.match(text)
    assert start is not None
    marks = [start, *parted_by.finditer(text, start.end())]
    found = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        end = following.start() if following else len(text)
        begin = mark.end() + (text[mark.end() : mark.end() + 1] == " " and mark.end() < end)
        found.append(Turn(mark[1], text[begin:end], begin))
    return found


def standard(parts: list[Turn]) -> str:
    return "".join(f"\n\n{part.speaker}: {part.text}" for part in parts)


def part(chosen: str, rejected: str) -> tuple[list[Message], Answer, Answer, bool]:
    """The shared turns, the two answers (which may run over turns), and whether both have the standard form."""
    parted_by = separator(chosen, rejected)
    first, second = turns(chosen, parted_by), turns(rejected, parted_by)
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared].message == second[shared].message:
        shared += 1
    # An answer begins with the assistant: step back where they part at a human turn.
    while shared and not (first[shared].speaker == second[shared].speaker == "Assistant"):
        shared -= 1
    if not shared:
        raise RowError(
            "rejected", "shares no first turn with chosen.", "Both have to begin with the same prompt."
        )
    messages = [turn.message for turn in first[:shared]]
    if not any(is_visible(message["content"]) for message in messages):
        raise RowError("chosen", "has an empty prompt.", "Give the prompt a text.")
    answers = _answer("chosen", chosen, first[shared:]), _answer("rejected", rejected, second[shared:])
    return messages, *answers, standard(first) == chosen and standard(second) == rejected


def _answer(field: str, transcript: str, rest: list[Turn]) -> Answer:
    """The rest of a transcript as it stands there; also as messages, where these are all that it says."""
    text = check_text(field, transcript[rest[0].start :], limit=settings.MAX_TEXT_BYTES)
    messages = [turn.message for turn in rest]
    whole = messages[-1]["role"] == "assistant" and answer_text(messages) == text
    return Answer(text, messages if whole and not is_plain(messages) else None)


def prompt_turns(prompt: str, chosen: str, rejected: str) -> tuple[list[Message], str, str, bool] | None:
    """A prompt that is a transcript, with the answers behind it: its turns and the answers, None if it is plain text.

    The last mark, “Assistant:”, opens the answer, be it the prompt's or the answers' own first words.
    """
    if not is_transcript(prompt):
        return None
    parted_by = separator(prompt + chosen, prompt + rejected)
    found = turns(prompt, parted_by)
    opened = found[-1]
    if opened.speaker == "Assistant" and not opened.text.strip():
        if len(found) == 1:
            return None
        bare = prompt.endswith(":")
        answers = [text[1:] if bare and text.startswith(" ") else text for text in (chosen, rejected)]
        fine = standard(found).rstrip(" ") == prompt.rstrip(" ") and (
            not bare or (chosen[:1], rejected[:1]) == (" ", " ")
        )
        return [turn.message for turn in found[:-1]], answers[0], answers[1], fine
    marks = [
        re.match(r"(?:\r\n){1,2}Assistant:( ?)|\n{1,2}Assistant:( ?)", text) for text in (chosen, rejected)
    ]
    if all(marks):
        answers = [text[mark.end() :] for text, mark in zip((chosen, rejected), marks, strict=True) if mark]
        return [turn.message for turn in found], answers[0], answers[1], standard(found) == prompt
    if len(found) > 1:
        return [turn.message for turn in found], chosen, rejected, False
    return None
