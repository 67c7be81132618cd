"""A chat template read as it was taught: the ids are those of plain transformers, and no text can spell a marker."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tests.rewards.text.chat_templates import FAMILIES, tokenizer_of
from workers.rewards.artifacts.save import ArtifactError, load_model, save_model
from workers.rewards.config import Refused
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.chat import ChatTemplate, template_of
from workers.rewards.text.sections import Template
from workers.rewards.text.source import dated
from workers.rewards.text.telling import tellings
from workers.rewards.training.loop import train

CPU = torch.device("cpu")
Rows = list[dict[str, Any]]
every = pytest.mark.parametrize("family", FAMILIES)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Oslo", "n": 7}},
}


@functools.cache
def template(family: str, max_length: int = 1024, **given: Any) -> ChatTemplate:
    given = {"ordinal": False, **given}
    return ChatTemplate(tokenizer_of(family), max_length=max_length, **given)


def turns(*contents: str, system: str | None = None) -> Rows:
    """A conversation that the user begins."""
    roles = ["user", "assistant"] * len(contents)
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def rendered_ids(
    chosen: ChatTemplate, messages: Rows, text: str, tools: Any = None, ended: bool = True
) -> list[int]:
    """What transformers, TRL and OpenRLHF read; without the end of the turn if not `ended`."""
    answer = {"role": "assistant", "content": text}
    whole = str(chosen.tokenizer.apply_chat_template([*messages, answer], tools=tools, tokenize=False))
    if not ended:
        whole = whole.removesuffix(rendered_tail(chosen, messages))
    return list(chosen.tokenizer(whole, add_special_tokens=False)["input_ids"])


def rendered_tail(chosen: ChatTemplate, messages: Rows) -> str:
    """What the template writes after the last response."""
    turns = [*messages, {"role": "assistant", "content": "ends HERE"}]
    return str(chosen.tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("ends HERE")[2]


def only(chosen: Template, messages: Rows, text: str, **more: Any) -> Any:
    return chosen.encode([{"messages": messages, "text": text, **more}])[0]


# --- As plain transformers read it ---

EDGES = st.sampled_from(["", "", " ", "\n", "\n\n", " \n ", "\t"])
WORDS = st.text("abe 7.\n\u00e9\u2581\U0001f600#<|[:", max_size=12) | st.text(max_size=8)
TEXT = st.builds(lambda lead, core, trail: lead + core + trail, EDGES, WORDS, EDGES).filter(
    lambda text: (
        not any(0xD800 <= ord(c) < 0xE000 or ord(c) in range(0x1C, 0x20) or c == "\x85" for c in text)
    )
)


@every
@settings(max_examples=25, deadline=None)
@given(contents=st.lists(TEXT, min_size=1, max_size=3), texts=st.lists(TEXT, min_size=1, max_size=3))
@example(contents=["how do i?", "water it", "\n why\n"], texts=["", " ", "it is 7.", "\n\n7 ", ".\n"])
@example(contents=[" "], texts=["  x", "x  "])
def test_ids_are_those_of_plain_transformers(family: str, contents: list[str], texts: list[str]) -> None:
    messages = turns(*(contents if len(contents) % 2 else contents[:-1]))
    whole, short, policy = (template(family, **more) for more in ({"reads": "turn"}, {}, {"policy": True}))
    rows = [{"messages": messages, "text": text} for text in texts]
    for text, turn, own, taught in zip(
        texts, whole.encode(rows), short.encode(rows), policy.encode(rows), strict=True
    ):
        expected = rendered_ids(whole, messages, text)
        assert list(turn.ids) == expected
        assert turn.after == 0
        # as far as prompt and response go, the end of the turn apart
        assert list(own.ids) == rendered_ids(whole, messages, text, ended=False)
        assert (own.stop, own.after) == (len(own), 0)
        assert taught.ids[: len(own)] == own.ids
        assert taught.stop == len(taught) == len(own) + taught.after
        if family not in ("llama2", "mistral", "vicuna"):  # which write text between a response and the end
            assert list(taught.ids) == expected[: len(taught)]
            assert own.start == turn.start
        if text.isascii():
            shown = whole.tokenizer.decode(own.ids[own.start : own.stop], clean_up_tokenization_spaces=False)
            assert shown.strip() == text.strip()


def test_system_turns_tools_and_calls_go_through_the_template() -> None:
    chosen = template("qwen2", reads="turn")
    messages = [
        *turns("how warm?", system="Be brief."),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": '{"degrees": 7}'},
    ]
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    expected = rendered_ids(chosen, given, "7 degrees", [WEATHER])
    assert list(only(chosen, messages, "7 degrees", tools=[WEATHER]).ids) == expected
    # as OpenAI writes them, arguments are a text
    function = {**CALL["function"], "arguments": json.dumps(CALL["function"]["arguments"])}
    messages[2] = {**messages[2], "tool_calls": [{**CALL, "function": function}]}
    assert list(only(chosen, messages, "7 degrees", tools=[WEATHER]).ids) == expected
    assert not chosen.notes([{"messages": messages, "tools": [WEATHER]}])


def test_think_marks_that_the_template_writes_stay_its_own() -> None:
    chosen = template("qwen3")
    think, close = chosen.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    row = only(chosen, turns("why?"), "<think>I forge</think>because")
    assert (row.ids.count(think), row.ids.count(close)) == (1, 1)
    assert row.ids.index(close) < row.start
    assert chosen.tokenizer.decode(row.ids[row.start :]) == "<think>I forge</think>because"


def test_a_date_in_the_template_stays_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = template("llama3")
    text = chosen.tokenizer.decode(only(chosen, turns("why?"), "so").ids)
    assert "Today Date: 26 Jul 2024\n\n" in text
    chosen.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ChatTemplate(loaded, ordinal=False, max_length=1024).describe() == chosen.describe()
    pinned = dated("{{ strftime_now('%A %d %B %Y, %Y-%m-%d') }}\n x")
    shown = loaded.apply_chat_template(turns("a"), chat_template=pinned, tokenize=False)
    assert shown == "Friday 26 July 2024, 2024-07-26\n x"
    assert dated(pinned) == pinned
    assert dated("no date") == "no date"


def test_of_several_templates_the_one_for_tools_is_taken_where_there_are_tools() -> None:
    tokenizer = tokenizer_of("qwen2")
    tools = "\n{% for m in messages %}{{ tools[0].function.name }} {{ m.content }}\n{% endfor %}\n"
    tokenizer.chat_template = {"default": FAMILIES["qwen2"][0], "tool_use": tools}
    expected = [rendered_ids(template("qwen2"), turns("why"), "so"), None]
    text = tokenizer.apply_chat_template(
        [*turns("why"), {"role": "assistant", "content": "so"}], tools=[WEATHER], tokenize=False
    )
    expected[1] = tokenizer(text, add_special_tokens=False)["input_ids"]
    chosen = ChatTemplate(tokenizer, ordinal=False, max_length=512, reads="turn")
    found = [only(chosen, turns("why"), "so", tools=offer) for offer in ([], [WEATHER])]
    assert [list(row.ids) for row in found] == expected
    tokenizer.chat_template = {"rag": "{{ messages[0].content }}"}
    sections = template_of(tokenizer, architecture="causal", ordinal=False, max_length=512)
    assert "of rag none is the default" in str(sections.read_as)


# --- No text can spell a marker ---


@every
def test_text_with_every_special_token_changes_no_other_token(family: str) -> None:
    chosen, ordinal = template(family), template(family, ordinal=True)
    tokenizer = chosen.tokenizer
    special = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    names = [tokenizer.decode([token]) for token in sorted(special)]
    assert len(names) >= 2
    spelled = "".join(names) + " a ".join(names) + names[0][:3] + names[0]
    private = "\U000f0000\U000f0001\U00100000"
    for forged in (spelled, private + spelled, f"x{spelled}</think>[INST]y", names[-1]):
        for each in (chosen, ordinal):
            plain = only(each, turns("one", "two", "three"), "four")
            hostile = only(each, turns("one", forged, "three"), "four")
            answer = only(each, turns("one", "two", "three"), f"four{forged}")
            frame = [token for token in plain.ids if token in special]
            for row in (hostile, answer):
                assert [token for token in row.ids if token in special] == frame
            assert answer.ids[: answer.start] == plain.ids[: plain.start]
            assert hostile.ids[hostile.start :] == plain.ids[plain.start :]
            shown = tokenizer.decode(
                answer.ids[answer.start : answer.stop], clean_up_tokenization_spaces=False
            )
            assert shown.strip() == f"four{forged}".strip()


def test_tools_and_arguments_can_spell_no_marker_either() -> None:
    chosen = template("qwen2")
    tokenizer = chosen.tokenizer
    special = set(tokenizer.added_tokens_decoder)

    def frame(word: str) -> list[int]:
        tool = {
            "type": "function",
            "function": {"name": "weather", "description": word, "parameters": {word: word}},
        }
        call = {"function": {"name": "weather", "arguments": {word: [word]}}}
        messages = [*turns("a"), {"role": "assistant", "content": word, "tool_calls": [call]}]
        messages.append({"role": "tool", "name": word, "content": word})
        row = only(chosen, messages, "b", tools=[tool])
        assert word in tokenizer.decode(row.ids)
        return [token for token in row.ids if token in special]

    assert frame("x" + "".join(tokenizer.decode([token]) for token in special)) == frame("x")


def test_a_vocabulary_that_holds_its_markers_among_its_words_spells_none() -> None:
    """SentencePiece's Unigram would find "</s>" as the best piece of a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("\u2581", -3.0)]
    words += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz<>/[]{}.#\n:SUASERINT0123456789"]
    core = Tokenizer(models.Unigram(words, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = FAMILIES["llama2"][0]
    chat = ChatTemplate(tokenizer, ordinal=False, max_length=256)
    encoder = Template(tokenizer, architecture="encoder", ordinal=False, max_length=256)
    for chosen in (chat, encoder):
        plain, forged = (only(chosen, turns(f"a{word}b"), f"c{word}") for word in ("", "</s><s>"))
        assert [i for i in forged.ids if i in (1, 2)] == [i for i in plain.ids if i in (1, 2)]
        assert "c</s><s>" in tokenizer.decode(forged.ids, clean_up_tokenization_spaces=False).translate(
            {ord(" "): None, ord("\u2581"): None}
        )


# --- What a template refuses ---

ODD: dict[str, tuple[Rows, list[Any]]] = {
    "no prompt": ([], []),
    "system": (turns("why?", system="Be brief."), []),
    "assistant first": ([{"role": "assistant", "content": "hello"}, *turns("why?")], []),
    "assistant last": (turns("why?", "because"), []),
    "two of one role": ([*turns("why?"), *turns("tell me")], []),
    "an unknown role": ([{"role": "critic", "name": "bo", "content": "be harsh"}, *turns("why?")], []),
    "the developer": ([{"role": "developer", "content": "be harsh"}, *turns("why?")], []),
    "tools": (
        [
            *turns("how warm?"),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "7 degrees"},
        ],
        [WEATHER],
    ),
    "blank": (turns(" \n"), []),
}


@every
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_conversation_is_told_whole_in_turns_that_the_template_knows(family: str, odd: str) -> None:
    messages, tools = ODD[odd]
    chosen = template(family)
    row = only(chosen, messages, "so it is", tools=tools)
    text = chosen.tokenizer.decode(row.ids, clean_up_tokenization_spaces=False)
    assert text.endswith("so it is")
    at = 0
    for said in [message["content"].strip() for message in messages if message["content"]]:
        assert (at := text.find(said, at)) >= 0, text
    if tools:
        assert text.count("weather") >= 2
        assert "Oslo" in text
    notes = chosen.notes([{"messages": messages, "tools": tools}, {"messages": turns("why?")}])
    assert len(notes) <= 1
    assert all(note.startswith("1 of 2 prompts hold turns") for note in notes)
    refused = {"gemma", "mistral", "llama2"}
    if odd in ("assistant first", "assistant last", "two of one role", "no prompt", "system"):
        assert bool(notes) == (family in refused)


def test_conversations_are_told_in_steps_from_their_own_to_the_plainest() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "system", "content": "T"}, *turns("u", "a")]
    own, *again, text, alternating, without_system, single = (told for told, _ in tellings(messages, []))
    assert own == text == messages
    assert all(told == messages for told in again[:2])  # without calls there is but one way to write them
    silent = {"role": "user", "content": ""}
    assert alternating == [{"role": "system", "content": "S\n\nT"}, *turns("u", "a"), silent]
    assert without_system == [*turns("S\n\nT\n\nu", "a"), silent]
    assert single == turns("System\nS\n\nSystem\nT\n\nUser\nu\n\nAssistant\na")
    ((first, _), *_) = tellings([{"role": "critic", "content": "c"}], [WEATHER])
    assert [message["role"] for message in first] == ["system", "user"]
    assert first[1]["content"] == "Critic\nc"


