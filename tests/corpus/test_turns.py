"""Conversations and answers on a page: tool calls and results, what is folded, and two that look alike."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_case
from tests.corpus.test_rendering import MARKUP, words
from webapp.corpus.turns import SCREEN, answer_of, conversation_of, reindented


def call(arguments: Any, name: str = "weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def assistant(*calls: Any, content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def drawn(shown: Any) -> str:
    return "\n".join(words(part.drawn) for turn in shown.turns for part in turn.parts)


def written(shown: Any) -> list[str]:
    return [words(part.written) for turn in shown.turns for part in turn.parts]


@pytest.mark.parametrize("row", [0, 1])
def test_the_call_and_its_result_are_shown(row: int) -> None:
    lines = shared_case("06t-toolcalls.jsonl").read_text(encoding="utf-8").splitlines()
    messages = json.loads(lines[row])["prompt"]
    shown = conversation_of(messages)
    assert [turn.speaker for turn in shown.turns] == ["user", "assistant", "result of weather"]
    [part] = shown.turns[1].parts
    assert part.title == "calls weather"
    assert words(part.drawn) == 'json{\n  "city": "' + ("Oslo", "Rome")[row] + '"\n}'
    assert json.loads(words(part.written)) == messages[1]["tool_calls"][0]


def test_a_result_is_under_the_tool_that_was_called_by_id() -> None:
    messages = [
        assistant(call("{}", "a", id="1"), call("{}", "b", id="2"), content="Let me *look*."),
        {"role": "tool", "tool_call_id": "2", "content": '{"x":1.0,"x":1e2}'},
        {"role": "tool", "tool_call_id": "unknown", "content": "# a comment\n- an option"},
        {"role": "user", "name": "Bob", "content": "thanks", "weight": 0},
    ]
    shown = conversation_of(messages)
    assert [turn.speaker for turn in shown.turns] == ["assistant", "result of b", "tool", "user · Bob"]
    assert [part.kind for part in shown.turns[0].parts] == ["text", "call", "call"]
    assert words(shown.turns[1].parts[0].drawn) == 'json{\n  "x": 1.0,\n  "x": 1e2\n}'
    assert words(shown.turns[2].parts[0].drawn) == "# a comment\n- an option"
    assert '"weight": 0' in words(shown.turns[3].parts[1].drawn)


@pytest.mark.parametrize(
    "odd",
    ["a call", 7, None, {}, {"function": "f"}, {"function": {"arguments": 3}}, {"name": "f", "arguments": {}},
     {"function": {"name": "f", "arguments": "not json"}}, {"function": {"name": 1, "arguments": None}}],
)  # fmt: skip
def test_a_call_of_any_form_is_shown_as_it_is_stored(odd: Any) -> None:
    [part] = conversation_of([assistant(odd)]).turns[0].parts
    assert json.loads(words(part.written)) == odd
    assert words(part.drawn)


def test_tools_on_offer_are_listed_by_name() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}, {"name": "search"}, "lookup()"]
    shown = conversation_of([{"role": "user", "content": "q"}], tools)
    assert shown.tool_names == ["weather", "search", "tool 3"]
    assert [json.loads(part.source) for part in shown.tools] == tools


def test_arguments_that_differ_in_white_space_are_shown_as_they_are_stored() -> None:
    first, second = (
        {"text": "", "messages": [assistant(call(arguments))]} for arguments in ('{"a":1}', '{"a": 1}')
    )
    shown = answer_of(first, second)
    assert shown.alike
    assert shown.likeness == "space"
    assert "<mark>" in shown.turns[0].parts[0].written
    other = answer_of(first, {"text": "", "messages": [assistant(call('{"a":2}'))]})
    assert not other.alike
    assert "<mark>" in other.turns[0].parts[0].written


def test_two_that_are_the_same_are_said_to_be() -> None:
    shown = answer_of({"text": "7"}, {"text": "7"})
    assert (shown.likeness, shown.alike) == ("same", False)
    assert answer_of({"text": "7"}, {"text": ""}).likeness == ""


def test_words_are_marked_across_turns() -> None:
    turns = [
        {"role": "assistant", "content": "One answer."},
        {"role": "user", "content": "More?"},
        {"role": "assistant", "content": "Another answer."},
    ]
    shown = answer_of(
        {"text": "", "messages": turns},
        {"text": "", "messages": [turns[0], turns[1], {**turns[2], "content": "Another word."}]},
    )
    marks = [part.written.count("<mark>") for turn in shown.turns for part in turn.parts]
    assert marks[0] == 0
    assert marks[2] > 0
    assert written(shown) == ["One answer.", "More?", "Another answer."]


def test_an_answer_of_one_text_has_no_speaker() -> None:
    shown = answer_of({"text": "7", "messages": None})
    assert [(turn.speaker, len(turn.parts)) for turn in shown.turns] == [("", 1)]
    assert answer_of({"text": ""}).turns[0].parts == []


@pytest.mark.parametrize(
    ("lines", "earlier", "long"),
    [
        ([3, 3], 0, ["", ""]),
        ([400], 0, ["long"]),
        ([400, 2], 1, ["long", ""]),
        ([2, 400], 1, ["", "long"]),
        ([20, 20, 20], 2, ["", "", ""]),
    ],
)
def test_a_long_prompt_begins_with_its_last_turn(lines: list[int], earlier: int, long: list[str]) -> None:
    messages = [{"role": "user", "content": "word\n" * count} for count in lines]
    shown = conversation_of(messages, fold=True)
    assert len(shown.earlier) == earlier
    assert [turn.long for turn in shown.earlier + shown.turns] == long
    whole = conversation_of(messages)
    assert whole.earlier == []
    assert [turn.long for turn in whole.turns] == [""] * len(lines)


def test_a_tool_result_at_the_end_keeps_its_question_in_sight() -> None:
    messages = [
        {"role": "system", "content": "word\n" * 2 * SCREEN},
        {"role": "user", "content": "Weather?"},
        assistant(call("{}")),
        {"role": "tool", "content": "rain"},
    ]
    shown = conversation_of(messages, fold=True)
    assert [turn.role for turn in shown.earlier] == ["system"]
    assert [turn.role for turn in shown.turns] == ["user", "assistant", "tool"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(value=JSON, compact=st.booleans(), ascii_only=st.booleans())
def test_reindented_json_is_the_same_but_for_white_space(value: Any, compact: bool, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":") if compact else None)
    pretty = reindented(text)
    if not isinstance(value, dict | list):
        assert pretty == ""
        return
    assert json.loads(pretty) == value
    assert json.dumps(json.loads(pretty)) == json.dumps(value)


@settings(max_examples=80, deadline=None)
@given(mine=st.lists(MARKUP, min_size=1, max_size=3), other=st.lists(MARKUP, min_size=1, max_size=3))
def test_each_part_is_written_in_whole_beside_any_rival(mine: list[str], other: list[str]) -> None:
    first, second = (
        {"text": "", "messages": [{"role": "user", "content": text} for text in texts]}
        for texts in (mine, other)
    )
    shown = answer_of(first, second)
    # a page cannot hold a NUL: the mark alone says that it is there
    assert written(shown) == [text.replace("\0", "") for text in mine if text]
