"""What clients send, as rows to score: Caliper's own form, and those of other trainers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..data.messages import checked, spoken
from ..data.responses import unique_keys, without_surrogates
from .holder import Row
from .templated import untemplated

MOST_ITEMS = 4096
_ITEM = {"messages", "prompt", "text", "tools"}


class Bad(Exception):
    """A field of a request can't be taken."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message}; {remedy}")
        self.field, self.message, self.remedy = field, message, remedy


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises Bad."""
    remedy = "send a JSON object in UTF-8"
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys)
    except RecursionError:
        raise Bad("body", "it is nested too deeply", remedy) from None
    except UnicodeDecodeError as error:
        raise Bad("body", f"byte {error.start + 1} is not UTF-8", remedy) from None
    except json.JSONDecodeError as error:
        raise Bad("body", f"it is not JSON: {error.msg} at character {error.pos + 1}", remedy) from None
    except ValueError as error:
        raise Bad("body", str(error)[:200], remedy) from None
    if not isinstance(value, dict):
        raise Bad("body", "it is no JSON object", remedy)
    return value


def score_form(body: dict[str, Any]) -> tuple[list[Row], bool]:
    """Rows of {"items": [{"messages" or "prompt", "text", "tools"}], "rollouts": true}, and whether they are rollouts.

    An item without a text ends with the assistant's message, which is the text. Raises Bad.
    """
    if unknown := sorted(set(body) - {"items", "rollouts"}):
        raise Bad(unknown[0][:80], "the form has no such field", "send items, and rollouts if they are such")
    rollouts = body.get("rollouts", False)
    if not isinstance(rollouts, bool):
        raise Bad("rollouts", f"it is {rollouts!r:.40}", "send true or false, or leave it out")
    return [_item(item, f"items[{number}]") for number, item in enumerate(_list(body, "items"))], rollouts


def _item(item: Any, where: str) -> Row:
    if not isinstance(item, dict):
        raise Bad(where, "it is no object", 'send {"messages": [...], "text": "..."}')
    if unknown := sorted(set(item) - _ITEM):
        raise Bad(
            f"{where}.{unknown[0][:80]}",
            "an item has no such field",
            "send messages or prompt, text, and perhaps tools",
        )
    if "prompt" in item and "messages" in item:
        raise Bad(f"{where}.prompt", "messages are given as well", "send one of the two")
    if "prompt" in item:
        messages = _messages(item["prompt"], f"{where}.prompt", bare=True)
    else:
        messages = _messages(item.get("messages"), f"{where}.messages", bare=False)
    if "text" not in item and messages and messages[-1]["role"] == "assistant":
        *messages, last = messages
        return _row(messages, spoken(last), item.get("tools"), f"{where}.text", where)
    return _row(messages, item.get("text"), item.get("tools"), f"{where}.text", where)


def openrlhf_form(body: dict[str, Any]) -> list[Row]:
    """Rows of OpenRLHF's {"query": [...], "prompts": [...], "labels": [...]}. Raises Bad.

    A query is the prompt and the response in one text, with the prompt at its beginning. Without prompts the query is
    the response. A chat template's marks are taken off. Labels are not read.
    """
    queries = _list(body, "query")
    prompts = body.get("prompts")
    if prompts is None:
        return [_row([], query, None, f"query[{number}]") for number, query in enumerate(queries)]
    if not isinstance(prompts, list) or len(prompts) != len(queries):
        raise Bad("prompts", f"they are not {len(queries)}", "send a prompt for each query, or no prompts")
    rows = []
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        if not isinstance(query, str):
            raise Bad(f"query[{number}]", "it is no text", "send the prompt and the response in one text")
        if isinstance(prompt, str):
            messages, text = untemplated(prompt, query.removeprefix(prompt))
        else:
            messages, text = _messages(prompt, f"prompts[{number}]", bare=True), query
        rows.append(_row(messages, text, None, f"query[{number}]"))
    return rows


def sample_form(body: dict[str, Any]) -> Row:
    """The row of slime's {"prompt": text or messages, "response": text, "label": ...}; no more is read. Raises Bad."""
    prompt, text = body.get("prompt"), body.get("response")
    if isinstance(prompt, str) and isinstance(text, str):
        return _row(*untemplated(prompt, text), None, "response")
    return _row(_messages(prompt, "prompt", bare=True), text, None, "response")


# --- Parts of forms ---


def _list(body: dict[str, Any], name: str) -> Sequence[Any]:
    value = body.get(name)
    if not isinstance(value, list):
        raise Bad(name, "it is not given" if value is None else "it is no list", "send a list")
    if len(value) > MOST_ITEMS:
        raise Bad(name, f"it has {len(value):,} entries", f"send at most {MOST_ITEMS:,} a request")
    return value


def _messages(value: Any, field: str, *, bare: bool) -> list[dict[str, Any]]:
    """The messages of a prompt, which if it may be `bare` may be a text that the user said. Raises Bad."""
    remedy = 'send [{"role": "user", "content": "..."}]'
    if value is None or (bare and value == ""):
        return []
    if bare and isinstance(value, str):
        value = [{"role": "user", "content": value}]
    try:
        messages = checked(value, field)
        without_surrogates(messages, field)
    except (ValueError, RecursionError) as error:
        raise Bad(field, str(error).removeprefix(f"{field} "), remedy) from None
    return messages


def _row(messages: list[dict[str, Any]], text: Any, tools: Any, field: str, where: str = "") -> Row:
    """A row to score; `field`: where the text stands, `where`: the item. Raises Bad."""
    if not isinstance(text, str):
        said = "it is not given" if text is None else f"it is {text!r:.40}"
        raise Bad(field, said, "send a text; an empty response is an empty text")
    tools = [] if tools is None else tools
    if not isinstance(tools, list):
        raise Bad(f"{where}.tools", "it is no list", "send a list of tools' JSON schemas")
    for name, value in ((field, text), (f"{where}.tools", tools)):
        try:
            without_surrogates(value, name)
        except (ValueError, RecursionError) as error:
            raise Bad(name, str(error), "send whole characters") from None
    return {"messages": messages, "tools": tools, "text": text}