def test_published_templates_are_read_as_transformers_render_them() -> None:
    """Those that TRL ships, of 30 families; tools and system turns that a template refuses are told as text."""
    trl = pytest.importorskip("trl", reason="its chat templates are read")
    seen, as_text = 0, set()
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
        if re.search(r"_training|nemotron_3_[^n]|_v\d|qwen3_[68]", path.stem):
            continue  # near copies of others
        tokenizer = tokenizer_of("qwen2")
        tokenizer.bos_token = "<|endoftext|>"
        tokenizer.chat_template = source = path.read_text(encoding="utf-8")
        markers = dict.fromkeys(re.findall(r"<\|?[^\s<>{}'\"|]+\|?>|\[/?[A-Z_]+\]", source))
        tokenizer.add_tokens([AddedToken(each, normalized=False) for each in markers], special_tokens=True)
        chosen = template_of(tokenizer, architecture="causal", ordinal=False, max_length=4096, reads="turn")
        if not isinstance(chosen, ChatTemplate):
            assert path.name.startswith(("idefics3", "llava", "smolvlm"))  # they take pictures
            continue
        for messages, tools in (
            (turns("why?"), []),
            (turns(" why?\n", "because", "and?", system="Be brief."), []),
            (ODD["tools"]),
        ):
            row = only(chosen, messages, "so <|im_end|> it is", tools=tools)
            assert "so <|im_end|> it is" in tokenizer.decode(row.ids)
            row = only(chosen, messages, "so it is.", tools=tools)
            if chosen.notes([{"messages": messages, "tools": tools}]):
                as_text.add(path.stem)
                continue
            answer = {"role": "assistant", "content": "so it is."}
            whole = chosen._apply([*messages, answer], tools)
            assert list(row.ids) == tokenizer(whole, add_special_tokens=False)["input_ids"], path.name
            seen += 1
    assert seen > 60
    assert {"gemma", "llama3", "phi3"} <= as_text
    assert as_text.isdisjoint({"qwen2_5", "qwen3", "llama3_1"})


