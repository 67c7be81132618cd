"""The memory plan: counts on shapes alone are what a real model keeps, and a run follows it."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from workers.rewards.config import Refused, ResolvedConfig, RunConfig
from workers.rewards.models import attention, encode, memory
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.fused import FusedNorm
from workers.rewards.models.memory import Sizes, fit, sizes
from workers.rewards.models.packing import Segments
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.training import prepare
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stopped

from ..training.test_resume import StopAfter

GB = 10**9
SHAPE = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("causal", {"num_key_value_heads": 2}),
    "Llama": ("causal", {"num_key_value_heads": 4}),
    "Bert": ("encoder", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
}


def config_of(family: str) -> Any:
    return getattr(transformers, f"{family}Config")(**SHAPE, **FAMILIES[family][1])


def resolved(tuning: str, kind: str = "causal", width: int = 128, **keys: Any) -> ResolvedConfig:
    return dataclasses.replace(
        RunConfig.from_dict({"tuning": tuning, "base_model": "some/model", **keys}).resolved(
            kind, width, "cuda"
        ),
    )


@pytest.mark.parametrize(
    ("family", "tuning"), [("Qwen2", "tuned"), ("Qwen2", "lora"), ("Llama", "tuned"), ("Bert", "tuned")]
)
def test_what_is_counted_on_shapes_is_what_a_real_model_keeps(family: str, tuning: str) -> None:
    """On the CPU's own attention, which keeps what FlashAttention does; saved_tensors_hooks sees the real bytes.

    A layer norm stands in for the fused RMS norm, which a CPU makes of parts.
    """
    kind = FAMILIES[family][0]
    config = resolved(tuning, kind)
    size = sizes(config_of(family), config)

    base = config_of(family)
    base._attn_implementation = attention.ATTENTION
    loader = transformers.AutoModelForCausalLM if kind == "causal" else transformers.AutoModel
    backbone = loader.from_config(base, dtype=torch.bfloat16 if tuning == "lora" else torch.float32)
    assert size.weights == sum(parameter.numel() for parameter in backbone.parameters())
    model = RewardModel(backbone, architecture=kind, kind="scalar")
    if tuning == "lora":
        model.add_lora(config)
        assert size.adapters == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    model.fuse()
    for module in model.modules():
        if isinstance(module, FusedNorm):
            module.kernel = lambda x, shape, weight, eps: torch.nn.functional.layer_norm(
                x, shape, weight, None, eps
            )
    model.train()
    if config.dropout is not None:
        prepare.set_dropout(model.backbone, 0.0)

    def kept(length: int) -> int:
        own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        seen: dict[int, torch.UntypedStorage] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage
            return tensor

        ids, ends = torch.zeros(1, length, dtype=torch.int64), torch.tensor([0, length], dtype=torch.int32)
        segments = Segments((length,), (length,), None, ends, ends, length)
        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
        ):
            model._body(input_ids=ids, position_ids=torch.arange(length).unsqueeze(0), segments=segments)
        return sum(storage.nbytes() for storage in seen.values())

    short, long = kept(100), kept(200)
    assert size.kept_token == pytest.approx((long - short) / 100, rel=0.1)
    assert size.kept_pass == pytest.approx(2 * short - long, rel=0.2)


def qwen(billions: str) -> Any:
    """The config of a Qwen2.5."""
    width, inner, layers, heads, groups = {
        "0.5": (896, 4864, 24, 14, 2),
        "7": (3584, 18944, 28, 28, 4),
    }[billions]
    return transformers.Qwen2Config(
        vocab_size=152000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=32768,
        tie_word_embeddings=billions == "0.5",
    )


@functools.cache
def counted(tuning: str) -> tuple[Sizes, ResolvedConfig]:
    """A 7B and how it is tuned."""
    config = resolved(tuning, width=3584)
    return sizes(qwen("7"), config), config


def test_half_a_billion_weights_fill_a_card_as_measured() -> None:
    """An H100 took 28.9 GiB for all weights of a 0.5B with 16,851 computed tokens held (docs/measurements.md)."""
    config = resolved("tuned", width=896)
    size = sizes(qwen("0.5"), config)
    plan = fit(size, config, 79 * GB, 1024)
    assert not plan.checkpointing
    assert plan.fixed + 16_851 * plan.token == pytest.approx(28.9 * 2**30, rel=0.1)
    assert plan.tokens > memory.LARGEST_PASS == plan.per_pass
    assert plan.peak <= 0.9 * 79 * GB
    budget = plan.applied(config).with_budget(50_000_000, plan.tokens).token_budget
    assert budget == plan.tokens // 16_384 * 16_384 >= memory.LARGEST_PASS


def test_what_can_not_fit_is_refused_with_what_would() -> None:
    size, config = counted("tuned")
    with pytest.raises(Refused) as refused:
        fit(size, config, 79 * GB, 1024)
    said = str(refused.value)
    assert re.search(r"'some/model' of 7\.6\d billion weights takes 1[2-4]\d\.\d GB with tuning tuned", said)
    assert "79.0 GB of the GPU are free" in said
    offered = dict(re.findall(r"(tuning \w+|shard over \d+ GPUs|optimizer \w+) \((\d+)\.\d GB\)", said))
    assert {"tuning lora", "tuning qlora", "shard over 2 GPUs"} <= set(offered)
    assert int(offered["tuning lora"]) == 16
    assert int(offered["tuning qlora"]) < int(offered["tuning lora"]) - 8
    assert "optimizer adamw_8bit" not in offered  # 76 GB without activations

    size, lora = counted("lora")
    plan = fit(size, lora, 79 * GB, 1024)
    assert not plan.checkpointing
    assert 4_000 < plan.tokens < 12_000
    assert plan.fixed == pytest.approx(16 * GB, rel=0.1)
    small = fit(size, lora, 24 * GB, 1024)
    assert small.checkpointing  # two gigabytes of activations otherwise hold 800 tokens
    assert small.tokens >= memory.SMALLEST_PASS


def test_texts_that_are_too_long_are_refused_with_a_length_that_fits() -> None:
    size, config = counted("lora")
    with pytest.raises(Refused, match=r"texts of 200,000 tokens.*max_length [\d,]+ or less") as refused:
        fit(size, config, 24 * GB, 200_000)
    length = int(re.search(r"max_length ([\d,]+)", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    assert fit(size, config, 24 * GB, length).tokens >= length


def test_what_needs_numbers_is_estimated_by_width() -> None:
    """A router of experts can't be tried on shapes alone under fp32 weights."""
    base = transformers.Qwen3MoeConfig(
        **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    )
    size = sizes(base, resolved("tuned"))
    assert size.kept_token == memory.USUAL * 3 * 128
    assert size.weights > 400_000


