"""Messages of a conversation: what may stand in one, and what a model without a chat template reads of it.

A message is {role, content} and, where its source has them, `name`, `tool_calls` and `tool_call_id`, as in OpenAI's
chat format and the chat templates of transformers, which get it unchanged. `content` is a text, or None beside calls.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

# White space, and characters that nobody sees: what tells no two prompts apart.
_UNSEEN = re.compile("[\\s\u00ad\u200b-\u200f\u2060\ufeff]+")


def spoken(message: Message) -> str:
    """The content of a message, then its tool calls, each on a line of its own: `[call] name {"arguments": ...}`.

    The same as webapp.corpus.conversations.spoken, of which the texts of responses with several turns are made.
    """
    lines = [str(message["content"])] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False, sort_keys=True)
        lines.append(" ".join(part for part in ("[call]", function.get("name"), arguments) if part))
    return "\n".join(lines)


def headings(messages: Sequence[Message]) -> list[str]:
    """The line above each message: its role, its name, and of a tool's result the number of the call it answers."""
    calls = [call.get("id") for message in messages for call in message.get("tool_calls") or ()]
    lines = []
    for message in messages:
        parts = [message["role"].capitalize(), message.get("name")]
        if (answered := message.get("tool_call_id")) is not None and answered in calls:
            parts.append(f"(call {calls.index(answered) + 1})")
        lines.append(" ".join(str(part) for part in parts if part))
    return lines


def offered(tools: Sequence[Any]) -> str:
    """The tools that the assistant was offered, as JSON, a line each."""
    return "\n".join(json.dumps(tool, ensure_ascii=False, sort_keys=True) for tool in tools)


def checked(messages: Any, name: str = "messages") -> list[Message]:
    """The messages without keys that hold None. Raises ValueError naming field and remedy if they are no messages."""
    if not isinstance(messages, list):
        raise ValueError(f'{name} must be a list of {{"role": ..., "content": ...}}')
    return [_checked(message, f"{name}[{number}]") for number, message in enumerate(messages)]


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f'{where} must be an object {{"role": ..., "content": ...}}')
    # columns of Parquet give every message every key
    kept = {key: value for key, value in message.items() if value is not None or key == "content"}
    if not isinstance(kept.get("role"), str) or not kept["role"].strip():
        raise ValueError(f'{where}.role must be a text such as "user"')
    calls = kept.get("tool_calls", [])
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise ValueError(
            f'{where}.tool_calls must be a list of {{"function": {{"name": ..., "arguments": ...}}}}'
        )
    content = kept.setdefault("content", None)
    if isinstance(content, list):
        raise ValueError(
            f"{where}.content is a list of parts; join the texts of its parts to one, models read text alone"
        )
    if content is None and not calls:
        raise ValueError(
            f"{where}.content is null, and there are no tool_calls; give a text, if only an empty one"
        )
    if content is not None and not isinstance(content, str):
        raise ValueError(f"{where}.content must be a text, not {content!r:.40}")
    for key in ("name", "tool_call_id"):
        if not isinstance(kept.get(key, ""), str):
            raise ValueError(f"{where}.{key} must be a text, not {kept[key]!r:.40}")
    return kept


def _is_call(call: Any) -> bool:
    function = call.get("function", call) if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


# --- Which prompts are the same one ---


def whole_prompt(messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
    """The same for two prompts that differ in white space alone; empty where there is no prompt."""
    turns = [
        _UNSEEN.sub("", part)
        for pair in zip(headings(messages), map(spoken, messages), strict=True)
        for part in pair
    ]
    return json.dumps([turns, _UNSEEN.sub("", offered(tools))]) if messages or tools else ""


def first_turn(messages: Sequence[Message]) -> str:
    """What the user said first, without white space, case and forms of letters (NFKC); empty where nothing was said."""
    said = next((spoken(message) for message in messages if message["role"].lower() in ("user", "human")), "")
    return _UNSEEN.sub("", unicodedata.normalize("NFKC", said).casefold())