def test_a_template_that_shows_no_answer_gives_way_to_sections() -> None:
    tokenizer = tokenizer_of("qwen2")
    for broken, why in (
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ messages[0].content }}", "it leaves out"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "it leaves out"),
    ):
        tokenizer.chat_template = broken
        chosen = template_of(tokenizer, architecture="causal", ordinal=False, max_length=128)
        assert type(chosen) is Template
        assert chosen.read_as is not None
        assert chosen.read_as.startswith(
            f"### sections: the base model has a chat template that can't be used: {why}"
        )
    tokenizer.chat_template = None
    chosen = template_of(tokenizer, architecture="causal", ordinal=False, max_length=128)
    assert chosen.read_as == "### sections: the base model has no chat template"
    chosen = template_of(tokenizer_of("gemma"), architecture="encoder", ordinal=False, max_length=128)
    assert type(chosen) is Template
    assert chosen.read_as is None


# --- Cutting ---


@every
@pytest.mark.parametrize("ordinal", [False, True])
def test_the_earliest_texts_give_way_first_and_the_response_stays_whole(family: str, ordinal: bool) -> None:
    whole, short = (template(family, length, ordinal=ordinal) for length in (1024, 240))
    tokenizer = whole.tokenizer
    special = set(tokenizer.added_tokens_decoder)
    messages = turns("FIRST " + "zq " * 200, "SECOND it grows", "THIRD why")
    uncut, row = (only(each, messages, "water it weekly") for each in (whole, short))
    text = tokenizer.decode(row.ids, clean_up_tokenization_spaces=False)
    # room for a policy's end is kept free
    assert 236 <= len(row) <= 240
    assert row.truncated
    assert not row.cut
    assert not uncut.truncated
    assert [i for i in row.ids if i in special] == [i for i in uncut.ids if i in special]
    assert row.ids[row.start :] == uncut.ids[uncut.start :]
    assert "FIRST" not in text
    assert "SECOND it grows" in text
    assert "THIRD why" in text
    assert text.count("[...]") == 1
    policy = only(template(family, 240, policy=True), messages, "water it weekly")
    scalar = only(template(family, 240), messages, "water it weekly")
    assert policy.ids[: len(policy) - policy.after] == scalar.ids


