"""Messages of prompts and answers: what may stand in one, and an answer of many messages as one text.

A message is {role, content} and, where the source has them, `name`, `tool_calls` and `tool_call_id`, as OpenAI's chat
format and the chat templates of transformers have them. `content` is a text, or None beside tool calls.
"""

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}


def spoken(message: Message) -> str:
    """The content of a message, then its tool calls, each on a line of its own: `[call] name {"arguments": …}`."""
    lines = [str(message["content"])] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False, sort_keys=True)
        lines.append(" ".join(part for part in ("[call]", function.get("name"), arguments) if part))
    return "\n".join(lines)


def answer_text(messages: Sequence[Message]) -> str:
    """An answer of several messages as one text: the first turn bare, the others behind their speaker."""
    first, *rest = messages
    return spoken(first) + "".join(f"\n\n{SPEAKERS[turn['role']]}: {spoken(turn)}" for turn in rest)


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether an answer is one assistant message of text and nothing else: then the text is all there is."""
    return len(messages) == 1 and set(messages[0]) == {"role", "content"} and bool(messages[0]["content"])
