"""Ways to tell a conversation to a chat template, from its own turns to the plainest.

Templates refuse or leave out what they have no words for: a system turn, tools, two turns of one role in a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.messages import Message, headings, offered, spoken

ROLES = ("system", "user", "assistant", "tool")


def tellings(
    messages: Sequence[Message], tools: Sequence[Any], developer: bool = False
) -> Iterator[tuple[list[Message], list[Any]]]:
    """Ways to tell a conversation in turns and tools, from its own to the plainest.

    1. its own turns (own_tellings)
    2. the same, but the system says which tools there are
    3. calls, their results and unknown roles as text
    4. neighbours of one role in one turn, the user first and last
    5. what the system says in the user's turns too
    6. everything in one turn of the user

    `developer`: the template knows that role.
    """
    own = list(own_tellings(messages, tools, developer))
    yield from own
    offer = [{"role": "system", "content": f"Tools\n{offered(tools)}"}] if tools else []
    for turns, _ in own:
        yield _joined([*offer, *turns[:1]]) + turns[1:], []
    roles = _roles(messages, developer)
    told: list[Message] = list(offer)
    for message, role, heading in zip(messages, roles, headings(messages), strict=True):
        if role in ("system", "user", "assistant"):
            told.append({"role": role, "content": spoken(message)})
        else:
            told.append({"role": "user", "content": f"{heading}\n{spoken(message)}"})
    yield told, []
    yield _alternating(told), []
    yield _alternating([{**m, "role": "user"} if m["role"] == "system" else m for m in told]), []
    whole = "\n\n".join(f"{m['role'].capitalize()}\n{m['content']}" for m in told)
    yield [{"role": "user", "content": whole}], []


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role joined, and the user has the first word after the system, and the last."""
    turns = _joined(messages)
    silent = {"role": "user", "content": ""}
    first = 1 if turns and turns[0]["role"] == "system" else 0
    if len(turns) == first or turns[first]["role"] != "user":
        turns.insert(first, silent)
    return turns if turns[-1]["role"] == "user" else [*turns, silent]


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role in one turn."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1]["role"] == message["role"]:
            joined = f"{turns[-1]['content']}\n\n{message['content']}"
            turns[-1] = {**turns[-1], "content": joined}
        else:
            turns.append(message)
    return turns


def own_tellings(
    messages: Sequence[Message], tools: Sequence[Any], developer: bool = False
) -> Iterator[tuple[list[Message], list[Any]]]:
    """A conversation in its own turns, if templates know all its roles.

    Templates differ in how they want calls: their arguments as objects, which most write as JSON themselves, beside no
    content or an empty one; or as a text.
    """
    roles = _roles(messages, developer)
    if not set(roles) <= {*ROLES, "developer"}:
        return
    turns = [{**message, "role": role} for message, role in zip(messages, roles, strict=True)]
    yield [_with_calls(turn, as_text=False) for turn in turns], list(tools)
    turns = [{**turn, "content": turn.get("content") or ""} for turn in turns]
    yield [_with_calls(turn, as_text=False) for turn in turns], list(tools)
    yield [_with_calls(turn, as_text=True) for turn in turns], list(tools)


def _roles(messages: Sequence[Message], developer: bool) -> list[str]:
    """A developer is what most templates call the system."""
    return ["system" if m["role"] == "developer" and not developer else str(m["role"]) for m in messages]


def _with_calls(message: Message, *, as_text: bool) -> Message:
    """The message with its calls' arguments as texts or as objects."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call.get("function", call))
        arguments = function.get("arguments")
        if as_text and not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        elif not as_text and isinstance(arguments, str):
            try:
                parsed = json.loads(arguments)
            except ValueError:
                parsed = None
            function["arguments"] = parsed if isinstance(parsed, dict) else arguments
        number = {"id": call["id"]} if call.get("id") else {}
        calls.append({**number, "type": "function", "function": function})
    return {**message, "tool_calls": calls}