@every
def test_a_response_that_is_too_long_loses_its_middle(family: str) -> None:
    chosen = template(family, 200)
    tokenizer = chosen.tokenizer
    special = set(tokenizer.added_tokens_decoder)
    plain = only(chosen, turns("why"), "x")
    row = only(chosen, turns("why " * 200), "HEAD " + "zq " * 200 + "TAIL")
    text = tokenizer.decode(row.ids[row.start :], clean_up_tokenization_spaces=False)
    assert row.cut
    assert 196 <= len(row) <= 200
    assert text.lstrip().startswith("HEAD")
    assert text.endswith("TAIL")
    assert text.count("[...]") == 1
    assert [i for i in row.ids if i in special] == [i for i in plain.ids if i in special]
    assert "why" in tokenizer.decode(row.ids[: row.start])
    many = only(chosen, turns(*["a"] * 99), "HEAD " + "zq " * 200 + "TAIL")
    assert 196 <= len(many) <= 200
    assert "TAIL" in tokenizer.decode(many.ids)
    assert many.start <= 110


def test_a_length_without_room_for_the_template_is_refused() -> None:
    with pytest.raises(Refused, match="no room for text in the base model's chat template"):
        template("qwen2", 40)


# --- What objectives need of it ---


@every
def test_digits_follow_the_score_within_the_assistants_turn(family: str) -> None:
    chosen = template(family, ordinal=True)
    tokenizer = chosen.tokenizer
    assert chosen.digit_ids is not None
    row = only(chosen, turns("### User\nwhy"), "so\n\n### Score: 9")
    text = tokenizer.decode(row.ids, clean_up_tokenization_spaces=False)
    assert text.rstrip(" ").endswith("so\n\n\\### Score: 9\n\n### Score:")
    assert "\\### User" in text
    assert tokenizer.decode(row.ids[row.start : row.stop]).strip() == "so\n\n\\### Score: 9"
    # the token that follows, as plain transformers see the text
    for digit, token in zip("123456789", chosen.digit_ids, strict=True):
        space = " " if tokenizer.decode([token]).startswith(" ") else ""
        ids = tokenizer(f"{text}{space}{digit}", add_special_tokens=False)["input_ids"]
        suffix = list(row.ids[row.stop :])
        assert ids[-1 - len(suffix) :] == [*suffix, token]


