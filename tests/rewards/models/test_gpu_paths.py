"""What only a GPU does, reached on a CPU: by autocast, by a kernel that stands in and notes what it gets, or by a
device's name alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention import varlen

from workers.rewards import train
from workers.rewards.config import RunConfig
from workers.rewards.models import attention, distributed, encode, load, memory
from workers.rewards.models.embeddings import embed_cached
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.packing import Segments, pack
from workers.rewards.models.reward_model import RewardModel, set_dropout
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training import loop, prepare
from workers.rewards.training.finish import memory_figures
from workers.rewards.training.progress import Stop

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "attn_implementation": attention.ATTENTION,
}
FAMILIES = {
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "Llama": {"num_key_value_heads": 4},
    "Mistral": {"num_key_value_heads": 2, "head_dim": 16},
    "Bert": {},
}


def model_of(family: str, lora: bool = False) -> RewardModel:
    """A tiny model of the family; with LoRA a bf16 base, as on a GPU."""
    torch.manual_seed(0)
    kind = "encoder" if family == "Bert" else "causal"
    config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
    backbone = getattr(transformers, family + ("Model" if kind == "encoder" else "ForCausalLM"))(config)
    model = RewardModel(backbone.bfloat16() if lora else backbone, architecture=kind, kind="scalar")
    set_dropout(model.backbone, 0.0)
    if lora:
        model.add_lora(RunConfig())
    return model


def texts() -> list[Encoded]:
    """Four texts of two prompts."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 200, (count,), generator=draw).tolist())

    rows = []
    for size, own in ((30, (5, 17, 40)), (8, (80,))):
        prompt = tokens(size)
        rows += [Encoded(prompt + tokens(more), size, size + more, False, 0) for more in own]
    return rows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors count as a GPU's, and autocast is on as it is there."""
    monkeypatch.setattr(attention, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(encode, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of PyTorch's varlen_attn, which has no CPU kernel: what stands in is attention text by text."""
    noted: list[dict[str, Any]] = []
    lines = torch.__version__.split(".")[:2]

    def stand_in(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        assert query.shape[1] == key.shape[1] or enable_gqa
        noted.append({"dtypes": {query.dtype, key.dtype, value.dtype}, "window": window_size, "scale": scale})
        queries, keys = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
        assert (max(queries), max(keys)) == (max_q, max_k)
        assert all(tensor.is_contiguous() for tensor in (query, key, value))
        assert (cu_seq_q.dtype, cu_seq_k.dtype) == (torch.int32, torch.int32), lines
        segments = Segments(tuple(queries), tuple(keys), None, cu_seq_q, cu_seq_k, max_k)
        assert scale is not None
        return attention._by_runs(query, key, value, segments, scale, window_size == (-1, 0), 0.0)

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    attention._varlen.cache_clear()
    yield noted
    attention._varlen.cache_clear()


@pytest.mark.parametrize("lora", [False, True], ids=["tuned", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_varlen_kernel_is_taken_and_trains_as_runs_of_texts_do(
    family: str, lora: bool, gpu: None, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary positions multiply by fp32 numbers, so that queries and keys of an fp32 model come as fp32."""
    found = []
    for on_gpu in (True, False):
        model = model_of(family, lora)
        if on_gpu:
            model.fuse()
        monkeypatch.setattr(attention, "on_gpu", lambda tensor, on_gpu=on_gpu: on_gpu)
        encoder = ResponseEncoder(model, CPU, 4096, longest=256)
        assert encoder.packed
        calls.clear()
        scores = encoder.scores(texts())[0]
        scores.sum().backward()
        layers = SIZES["num_hidden_layers"]
        assert len(calls) == (layers if on_gpu else 0)
        if on_gpu:
            assert all(call["dtypes"] == {torch.bfloat16} for call in calls)
            assert {call["window"] for call in calls} == {(-1, -1) if family == "Bert" else (-1, 0)}
            assert {call["scale"] for call in calls} == {16**-0.5}
        gradient = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
        found.append((scores.detach(), torch.stack(gradient)))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-4)
    name = attention.choose(True, torch.bfloat16, 0.0).name
    assert name == "torch varlen_attn"


@pytest.mark.parametrize(
    ("gpu_here", "dtype", "dropout", "name"),
    [
        (True, torch.float16, 0.0, "torch varlen_attn"),
        (True, torch.bfloat16, 0.1, "padded SDPA"),
        (True, torch.float32, 0.0, "padded SDPA"),
        (False, torch.bfloat16, 0.0, "SDPA by runs"),
    ],
)
def test_the_kernel_follows_device_type_and_dropout(
    gpu_here: bool, dtype: torch.dtype, dropout: float, name: str
) -> None:
    assert attention.choose(gpu_here, dtype, dropout).name == name


@pytest.mark.parametrize("family", ["Qwen2", "Bert"])
def test_padded_attention_gives_what_texts_give_alone(
    family: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_varlen", lambda: None)
    monkeypatch.setattr(encode, "autocast", lambda device: torch.autocast("cpu", enabled=False))
    ran: list[Callable[..., torch.Tensor]] = []
    padded = attention._padded
    monkeypatch.setattr(attention, "_padded", lambda *a: ran.append(padded) or padded(*a))
    model, rows = model_of(family), texts()
    encoder = ResponseEncoder(model, CPU, 4096, longest=256)
    assert encoder.packed
    together = encoder.scores(rows)[0]
    alone = torch.cat(
        [ResponseEncoder(model, CPU, 1, longest=256, packing="sorted").scores([r])[0] for r in rows]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert len(ran) >= 2 * SIZES["num_hidden_layers"]  # the trial of packing, and the texts


def test_dropout_reaches_padded_attention(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Qwen2")
    set_dropout(model.backbone, 0.5)
    rates = []
    monkeypatch.setattr(
        attention, "_padded", lambda q, k, v, s, scale, causal, dropout: rates.append(dropout) or q
    )
    encoder = ResponseEncoder(model.train(), CPU, 4096, longest=256, packing="packed")
    model.packable[CPU, 256] = True
    encoder.scores(texts())
    assert rates == [0.5] * 2


def test_flash_attn_takes_over_where_pytorch_has_no_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch of 2.10 or before, and the flash-attn package, which is no wheel of ours, so a module stands in."""
    import sys
    from types import ModuleType

    said: dict[str, Any] = {}

    def flash_attn_varlen_func(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *sizes: Any, **more: Any
    ) -> Any:
        said.update(more, sizes=sizes[2:])
        return q

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, is_causal=False: query)
    attention._varlen.cache_clear()
    kernel = attention.choose(True, torch.bfloat16, 0.0)
    attention._varlen.cache_clear()
    assert kernel.name == "flash-attn"
    q = torch.zeros(5, 2, 4, dtype=torch.bfloat16)
    ends = torch.tensor([0, 3, 5], dtype=torch.int32)
    kernel.run(q, q, q, Segments((3, 2), (3, 2), None, ends, ends, 3), 0.5, True, 0.0)
    assert said == {"softmax_scale": 0.5, "causal": True, "sizes": (3, 3)}


def test_adapters_take_their_inputs_as_they_are(gpu: None) -> None:
    """The same numbers, without a copy in fp32 of each layer's input."""
    model = model_of("Qwen2", lora=True)
    encoder = ResponseEncoder(model, CPU, 4096, longest=256, packing="sorted")
    found, seen = [], []
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda module, given, out: seen.append(given[0].dtype))
        elif name.endswith("lora_B.default"):
            torch.nn.init.normal_(module.weight, std=0.1)  # type: ignore[arg-type]
    for dtype in (torch.float32, torch.bfloat16):
        seen.clear()
        model.zero_grad()
        scores = encoder.scores(texts())[0]
        scores.sum().backward()
        assert set(seen) == {dtype}
        found.append((scores.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
        model.uncast_adapters()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_running_out_of_memory_is_told_with_what_to_do(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("nothing", "bt")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(train, "train", full)
    assert train.main([str(folder)]) == 1
    told = json.loads((folder / "error.json").read_text())
    assert told["kind"] == "crashed"
    assert told["message"].startswith(
        "out of memory; lower micro_batch_tokens, token_budget or max_length, set grad"
    )
    assert "Tried to allocate 2.00 GiB" in told["message"]


def test_a_packed_row_goes_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tensors, pinned first; `to` stands in, since there is no GPU to go to."""
    pinned: list[int] = []
    sent: list[tuple[int, bool]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(id(tensor))
        return tensor

    real = torch.Tensor.to

    def to(tensor: torch.Tensor, where: Any, non_blocking: bool = False) -> torch.Tensor:
        if not isinstance(where, torch.device):
            return real(tensor, where)
        sent.append((id(tensor), non_blocking))
        return tensor

    here = pack(texts(), CPU, causal=True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    there = pack(texts(), torch.device("cuda"), causal=True)
    assert sent == [(tensor, True) for tensor in pinned]
    assert len(sent) == 10
    assert torch.equal(there.ids, here.ids)


def test_what_a_run_says_of_its_gpu(
    make_run: Callable[..., Path], tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was prepared here, told that its device is a GPU."""
    monkeypatch.setattr(prepare, "free_bytes", lambda device: 10**9)
    run = prepare.prepare(make_run(tiny_lm, "bt"), Stop())
    assert run is not None
    assert run.encoder.packed
    run.team.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"an H100 at {device}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (456, 789))
    told = loop.facts(run)
    assert "tokens a forward pass (packed, torch varlen_attn)" in told
    assert "device: cuda:0 (an H100 at cuda:0), 1 process" in told
    figures = memory_figures(run)
    assert figures is not None
    assert (figures["free"], figures["taken"], figures["words"]) == (10**9, 123, str(run.memory))
    assert memory.free_bytes(run.team.device) == 456


@pytest.mark.parametrize(("tuning", "dtype"), [("lora", torch.bfloat16), ("tuned", torch.float32)])
def test_a_base_that_does_not_learn_is_bf16_on_a_gpu(tuning: str, dtype: torch.dtype, tiny_lm: Path) -> None:
    asked = RunConfig.from_dict({"tuning": tuning, "base_model": str(tiny_lm)})
    base = prepare.base_of(asked, tiny_lm)
    for device, expected in ((torch.device("cuda", 0), dtype), (CPU, torch.float32)):
        backbone = prepare.backbone_of(asked, base, device)
        assert {parameter.dtype for parameter in backbone.parameters()} == {expected}


def test_a_launched_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda kind, **more: told.append(kind))
    group = distributed.Group.started()
    assert (group.rank, group.size, group.device) == (3, 4, torch.device("cuda", 1))
    assert told == [torch.device("cuda", 1), "nccl"]


def test_cached_embeddings_go_to_the_device(make_run: Callable[..., Path], tiny_encoder: Path) -> None:
    """Kept on the CPU and on disk, handed to where the head learns; "meta" stands for a GPU."""
    tokenizer = load.load_tokenizer("tiny", str(tiny_encoder))
    template = Template(tokenizer, architecture="encoder", ordinal=False, max_length=64)
    backbone = load.load_backbone("tiny", str(tiny_encoder), "encoder")
    encoder = ResponseEncoder(
        RewardModel(backbone, architecture="encoder", kind="scalar"), CPU, 512, longest=64
    )
    rows = template.encode([{"messages": [{"role": "user", "content": "water"}], "text": "it"}])
    here = embed_cached(encoder, rows, lambda done, total: None)
    encoder.device = torch.device("meta")  # nothing is computed again
    assert embed_cached(encoder, rows, lambda done, total: None).device.type == "meta"
    assert here.device.type == "cpu"


def test_a_bf16_model_is_scored_in_bf16_on_a_gpu_and_in_fp32_on_a_cpu(
    tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.load_backbone("lm", str(tiny_lm), "causal").bfloat16().save_pretrained(tmp_path)  # type: ignore[operator]
    dtypes = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(load, "default_device", lambda device=device: torch.device(device))
        model = load.load_backbone("lm", str(tmp_path), "causal")
        dtypes.append({parameter.dtype for parameter in model.parameters()})
    assert dtypes == [{torch.float32}, {torch.bfloat16}]
