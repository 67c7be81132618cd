"""The chat template and the tokenizer class that an exported folder carries."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rewards.text.chat_templates import FAMILIES, tokenizer_of
from workers.rewards.artifacts.exported_tokenizer import exported_tokenizer, save_tokenizer
from workers.rewards.artifacts.tokenization_caliper import CaliperTokenizer
from workers.rewards.models.load import load_tokenizer
from workers.rewards.text.chat import ChatTemplate, template_of
from workers.rewards.text.sections import RESPONSE_HEADER, Template, plain

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"town": "Oslo ###", "b": [1, "ü"]}},
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TOLD: list[tuple[list[dict[str, Any]], list[Any]]] = [
    ([], []),
    ([], TOOLS),
    ([{"role": "user", "content": "how"}], []),
    (
        [
            {"role": "system", "content": "Be ### brief ########.\n"},
            {"role": "CRITIC", "name": "Ann ###", "content": "  why? 你好"},
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL, {"function": {"name": "now"}}]},
            {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "7"},
            {"role": "tool", "tool_call_id": "unknown", "content": ""},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "user", "content": "go on"},
        ],
        TOOLS,
    ),
]


@pytest.fixture(scope="module")
def sections(tiny_lm: Path) -> tuple[Template, Any]:
    template = template_of(
        load_tokenizer("tiny", str(tiny_lm)), architecture="causal", ordinal=False, max_length=256
    )
    return template, exported_tokenizer(template)


@pytest.mark.parametrize(("messages", "tools"), TOLD)
def test_the_template_of_sections_writes_what_is_trained_on(
    messages: list[Any], tools: list[Any], sections: tuple[Template, Any]
) -> None:
    template, tokenizer = sections
    prompt = template.prompt_text(messages, tools)
    answer = {"role": "assistant", "content": "water ### it"}
    text = tokenizer.apply_chat_template([*messages, answer], tools=tools or None, tokenize=False)
    assert text == prompt + RESPONSE_HEADER + "water \\### it"
    if messages:
        begun = tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=True
        )
        assert begun == prompt + RESPONSE_HEADER


@settings(max_examples=200, deadline=None)
@given(text=st.text("#\\ \nx", max_size=30))
def test_it_escapes_every_run_of_three(text: str, sections: tuple[Template, Any]) -> None:
    _, tokenizer = sections
    written = tokenizer.apply_chat_template([{"role": "assistant", "content": text}], tokenize=False)
    assert written == RESPONSE_HEADER + plain(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_models_template_ends_at_the_response_and_differs_in_nothing_else(family: str) -> None:
    source = tokenizer_of(family)
    # what a wrapped template could lose: its first and last line, variables, a macro, a block that transformers know
    source.chat_template = (
        "\n{% set seen = namespace(n=0) %}{% macro said(m) %}{% generation %}{{ m }}{% endgeneration %}{% endmacro %}"
        f"{{% set seen.n = seen.n + 1 %}}{source.chat_template}{{% if seen.n != 1 %}}lost{{% endif %}}\n"
    )
    template = template_of(source, architecture="causal", ordinal=False, max_length=256)
    assert isinstance(template, ChatTemplate)
    own, tokenizer = template.tokenizer, exported_tokenizer(template)
    ask, answer = {"role": "user", "content": "how?"}, {"role": "assistant", "content": "water it"}
    for begin in (False, True):
        given = {"tokenize": False, "add_generation_prompt": begin}
        assert tokenizer.apply_chat_template([ask], **given) == own.apply_chat_template([ask], **given)
    whole = own.apply_chat_template([ask, answer, ask, answer], tokenize=False)
    ended = tokenizer.apply_chat_template([ask, answer, ask, answer], tokenize=False)
    assert whole.startswith(ended)
    assert ended.endswith("water it")
    assert whole != ended
    assert tokenizer.pad_token == tokenizer.eos_token == (template.end_of_turn or source.eos_token)


def test_end_tokens_at_the_end_are_hidden_and_no_others(tmp_path: Path) -> None:
    template = template_of(tokenizer_of("qwen2"), architecture="causal", ordinal=False, max_length=256)
    save_tokenizer(exported_tokenizer(template), template, tmp_path)
    tokenizer = CaliperTokenizer.from_pretrained(tmp_path)
    end = tokenizer.eos_token
    texts = [f"a{end}b{end}{end}", "ab", f"{end}"]
    lists = tokenizer(texts)
    assert lists["attention_mask"] == [[1, 1, 1, 0, 0], [1] * len(lists["input_ids"][1]), [1]]
    assert tokenizer(texts[0])["attention_mask"] == [1, 1, 1, 0, 0]
    left = tokenizer([texts[0], "b"], padding=True, padding_side="left", return_tensors="pt")
    assert torch.equal(left["attention_mask"], torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]]))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reads_response": False}))
    assert CaliperTokenizer.from_pretrained(tmp_path)(texts[0])["attention_mask"] == [1] * 5