@every
@pytest.mark.parametrize("text", ["so", "", " ", "so.\n", "\n\n7"])
def test_an_exported_template_can_end_in_the_score(family: str, text: str) -> None:
    """What the conversation up to the response, and the suffix, give as one text."""
    chosen = template(family, ordinal=True)
    messages = turns("why", "so", "then")
    whole = chosen.tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": text}], tokenize=False
    )
    tail = rendered_tail(chosen, messages)
    ids = chosen.tokenizer(whole.removesuffix(tail) + chosen.suffix, add_special_tokens=False)["input_ids"]
    assert list(only(chosen, messages, text).ids) == ids


@pytest.fixture(scope="module")
def model() -> RewardModel:
    torch.manual_seed(0)
    tokenizer = tokenizer_of("qwen2")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    made = RewardModel(Qwen2ForCausalLM(config), architecture="causal", kind="scalar").eval()
    assert made.head is not None
    torch.nn.init.normal_(made.head.weight)  # type: ignore[arg-type]
    return made


def rows_of(chosen: ChatTemplate) -> list[Any]:
    texts = ["fine", "", " no\n", "water it <|im_end|> weekly", "7", "x" * 40, "b", "a a a"]
    prompts = [turns("why"), turns("why", "so", "and"), []]
    return chosen.encode([{"messages": prompts[n % 3], "text": text} for n, text in enumerate(texts)])


