"""Conversations and answers as a page shows them: turns with their texts, tool calls and results, and what is folded.

Each part of a turn stands twice on the page: as it is drawn, and exactly as it was written.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.safestring import SafeString

from webapp.corpus.conversations import Message
from webapp.corpus.kept import Kept
from webapp.corpus.rendering import Images, draw_code, render_markdown
from webapp.corpus.written import as_written, likeness, look, may_look_alike, written_parts

# Lines of a screen beside which the answers still begin, and characters of a line: of a laptop, of a phone.
SCREEN, WIDTH = 24, 80
PHONE_SCREEN, PHONE_WIDTH = 30, 38

_SHOWN_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}


# An answer's text, and its messages if it has several.
_Said = tuple[str, Sequence[Message] | None]


@dataclass(frozen=True)
class Part:
    """A text, a tool call, a tool's result or further fields of a message; `title` is what stands over it."""

    kind: str
    source: str
    drawn: SafeString
    title: str = ""
    written: SafeString = field(default_factory=SafeString)


@dataclass(frozen=True)
class Turn:
    """One message. `speaker` names its role, and who or what speaks in it."""

    role: str
    speaker: str
    parts: list[Part]
    lines: int
    # Longer than a screen: of a laptop, or of a phone only.
    long: str = ""


@dataclass(frozen=True)
class Conversation:
    """A prompt: the tools it offers, the turns that begin folded, and those in sight."""

    tools: list[Part]
    tool_names: list[str]
    earlier: list[Turn]
    turns: list[Turn]

    @property
    def earlier_lines(self) -> int:
        return sum(turn.lines for turn in self.earlier)


@dataclass(frozen=True)
class Answer:
    """An answer: one turn of text alone, or several. `likeness` says how it resembles its rival: see rendering."""

    turns: list[Turn]
    likeness: str = ""
    alike: bool = False


def conversation_of(
    messages: Sequence[Message],
    tools: Sequence[Any] | None = None,
    *,
    fold: bool = False,
    images: Images | None = None,
) -> Conversation:
    """A prompt as it is shown; with `fold` a long one begins with its last turn in sight."""
    return _conversations.of(
        lambda: _conversation(messages, list(tools or ()), fold, images), messages, tools, fold, images
    )


def _conversation(
    messages: Sequence[Message], offered: list[Any], fold: bool, images: Images | None
) -> Conversation:
    turns = _with_written(_turns(messages, images=images, fold=fold))
    parts = [_part("tool", _json(tool), draw_code(reindented(_json(tool)), "json")) for tool in offered]
    first = _first_in_sight(messages, turns) if fold else 0
    return Conversation(
        tools=[_written(part) for part in parts],
        tool_names=[_tool_name(tool) or f"tool {number}" for number, tool in enumerate(offered, start=1)],
        earlier=turns[:first],
        turns=turns[first:],
    )


def answer_of(answer: Any, rival: Any = None, *, fold: bool = False, images: Images | None = None) -> Answer:
    """An answer (a Response, or a dict with `text` and maybe `messages`) beside its rival, if it has one.

    With `fold` a long one begins folded.
    """
    own, other = ((_get(each, "text") or "", _get(each, "messages")) for each in (answer, rival or {}))
    return _answers.of(lambda: _answer(own, other, fold, images), own, other, fold, images)


def _answer(own: _Said, other: _Said, fold: bool, images: Images | None) -> Answer:
    turns, others = _answer_turns(own, images, fold=fold), _answer_turns(other, None)
    sources, rivals = _sources(turns), _sources(others)
    resembles = likeness("\n".join(sources), "\n".join(rivals)) if rivals else ""
    alike = (
        bool(rivals) and may_look_alike("".join(sources), "".join(rivals)) and _looks(turns) == _looks(others)
    )
    return Answer(
        turns=_with_written(turns, rivals),
        likeness="same" if rivals and sources == rivals else resembles or ("drawn" if alike else ""),
        alike=alike,
    )


def _bytes_of(turns: Sequence[Turn], tools: Sequence[Part] = ()) -> int:
    parts = [*tools, *(part for turn in turns for part in turn.parts)]
    return 1000 + sum(
        sys.getsizeof(text) for part in parts for text in (part.source, part.drawn, part.written)
    )


_conversations: Kept[Conversation] = Kept(
    8 * 2**20, lambda kept: _bytes_of([*kept.earlier, *kept.turns], kept.tools)
)
_answers: Kept[Answer] = Kept(16 * 2**20, lambda kept: _bytes_of(kept.turns))


# --- Turns ---


def _answer_turns(said: _Said, images: Images | None, *, fold: bool = False) -> list[Turn]:
    text, messages = said
    if messages:
        return _turns(messages, images=images, fold=fold)
    parts = [_text(text, images)] if text else []
    lines, long = _length(parts, fold)
    return [Turn("", "", parts, lines, long)]


