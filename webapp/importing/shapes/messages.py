"""Reading conversations: lists of messages under the names that the world's files give their parts."""

import json
import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from webapp.corpus.conversations import Message, spoken
from webapp.importing.cells import parsed_cell
from webapp.importing.fields import (
    MAX_MESSAGES,
    RowError,
    check_text,
    is_given,
    is_visible,
    json_value,
    refuse_unreadable,
)
from webapp.importing.shapes.tracking import ReadRow
from webapp.importing.sources import Row, Unreadable, json_type

ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "model", "bot", "ai", "function_call"),
    "tool": ("tool", "function", "observation", "tool_response", "function_response", "ipython"),
}  # fmt: skip
_ROLE_OF = {alias: role for role, aliases in ROLES.items() for alias in aliases}
_KNOWN = {"role", "from", "content", "value", "name", "tool_calls", "tool_call_id", "function_call"}
# Said about a message, not in it: counted as not used.
_HARMLESS = {
    "weight", "loss_weight", "train", "loss", "timestamp", "tstamp", "time", "date", "created_at", "id", "message_id",
    "uuid", "index", "turn", "num_tokens", "model", "language",
}  # fmt: skip
_TEXT_PARTS = (None, "text", "input_text", "output_text")
MAX_TOOLS = 200


def list_in(field: str, value: str) -> Any:
    """The list or object that a text holds as JSON or as Python writes it; None where it holds none."""
    found = parsed_cell(value)
    if isinstance(found, list | dict | Unreadable):
        refuse_unreadable(field, found)
        return found
    if re.match(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]", value) and value.rstrip().endswith("]"):
        raise RowError(field, "looks like a list of messages but can't be read.", "Write it as JSON.")
    return None


def are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict)
            and ("role" in one or "from" in one)
            and bool({"content", "value"} & set(one))
            for one in value
        )
    )


def conversation_in(row: Row, field: str) -> Any:
    """A field's value, with the messages that a table's text holds read out of it, and one message made a list."""
    value = row.get(field)
    if isinstance(value, str) and isinstance(row, ReadRow) and row.table:
        found = list_in(field, value)
        value = found if are_messages(found) else value
    if isinstance(value, dict) and are_messages([value]):
        return [value]
    return value


def messages_of(
    field: str, value: Any, *, row: Row | None = None, empty: bool = False, spoken_of: bool = True
) -> list[Message]:
    """A conversation as {role, content} messages with name, tool_calls and tool_call_id where they are given.

    Whatever else a message says is refused by name; numbers, flags and known bookkeeping are counted as not used.
    """
    if not isinstance(value, list) or (not value and not empty):
        what = json_type(value) if value else "empty"
        raise RowError(field, f"is {what}.", "Write a list of {role, content} messages.")
    if len(value) > MAX_MESSAGES:
        raise RowError(
            field, f"has {len(value):,} messages, of {MAX_MESSAGES:,} allowed.", "Leave messages out."
        )
    messages = [_message(f"{field}[{place}]", one, field, row) for place, one in enumerate(value, start=1)]
    if spoken_of and messages and not any(is_visible(spoken(message)) for message in messages):
        raise RowError(field, "has no text in any message.", "Give the prompt a text.")
    if sum(len(spoken(message).encode()) for message in messages) > settings.MAX_TEXT_BYTES:
        raise RowError(field, f"is longer than {settings.MAX_TEXT_BYTES // 1024} KB in all.", "Shorten it.")
    return messages


def _message(name: str, given_message: Any, field: str, row: Row | None) -> Message:
    if not isinstance(given_message, dict):
        raise RowError(name, f"is {json_type(given_message)}.", "Write {role, content}.")
    said = {key: value for key, value in given_message.items() if value is not None}
    role = _role(name, said)
    key = "value" if "content" not in said and "value" in said else "content"
    if "content" in said and said.get("value", said["content"]) != said["content"]:
        raise RowError(f"{name}.value", "differs from content.", "Keep one of the two.")
    calls = _calls(name, said)
    content: str | None
    if key not in said and calls:
        content = None
    else:
        content = _content(f"{name}.{key}", said.get(key))
    raw_role = str(said.get("role", said.get("from"))).lower()
    if raw_role == "function_call" and not calls and content is not None:
        calls, content = _call_in_text(content)
    message: Message = {"role": role, "content": content}
    if is_given(said.get("name")):
        message["name"] = check_text(f"{name}.name", said["name"], limit=1024)
    if calls:
        message["tool_calls"] = calls
    if is_given(said.get("tool_call_id")):
        message["tool_call_id"] = check_text(f"{name}.tool_call_id", said["tool_call_id"], limit=1024)
    for other in sorted(set(said) - _KNOWN, key=str):
        if not is_given(said[other]):
            continue
        if other in _HARMLESS or isinstance(said[other], bool | int | float):
            if isinstance(row, ReadRow):
                row.beside.add(f"{field}[].{other}")
            continue
        raise RowError(
            f"{name}.{str(other)[:40]}",
            "is no part of a message that Caliper shows.",
            "Known: role, content, name, tool_calls, tool_call_id. Put what was said into content, or remove it.",
        )
    return message


