"""Sampling from a tiny model with random weights: what a text depends on, and what it does not."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.rewards.text.chat_templates import tokenizer_of
from workers.rewards.generative.sampling import (
    READ_TOKENS,
    Chat,
    Sampled,
    TransformersSampler,
    VLLMSampler,
    choose,
    has_vllm,
)
from workers.rewards.models.attention import ATTENTION
from workers.rewards.training.progress import Stopped

NEW = 24


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of("qwen2")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    """Two layers, which say something else after every prompt."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
    )
    made = Qwen2ForCausalLM(config).eval()
    made.set_attn_implementation(ATTENTION)
    return made


def chats(count: int = 6) -> list[Chat]:
    """Prompts of several lengths, each asked twice."""
    return [Chat((), tuple(range(5, 8 + 3 * (number // 2))), seed=number) for number in range(count)]


def sampler(
    model: Any, tokenizer: Any, batch_tokens: int | None = None, stop_ids: Any = None
) -> TransformersSampler:
    stop_ids = [tokenizer.eos_token_id] if stop_ids is None else stop_ids
    return TransformersSampler(
        model, tokenizer, torch.device("cpu"), stop_ids=stop_ids, batch_tokens=batch_tokens
    )


def drawn(one: TransformersSampler, asked: list[Chat], temperature: float = 1.0) -> list[Any]:
    return one.sample(asked, temperature=temperature, max_new_tokens=NEW, progress=lambda *told: None)


def test_a_text_depends_on_its_prompt_and_seed_alone(model: Any, tokenizer: Any) -> None:
    asked = chats()
    together = drawn(sampler(model, tokenizer), asked)
    assert len({result.text for result in together}) == len(asked)
    assert together == [drawn(sampler(model, tokenizer), [chat])[0] for chat in asked]
    assert together == drawn(sampler(model, tokenizer, batch_tokens=80), asked)
    assert together[::-1] == drawn(sampler(model, tokenizer), asked[::-1])
    for result in together:
        assert tokenizer.decode(result.ids, skip_special_tokens=True) == result.text


def test_no_temperature_is_the_likeliest_text_as_transformers_generates_it(
    model: Any, tokenizer: Any
) -> None:
    asked = chats()
    for chat, result in zip(asked, drawn(sampler(model, tokenizer, stop_ids=[]), asked, 0.0), strict=True):
        ids = torch.tensor([chat.ids])
        said = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        text = tokenizer.decode(said[0, len(chat.ids) :], skip_special_tokens=True)
        assert (result.text, result.tokens_in, result.tokens_out) == (text, len(chat.ids), NEW)
        assert not result.finished


def test_a_text_ends_at_any_of_the_stop_tokens_and_rows_that_ended_are_dropped(
    model: Any, tokenizer: Any
) -> None:
    asked = chats(12)
    stops = list(range(0, len(tokenizer), 12))
    one = sampler(model, tokenizer, stop_ids=stops)
    results = drawn(one, asked)
    assert any(result.finished for result in results)
    for whole, result in zip(drawn(sampler(model, tokenizer, stop_ids=[]), asked), results, strict=True):
        assert whole.text.startswith(result.text)
        assert result.finished or result == whole
        assert result.tokens_out <= NEW
    assert one.usage.tokens_out == sum(result.tokens_out for result in results)
    assert one.usage.tokens_in == sum(len(chat.ids) for chat in asked)


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).repeat(20_000, 1)
    chosen = choose(logits, torch.rand(20_000, generator=torch.Generator().manual_seed(0)), 0.5)
    shares = torch.bincount(chosen, minlength=4) / 20_000
    assert torch.allclose(shares, torch.softmax(logits[0] / 0.5, -1), atol=0.01)
    assert choose(logits[:1], torch.tensor([1.0]), 0.5) == 3


def test_prompts_are_read_in_parts_that_give_the_same(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(sampler(model, tokenizer), chats(12))
    monkeypatch.setitem(READ_TOKENS, "cpu", 50)
    assert drawn(sampler(model, tokenizer), chats(12)) == whole


def test_results_are_told_as_they_come_and_a_stop_keeps_what_was_told(model: Any, tokenizer: Any) -> None:
    told: dict[int, Any] = {}

    def stop(number: int, result: Any) -> None:
        told[number] = result
        if len(told) >= 3:
            raise Stopped

    asked = chats()
    with pytest.raises(Stopped):
        sampler(model, tokenizer, batch_tokens=80).sample(
            asked, temperature=1.0, max_new_tokens=NEW, progress=stop
        )
    whole = drawn(sampler(model, tokenizer), asked)
    assert len(told) == 3
    assert all(whole[number] == result for number, result in told.items())


def test_a_stop_is_seen_within_a_text(model: Any, tokenizer: Any) -> None:
    looks: list[int] = []

    def check() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise Stopped

    one = TransformersSampler(model, tokenizer, torch.device("cpu"), stop_ids=[], check=check)
    with pytest.raises(Stopped):
        one.sample(chats(1), temperature=1.0, max_new_tokens=200, progress=lambda *told: None)


def test_vllm_gets_each_chats_ids_and_seed(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    calls: list[Any] = []

    class LLM:
        def __init__(self, **options: Any) -> None:
            calls.append(options)

        def generate(self, prompts: Any, params: Any, **options: Any) -> list[Any]:
            calls.append((prompts, params, options))
            said = SimpleNamespace(token_ids=tokenizer("well")["input_ids"], finish_reason="stop")
            return [
                SimpleNamespace(prompt_token_ids=each["prompt_token_ids"], outputs=[said]) for each in prompts
            ]

    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = LLM, lambda **options: options  # type: ignore[attr-defined]
    request.LoRARequest = lambda *parts: parts  # type: ignore[attr-defined]
    for name, module in (("vllm", vllm), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    one = VLLMSampler("base", tokenizer, stop_ids=(1, 2), max_length=99, adapters="adapters", rank=8)
    asked, said = chats(3), tokenizer("well")["input_ids"]
    results = drawn(one, asked, temperature=0.5)
    assert results == [Sampled("well", len(chat.ids), len(said), True, tuple(said)) for chat in asked]
    options, (prompts, params, given) = calls
    assert (options["model"], options["max_lora_rank"]) == ("base", 8)
    assert [each["prompt_token_ids"] for each in prompts] == [list(chat.ids) for chat in asked]
    assert [each["seed"] for each in params] == [0, 1, 2]
    assert all(each["stop_token_ids"] == [1, 2] and each["temperature"] == 0.5 for each in params)
    assert given["lora_request"] == ("judge", 1, "adapters")
    assert not has_vllm(torch.device("cpu"))