def _turns(messages: Sequence[Message], *, images: Images | None = None, fold: bool = False) -> list[Turn]:
    called = {
        call["id"]: _tool_name(call)
        for message in messages
        for call in message.get("tool_calls") or ()
        if isinstance(call, Mapping) and isinstance(call.get("id"), str)
    }
    turns = []
    for message in messages:
        role, parts = str(message.get("role", "")), _parts(message, images)
        name = str(message.get("name") or called.get(message.get("tool_call_id"), "") or "")
        speaker = f"result of {name}" if role == "tool" and name else f"{role} · {name}" if name else role
        lines, long = _length(parts, fold)
        turns.append(Turn(role, speaker, parts, lines, long))
    return turns


def _length(parts: Sequence[Part], fold: bool) -> tuple[int, str]:
    """About how many lines a turn takes, and how it is folded: see Turn.long."""
    lines, narrow = (sum(lines_of(part.source, width) for part in parts) for width in (WIDTH, PHONE_WIDTH))
    return (
        lines,
        "" if not fold else "long" if lines > SCREEN else "long-phone" if narrow > PHONE_SCREEN else "",
    )


def _parts(message: Message, images: Images | None) -> list[Part]:
    content, parts = message.get("content"), []
    if content and message.get("role") == "tool":
        pretty = reindented(content)
        parts.append(_part("result", content, draw_code(pretty or content, "json" if pretty else "")))
    elif content:
        parts.append(_text(content, images))
    for call in message.get("tool_calls") or ():
        parts.append(_call(call))
    further = {name: value for name, value in message.items() if name not in _SHOWN_FIELDS}
    if further:
        parts.append(_part("further", _json(further), draw_code(reindented(_json(further)), "json"), "also"))
    return parts


def _call(call: Any) -> Part:
    source = _json(call)
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if arguments is None:
        return _part("call", source, draw_code(reindented(source), "json"), "calls a tool")
    written = arguments if isinstance(arguments, str) else _json(arguments)
    pretty = reindented(written)
    drawn = draw_code(pretty or written, "json" if pretty else "")
    return _part("call", source, drawn, f"calls {_tool_name(call)}")


def _tool_name(tool: Any) -> str:
    """The name of a tool, or of what a call calls."""
    for place in (tool.get("function"), tool) if isinstance(tool, Mapping) else ():
        if isinstance(place, Mapping) and place.get("name"):
            return str(place["name"])
    return str(tool.get("function") or "") if isinstance(tool, Mapping) else ""


def _text(text: str, images: Images | None) -> Part:
    return _part("text", text, render_markdown(text, images))


def _part(kind: str, source: str, drawn: SafeString, title: str = "") -> Part:
    return Part(kind, source, drawn, title)


def _written(part: Part) -> Part:
    return Part(part.kind, part.source, part.drawn, part.title, as_written(part.source))


def _with_written(turns: list[Turn], rivals: Sequence[str] = ()) -> list[Turn]:
    """The turns with the source view of each part, in which the words that the rivals don't have are marked."""
    views = iter(written_parts(_sources(turns), rivals))
    return [
        Turn(
            turn.role,
            turn.speaker,
            [Part(part.kind, part.source, part.drawn, part.title, next(views)) for part in turn.parts],
            turn.lines,
            turn.long,
        )
        for turn in turns
    ]


def _sources(turns: Sequence[Turn]) -> list[str]:
    return [part.source for turn in turns for part in turn.parts]


def _looks(turns: Sequence[Turn]) -> list[tuple[str, Any]]:
    """What an eye tells turns apart by."""
    looks: list[tuple[str, Any]] = []
    for turn in turns:
        looks.append(("turn", turn.speaker))
        looks += [(part.title, look(part.drawn)) for part in turn.parts]
    return looks


# --- Folding ---


def lines_of(text: str, width: int) -> int:
    """About how many lines a text takes on the page."""
    return sum(1 + len(line) // width for line in text.splitlines()) if text else 0


def _first_in_sight(messages: Sequence[Message], turns: list[Turn]) -> int:
    """The first turn that is not folded: the last question with what follows it, or the last turn alone."""
    narrow = sum(lines_of(source, PHONE_WIDTH) for source in _sources(turns))
    if len(turns) < 2 or (sum(turn.lines for turn in turns) <= SCREEN and narrow <= 2 * PHONE_SCREEN):
        return 0
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    last = len(turns) - 1
    asked = users[-1] if users else last
    return asked if sum(turn.lines for turn in turns[asked:]) <= SCREEN else last


# --- JSON ---

_JSON_SIGNS = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def reindented(text: str) -> str:
    """A JSON object or list with a member a line, each value as it was written; "" if the text is none."""
    try:
        if not isinstance(json.loads(text), dict | list):
            return ""
    except (ValueError, RecursionError):
        return ""
    signs = _JSON_SIGNS.findall(text)
    out, depth = "", 0
    for place, sign in enumerate(signs):
        following = signs[place + 1] if place + 1 < len(signs) else ""
        if sign in "{[":
            depth += 1
            out += sign if following in ("}", "]") else sign + _line(depth)
        elif sign in "}]":
            depth -= 1
            out += sign if signs[place - 1] in ("{", "[") else _line(depth) + sign
        elif sign == ",":
            out += "," + _line(depth)
        else:
            out += ": " if sign == ":" else sign
    return out


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, 20)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _get(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