def _role(name: str, said: dict[str, Any]) -> str:
    value = said.get("role", said.get("from"))
    role = _ROLE_OF.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        field = f"{name}.{'from' if 'from' in said and 'role' not in said else 'role'}"
        known = ", ".join(alias for aliases in ROLES.values() for alias in aliases)
        raise RowError(field, f"is {str(value)[:40]!r}.", f"Write one of: {known}.")
    return role


def _content(name: str, value: Any) -> str:
    """A text; parts that are all text are put together as chat templates do, with nothing between them."""
    if isinstance(value, list):
        parts = []
        for part in value:
            text = part.get("text") if isinstance(part, dict) else part
            part_type = part.get("type") if isinstance(part, dict) else None
            others = (
                {key for key, inner in part.items() if is_given(inner)} - {"type", "text"}
                if isinstance(part, dict)
                else set()
            )
            if part_type not in _TEXT_PARTS or not isinstance(text, str) or others:
                what = (
                    f"a part of type “{str(part_type)[:40]}”"
                    if part_type not in _TEXT_PARTS
                    else "a part that is no text"
                )
                raise RowError(
                    name,
                    f"holds {what}.",
                    "Caliper compares texts: leave the row out, or write the part as text.",
                )
            parts.append(text)
        value = "".join(parts)
    return check_text(name, value, limit=settings.MAX_TEXT_BYTES, empty=True)


def _calls(name: str, said: dict[str, Any]) -> list[Any]:
    """The tool calls of a message, as they were given; only null fields of a call are left out."""
    calls = said.get("tool_calls")
    if isinstance(calls, str) and calls.strip():
        calls = list_in(f"{name}.tool_calls", calls)
        if calls is None:
            raise RowError(f"{name}.tool_calls", "is text that holds no JSON list.", "Write a list of calls.")
    if is_given(said.get("function_call")):
        calls = [*(calls or []), {"type": "function", "function": said["function_call"]}]
    if not is_given(calls):
        return []
    if not isinstance(calls, list):
        raise RowError(f"{name}.tool_calls", f"is {json_type(calls)}.", "Write a list of calls.")
    return [_call(f"{name}.tool_calls[{place}]", call) for place, call in enumerate(calls, start=1)]


def _call(name: str, call: Any) -> Any:
    remedy = "Write {type: function, function: {name, arguments}}."
    if not isinstance(call, dict):
        raise RowError(name, f"is {json_type(call)}.", remedy)
    kept = {key: value for key, value in call.items() if value is not None}
    function = kept.get("function", kept)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(name, "names no function.", remedy)
    if "function" in kept:
        kept["function"] = {key: value for key, value in function.items() if value is not None}
    return json_value(name, kept, limit=settings.MAX_TEXT_BYTES)


def _call_in_text(content: str) -> tuple[list[Any], str | None]:
    """ShareGPT's function_call holds {name, arguments} as JSON; another text stays the assistant's text."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return [], content
    calls = value if isinstance(value, list) else [value]
    if calls and all(isinstance(call, dict) and set(call) == {"name", "arguments"} for call in calls):
        return [_call("function_call", {"type": "function", "function": call}) for call in calls], None
    return [], content


def tools_of(row: Row, field: str = "tools") -> list[Any]:
    """The tools an assistant was offered: a list, or JSON text of one."""
    value = row.get(field)
    if isinstance(value, str) and value.strip():
        value = list_in(field, value)
        if value is None:
            raise RowError(field, "is text that holds no JSON list.", "Write a list of tools.")
    if not is_given(value):
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowError(field, f"is {json_type(value)}.", "Write a list of tools.")
    if len(value) > MAX_TOOLS:
        raise RowError(field, f"has {len(value)} tools, of {MAX_TOOLS} allowed.", "Leave some out.")
    tools = json_value(field, value, limit=settings.MAX_TEXT_BYTES)
    if len(json.dumps(tools, ensure_ascii=False).encode()) > settings.MAX_TEXT_BYTES:
        raise RowError(field, f"is longer than {settings.MAX_TEXT_BYTES // 1024} KB.", "Shorten it.")
    return list(tools)


def split(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many first messages two conversations share as their prompt: up to where both have an assistant's turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
        shared -= 1
    return shared
