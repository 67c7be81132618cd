"""Where the prompt is: the columns that ask, put together as one conversation.

`system`, then `history`, then a list of messages, then the question itself. Nothing is guessed: columns that contradict
each other cost the row, and two plain texts are never cut where they begin alike.
"""

from typing import Any, NamedTuple

from django.conf import settings

from webapp.corpus.conversations import Message
from webapp.importing.fields import RowError, check_text, is_given, is_visible
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.messages import are_messages, conversation_in, list_in, messages_of, tools_of
from webapp.importing.shapes.tracking import ReadRow, reading

SYSTEMS = ("system", "system_prompt")
QUESTIONS = ("prompt", "question", "query", "instruction")
CONVERSATIONS = ("messages", "conversations", "conversation")
COLUMNS = (*SYSTEMS, "history", *CONVERSATIONS, "context", *QUESTIONS, "input")
MAP = "Keep one of them, or choose “columns named by hand” and say which is the prompt."


class Asked(NamedTuple):
    """What a row asks: its messages and tools. `text` is the question where it is one plain text."""

    messages: list[Message]
    tools: list[Any]
    text: str

    @property
    def system(self) -> list[Message]:
        return self.messages[:1] if self.messages and self.messages[0]["role"] == "system" else []


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def _texts(row: Row, names: tuple[str, ...]) -> tuple[str, str]:
    """(the column, its text) of columns that mean the same; of two that differ, none is guessed."""
    found: tuple[str, str] = ("", "")
    for name in names:
        if name not in row:
            continue
        value = conversation_in(row, name)
        if not is_given(value) or isinstance(value, list):
            continue
        text = check_text(name, value, limit=settings.MAX_TEXT_BYTES)
        if found[0] and text != found[1]:
            raise RowError(name, f"differs from {found[0]}, and either may be the prompt.", MAP)
        found = (found[0] or name, text)
    return found


def asked(row: Row, *, beside: tuple[list[Message], ...] = (), answers: tuple[str, ...] = ()) -> Asked | None:
    """What the columns of a row ask; None where there are none.

    `beside` are conversations that hold the prompt already: a column that repeats one of them adds nothing. `answers`
    are texts: a conversation that ends in one of them ends before it.
    """
    system = _texts(row, SYSTEMS)
    name, text = _texts(row, QUESTIONS)
    extra = _texts(row, ("input",))[1]
    context = conversation_in(row, "context")
    before = ""
    if is_given(context) and not isinstance(context, list):
        before = check_text("context", context, limit=settings.MAX_TEXT_BYTES)
    plain = text if not (extra or before) else ""
    text = "\n\n".join(one for one in (before, text, extra) if one)
    turns = _history(row)
    place, talk = _conversation(row, beside)
    if talk and talk[-1]["role"] == "assistant" and talk[-1]["content"] in answers:
        talk = talk[:-1]
    if turns and talk and talk[: len(turns)] != turns:
        if talk[0]["role"] == "system" and turns[0]["role"] != "system":
            turns = [talk[0], *turns, *talk[1:]]
        else:
            turns = [*turns, *talk]
    else:
        turns = talk or turns
    if system[0]:
        first: Message = {"role": "system", "content": system[1]}
        if turns and turns[0]["role"] == "system":
            if turns[0] != first:
                raise RowError(system[0], f"differs from the system message in {place or 'history'}.", MAP)
        else:
            turns = [first, *turns]
    if text:
        said = [turn["content"] for turn in turns if turn["role"] == "user"]
        if said and text in (said[0], said[-1]):
            pass  # the conversation has it
        elif not turns or turns[-1]["role"] != "user":
            turns = [*turns, user(text)]
        else:
            raise RowError(name or "input", f"is not the question that {place or 'history'} asks.", MAP)
    if not turns:
        return None
    if not any(is_visible(turn["content"] or "") for turn in turns):
        raise RowError(name or place or "prompt", "has no text in any message.", "Give the prompt a text.")
    return Asked(turns, tools_of(row), plain)


def _conversation(row: Row, beside: tuple[list[Message], ...]) -> tuple[str, list[Message]]:
    found: tuple[str, list[Message]] = ("", [])
    for name in (*CONVERSATIONS, "context", *QUESTIONS, "input"):
        if name not in row:
            continue
        value = conversation_in(row, name)
        if name in CONVERSATIONS and isinstance(value, str) and is_given(value):
            value = list_in(name, value) or value
        if not is_given(value) or (isinstance(value, str) and name not in CONVERSATIONS):
            continue
        talk = messages_of(name, value, row=row)
        if talk in beside:
            continue
        if found[0] and talk != found[1]:
            raise RowError(name, f"differs from {found[0]}, and either may be the prompt.", MAP)
        found = (found[0] or name, talk)
    return found


def _history(row: Row) -> list[Message]:
    """Earlier turns: [question, answer] pairs as Alpaca has them, or messages."""
    value = row.get("history")
    if isinstance(value, str):
        value = list_in("history", value) or value
    if not is_given(value):
        return []
    if are_messages(value):
        return messages_of("history", value, row=row)
    remedy = "Write a list of [question, answer], or of messages."
    if not isinstance(value, list):
        raise RowError("history", f"is {json_type(value)}.", remedy)
    turns: list[Message] = []
    for place, pair in enumerate(value, start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"history[{place}]", "is not a [question, answer].", remedy)
        for role, text in zip(("user", "assistant"), pair, strict=True):
            content = check_text(f"history[{place}]", text, limit=settings.MAX_TEXT_BYTES, empty=True)
            turns.append({"role": role, "content": content})
    return turns


def required(row: Row, **known: Any) -> Asked:
    found = asked(row, **known)
    if found is None:
        raise RowError(
            "prompt",
            "is missing.",
            "Add a column prompt, or choose “columns named by hand” and say which column asks.",
        )
    if all(turn["role"] == "system" for turn in found.messages):
        raise RowError("prompt", "is missing: there is only a system text.", "Add a column prompt.")
    return found


def note(row: Row, words: str) -> None:
    reading(row).notes.add(words)


__all__ = ["Asked", "ReadRow", "asked", "note", "required", "user"]