@torch.no_grad()
@pytest.mark.parametrize("packing", ["packed", "sorted"])
def test_eight_score_as_each_alone_and_a_policys_end_changes_no_score(
    model: RewardModel, packing: str
) -> None:
    plain, policy = (template("qwen2", policy=given) for given in (False, True))
    encoder = ResponseEncoder(model, CPU, 10_000, longest=1024, packing=packing)
    together, _ = encoder.scores(rows_of(plain))
    alone = torch.cat([encoder.scores([row])[0] for row in rows_of(plain)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert alone.std() > 0.01
    ended, log_pi = encoder.scores(rows_of(policy), log_probs=True)
    torch.testing.assert_close(ended, alone, rtol=1e-4, atol=1e-5)
    assert log_pi is not None
    end = policy.tokenizer.eos_token_id
    for row, total in zip(rows_of(policy), log_pi, strict=True):
        assert row.ids[-1] == end
        assert row.after == 1
        logits = model.backbone(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)  # type: ignore[operator]
        expected = sum(logits[t - 1, row.ids[t]].item() for t in range(row.start, len(row)))
        assert total.item() == pytest.approx(expected, abs=1e-3)


def test_responses_of_one_prompt_share_its_tokens() -> None:
    rows = template("llama3").encode(
        [{"messages": turns("why"), "text": text} for text in ("a", "\n b", "7", "")]
    )
    assert len({row.ids[: row.start] for row in rows}) == 1


def test_a_saved_model_reads_the_same_template(model: RewardModel, tmp_path: Path) -> None:
    for reads in ("response", "turn"):
        chosen = template("qwen2", reads=reads)
        save_model(tmp_path / reads, model, chosen, method="bt", partition=(3, 6), base_model="tiny")
        _, loaded, config = load_model(tmp_path / reads)
        assert (config["template"]["name"], config["template"]["reads"]) == ("chat-1", reads)
        assert [row.ids for row in rows_of(loaded)] == [row.ids for row in rows_of(chosen)]  # type: ignore[arg-type]
    path = tmp_path / "turn" / "reward_config.json"
    changed = json.loads(path.read_text())
    changed["template"]["digest"] = "another"
    path.write_text(json.dumps(changed))
    with pytest.raises(ArtifactError, match="builds differently"):
        load_model(tmp_path / "turn")


@pytest.fixture
def chat_lm(tmp_path: Path) -> Path:
    """A language model of one layer that has a chat template."""
    tokenizer = tokenizer_of("qwen2")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.mark.parametrize("method", ["haf", "rgft"])
def test_a_run_reads_its_base_models_template_and_says_so(
    method: str, make_run: Callable[..., Path], chat_lm: Path, rows: tuple[Rows, Rows, Rows]
) -> None:
    odd = {"role": "critic", "content": "be harsh"}
    responses = [
        {**row, "messages": [odd, *row["messages"]]} if row["prompt_id"] == "p0" else row for row in rows[0]
    ]
    folder = make_run(chat_lm, method, responses=responses, epochs=1)
    reading = train(folder)["reading"]
    assert reading["read_as"] == "the base model's chat template"
    (note,) = reading["notes"]
    assert note.startswith("1 of 12 prompts hold turns that the base model's chat template has no words for")
    said = [json.loads(line).get("message") for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert "texts are read through the base model's chat template" in said
    loaded, chosen, config = load_model(folder / "model")
    assert isinstance(chosen, ChatTemplate)
    assert config["template"]["name"] == "chat-1"
    again = score_responses(loaded, chosen, responses)
    table = {
        row["response_id"]: row["score"] for row in pq.read_table(folder / "predictions.parquet").to_pylist()
    }
    assert [row["score"] for row in again] == pytest.approx(
        [table[row["response_id"]] for row in again], abs=1e-4
    )
    report = json.loads((folder / "metrics.json").read_text())["robustness"]
    assert "another_system" in report["templates"]