@pytest.mark.parametrize("tuning", ["tuned", "lora"])
def test_a_run_follows_the_memory_of_its_gpu(
    tuning: str,
    make_run: Callable[..., Path],
    tiny_lm: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole path on a CPU, with a card's free memory in place of measured: enough for some of a step's tokens."""
    keys = {
        "tuning": tuning,
        "token_budget": None,
        "epochs": 2,
        "max_length": 64,
        "lora_rank": 2,
        "reliability": False,
    }
    base = transformers.AutoConfig.from_pretrained(tiny_lm)
    size = sizes(base, resolved(tuning, width=32, max_length=64, lora_rank=2))
    chosen = memory.way(size, resolved(tuning, width=32))
    free = int((chosen.fixed + 250 * chosen.token) / memory.USABLE) + 1
    monkeypatch.setattr(memory, "SMALLEST_PASS", 64)
    results = []
    for name, here in (("gpu", free), ("large", 10**12)):
        monkeypatch.setattr(prepare, "free_bytes", lambda device, here=here: here)
        results.append(train(make_run(tiny_lm, "bt", name, **keys)))
    told, large = results
    plan = told["memory"]
    assert (plan["free"], plan["tokens"], plan["checkpointing"]) == (free, 250, False)
    assert told["config"]["micro_batch_tokens"] == 250
    assert told["config"]["token_budget"] == large["config"]["token_budget"] >= 512
    assert f"memory: {plan['words']}" in capsys.readouterr().err
    # learnt part by part, stopped, and gone on with on a fuller card, yet the same
    broken = make_run(tiny_lm, "bt", "broken", **keys)
    for here, questions in ((10**12, 4), (free, 10**6)):
        monkeypatch.setattr(prepare, "free_bytes", lambda device, here=here: here)
        try:
            resumed = train(broken, StopAfter(questions))
        except Stopped:
            assert (broken / "checkpoint").exists()
    assert resumed["memory"]["tokens"] == 250
    assert resumed["training"]["loss"] == pytest.approx(large["training"]["loss"], rel=1e-4)
    assert told["training"]["steps"] == large["training"]["steps"]
    assert told["training"]["loss"] == pytest.approx(large["training"]["loss"], rel=1e-4)


def test_a_card_that_runs_out_of_memory_is_given_less_and_learns_the_same(
    make_run: Callable[..., Path], tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass of more tokens than it bears fails, as on a card that holds less than was planned."""
    keys = {"tuning": "tuned", "token_budget": None, "epochs": 1, "max_length": 64, "reliability": False}
    bears, plain = [10**6], ResponseEncoder._packed

    def run(encoder: ResponseEncoder, rows: Any, log_probs: bool) -> Any:
        if torch.is_grad_enabled() and encoder.tokens(rows) > bears[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(encoder, rows, log_probs)

    monkeypatch.setattr(prepare, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(ResponseEncoder, "_packed", run)
    monkeypatch.setattr(encode, "NARROWEST", 64)
    large = train(make_run(tiny_lm, "bt", "large", **keys))
    bears[0] = 150
    short = make_run(tiny_lm, "bt", "short", **keys)
    assert train(short)["training"]["loss"] == pytest.approx(large["training"]["loss"], rel=1e-4)
    assert "memory ran out: 128 tokens at once from step 2 on" in (short / "progress.jsonl").read_text()
    bears[0] = 20
    with pytest.raises(torch.OutOfMemoryError):
        train(make_run(tiny_lm, "bt", "none", **keys))


def test_a_base_model_that_can_not_fit_is_refused_before_its_weights_are_read(
    make_run: Callable[..., Path], tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "free_bytes", lambda device: 100_000)
    monkeypatch.setattr(prepare, "backbone_of", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises(Refused, match=r"takes .* MB with tuning tuned .* 0\.1 MB of the GPU are free"):
        train(make_run(tiny_lm, "bt"))


def test_a_cpu_has_no_plan(make_run: Callable[..., Path], tiny_encoder: Path) -> None:
    assert train(make_run(tiny_encoder, "bt", epochs=1))["memory"] is None


@pytest.mark.parametrize(
    ("kind", "tuning", "width", "tokens", "rate"),
    [
        ("encoder", "tuned", 384, 2048, 1.5e-4),
        ("encoder", "tuned", 384, 65_536, 1.5e-4),
        ("causal", "tuned", 4096, 2048, 1.001e-5),
        ("causal", "tuned", 896, 16_384, 1e-5),
        ("causal", "tuned", 896, 16_383, 4.58e-5),
        ("causal", "tuned", 256, 16_384, 1.6e-4),
        ("causal", "lora", 3584, 16_384, 1e-4),
        ("causal", "lora", 8192, 16_384, 5.0e-5),
    ],
)
def test_the_learning_rate_is_that_of_its_step(
    kind: str, tuning: str, width: int, tokens: int, rate: float
) -> None:
    config = dataclasses.replace(resolved(tuning, kind, width), token_budget=tokens).with_rate(width)
    assert config.learning_rate == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize(
    ("tokens", "held", "budget"),
    [(50_000_000, 40_000, 32_768), (50_000_000, 5_000, 16_384), (400_000, 40_000, 25_000), (40_000, 40_000, 5_000),
     (1_000, 40_000, 512)],
)  # fmt: skip
def test_a_gpus_steps_are_large_but_an_epoch_has_some(tokens: int, held: int, budget: int) -> None:
    assert resolved("tuned").with_budget(tokens, held).token_budget == budget
