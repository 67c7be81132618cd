"""Tool calls, names and tools are among the token ids; the exported card's code gives the same ids."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_case
from webapp.corpus import conversations
from workers.rewards.artifacts.export import export_model
from workers.rewards.artifacts.save import save_model
from workers.rewards.data.messages import checked, first_turn, headings, spoken, whole_prompt
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Template

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": TEXT, "arguments": st.one_of(TEXT, JSON)})},
    optional={"id": TEXT, "type": st.just("function")},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT},
    optional={"name": TEXT, "tool_calls": st.lists(CALL, max_size=2), "tool_call_id": TEXT},
)


def call(name: str, arguments: Any, **rest: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**rest, "function": {"name": name, "arguments": arguments}}],
    }


@given(MESSAGE)
@settings(max_examples=200)
def test_both_halves_speak_a_message_alike(message: dict[str, Any]) -> None:
    assert spoken(message) == conversations.spoken(message)


@pytest.fixture(params=["encoder", "causal"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Template, Callable[..., Any]]:
    """A template, and the function `encode` of the card of a model exported with it."""
    encoder = request.param == "encoder"
    base = resolve_base_model(PACKAGED) if encoder else str(request.getfixturevalue("tiny_lm"))
    template = Template(
        load_tokenizer("tiny", base), architecture=request.param, ordinal=False, max_length=128
    )
    torch.manual_seed(0)
    model = RewardModel(load_backbone("tiny", base, request.param), architecture=request.param, kind="scalar")
    save_model(tmp_path / "model", model, template, method="bt", partition=(3, 6), base_model="tiny")
    export_model(tmp_path / "model", tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code.replace('folder = "."', f"folder = {str(tmp_path / 'out')!r}", 1), names)
    return template, names["encode"]


def test_the_cards_code_encodes_every_conversation_as_training_does(
    exported: tuple[Template, Callable[..., Any]],
) -> None:
    template, encode = exported
    template.max_length = 100_000

    @given(st.lists(MESSAGE, max_size=3), TEXT, st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2))
    @settings(max_examples=100, deadline=None)
    def same(messages: list[dict[str, Any]], text: str, tools: list[Any]) -> None:
        encode.__globals__["tokenizer"].model_max_length = 100_000
        (ours,) = template.encode([{"messages": messages, "text": text, "tools": tools}])
        assert tuple(encode(messages, text, tools)["input_ids"]) == ours.ids

    same()


def test_two_prompts_that_differ_in_a_call_have_other_ids(
    exported: tuple[Template, Callable[..., Any]],
) -> None:
    template, encode = exported
    first, second = map(json.loads, shared_case("06t-toolcalls.jsonl").read_text().splitlines())
    (answer,) = first["chosen"]
    rows = [{"messages": checked(row["prompt"]), "text": answer["content"]} for row in (first, second)]
    one, other = template.encode(rows)
    assert one.ids != other.ids
    assert tuple(encode(first["prompt"], answer["content"])["input_ids"]) == one.ids
    if template.architecture == "causal":
        read = template.tokenizer.decode(one.ids)
        assert '### Assistant\n[call] weather {"city":"Oslo"}\n\n### Tool weather\n7 C' in read


@pytest.mark.parametrize(
    "other",
    [
        [call("weather", "{}"), {"role": "tool", "name": "clock", "content": "7"}],
        [call("clock", "{}"), {"role": "tool", "name": "weather", "content": "7"}],
        [call("weather", {"city": "Oslo"}), {"role": "tool", "name": "weather", "content": "7"}],
        [{"role": "assistant", "content": "7"}],
    ],
)
def test_names_and_arguments_tell_prompts_apart(other: list[dict[str, Any]], tiny_lm: Path) -> None:
    template = Template(
        load_tokenizer("tiny", str(tiny_lm)), architecture="causal", ordinal=True, max_length=256
    )
    this = [call("weather", "{}"), {"role": "tool", "name": "weather", "content": "7"}]
    one, two, tools = template.encode(
        [
            {"messages": this, "text": "x"},
            {"messages": other, "text": "x"},
            {"messages": this, "text": "x", "tools": [{"name": "weather"}]},
        ]
    )
    assert len({one.ids, two.ids, tools.ids}) == 3


def test_which_call_a_result_answers_is_read() -> None:
    calls = [call("weather", '{"city": "Oslo"}', id="a"), call("weather", '{"city": "Rome"}', id="b")]
    results = [{"role": "tool", "tool_call_id": name, "content": "7"} for name in ("b", "a", "c")]
    assert headings([*calls, *results])[2:] == ["Tool (call 2)", "Tool (call 1)", "Tool"]


def test_messages_are_checked_by_field() -> None:
    kept = checked([{"role": "user", "content": "q", "name": None, "tool_calls": None}])
    assert kept == [{"role": "user", "content": "q"}]
    assert checked([call("f", "{}")])[0]["content"] is None
    for message, words in (
        ({"role": "user", "content": None}, r"messages\[0\]\.content is null"),
        ({"role": "user"}, r"messages\[0\]\.content is null"),
        ({"role": "user", "content": [{"type": "text", "text": "q"}]}, "list of parts; join the texts"),
        ({"role": "user", "content": 7}, "content must be a text, not 7"),
        ({"content": "q"}, "role must be a text"),
        ({"role": "user", "content": "q", "tool_calls": "f"}, "tool_calls must be a list"),
        ({"role": "user", "content": "q", "tool_calls": [{"id": "x"}]}, "tool_calls must be a list"),
        ({"role": "tool", "content": "q", "name": 1}, "name must be a text"),
        ("q", r"messages\[0\] must be an object"),
    ):
        with pytest.raises(ValueError, match=words):
            checked([message])
    with pytest.raises(ValueError, match="answer must be a list"):
        checked("q", "answer")


def test_white_space_tells_no_prompts_apart() -> None:
    asked = [{"role": "user", "content": "Name a colour."}]
    for text in (
        "Name a colour. ",
        "Name  a\ncolour.",
        "\u00a0Name a\u2028colour.\ufeff",
        "Name\ta colour.\r\n",
    ):
        assert whole_prompt([{"role": "user", "content": text}]) == whole_prompt(asked)
    for text in ("name a colour.", "Name a color.", "Name a colour!"):
        assert whole_prompt([{"role": "user", "content": text}]) != whole_prompt(asked)
    assert whole_prompt([]) == ""
    assert whole_prompt(asked, [{"name": "f"}]) != whole_prompt(asked)
    deeper = [*asked, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "More."}]
    assert first_turn(deeper) == first_turn([{"role": "user", "content": "NAME a colour．"}])
