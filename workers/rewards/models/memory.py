"""What a training takes of a GPU's memory, known from the base model's config before its weights are read.

Weights, gradients and the optimiser's state are counted on a model without storage. What a token leaves for the
gradient is counted too: a forward pass on shapes alone, under bf16 autocast, notes what autograd keeps. So every
architecture counts with its own norms and casts, and with LoRA's. From the memory that is free follow how many tokens'
activations are held at once, and whether layers are computed again for the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.pytorch_utils import Conv1D

from ..config import ADAPTED, Refused, ResolvedConfig
from .attention import _mask, keeps_groups
from .fused import FusedNorm
from .reward_model import LOGITS_AT_ONCE, RewardModel, longest_text, set_dropout

COUNTED = "caliper_counted"
USABLE = 0.9  # of what is free: the rest is for the allocator's gaps, cuBLAS and what a step makes in passing
USUAL = 80  # bytes that a token keeps for each layer and unit of width: Qwen2.5 of .5B and 7B, counted
LARGEST_PASS = (
    32_768  # tokens of a forward pass; with half of them an H100 waits for launches in every other moment
)
SMALLEST_PASS = 2_048  # tokens of a forward pass below which a card idles: layers are computed again instead
MOST_HELD = 65_536  # tokens whose activations are held at once; more are learnt part by part just as fast
SHORTEST = 128  # tokens; less is no text to offer
FOUR_BITS = 0.53  # bytes a weight in nf4 with double quantisation (arXiv 2305.14314, section 3)
STATE = {"adamw": 8, "adamw_8bit": 2}  # bytes of the optimiser's beside each weight that learns


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that nobody uses; None on a CPU, where nothing is planned."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


@dataclass(frozen=True)
class Sizes:
    """A base model in numbers: counts of weights, and bytes that autograd keeps for the gradient."""

    weights: int
    linear: int  # of them in the layers' linear maps: what four bits hold and adapters stand beside
    adapters: int  # of LoRA at the run's rank
    largest: int  # the largest layer's or table's
    layers: int
    width: int
    vocabulary: int
    kept_token: float  # of each token
    kept_pass: float  # of each forward pass: copies of weights in autocast's type


def sizes(base: Any, config: ResolvedConfig) -> Sizes:
    """Counts of a base model by its transformers config, with texts of the most tokens that the run reads."""
    lora = config.tuning in ADAPTED
    keeps_groups()  # tried before storage is pretended
    base = type(base).from_dict(base.to_dict())  # a copy: transformers writes into it
    with torch.device("meta"):
        model = _hollow(base, config, torch.bfloat16 if lora else torch.float32)
    backbone: Any = model.backbone
    if config.dropout is not None:
        set_dropout(backbone, config.dropout)
    longest = min(config.max_length, longest_text(backbone) or config.max_length)
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    head: Any = backbone.get_output_embeddings() if config.backbone == "causal" else None
    maps = [m.weight for m in backbone.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    blocks = max((m for m in backbone.modules() if isinstance(m, nn.ModuleList)), key=len, default=[backbone])
    largest = max(
        *(sum(p.numel() for p in block.parameters()) for block in blocks),
        *(parameter.numel() for parameter in backbone.parameters()),
    )
    counted = Sizes(
        weights=weights,
        linear=sum(weight.numel() for weight in maps),
        adapters=sum(config.lora_rank * sum(weight.shape) for weight in maps),
        largest=largest,
        layers=int(base.num_hidden_layers),
        width=model.hidden_size,
        vocabulary=backbone.get_input_embeddings().weight.shape[0],
        kept_token=USUAL * int(base.num_hidden_layers) * model.hidden_size,
        kept_pass=2.0 * weights,
    )
    with torch.device("meta"):
        if lora:
            model.add_lora(config)
        model.fuse()
        for module in backbone.modules():
            if isinstance(module, FusedNorm):
                module.kernel = _norm
    try:
        one, two = (_kept(model, texts, longest) for texts in (1, 2))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return counted  # an operation needs numbers, such as a router of experts
    return replace(counted, kept_token=(two - one) / longest, kept_pass=float(2 * one - two))


def _hollow(base: Any, config: ResolvedConfig, dtype: torch.dtype) -> RewardModel:
    """The model without storage, with attention that only says what a varlen kernel keeps."""
    from transformers import AutoModel, AutoModelForCausalLM

    loader = AutoModelForCausalLM if config.backbone == "causal" else AutoModel
    backbone: Any = loader.from_config(base, dtype=dtype)
    if backbone._can_set_attn_implementation():
        backbone.set_attn_implementation(COUNTED)
    return RewardModel(backbone, architecture=config.backbone, kind="scalar").train()


def _kept(model: RewardModel, texts: int, length: int) -> int:
    """Bytes that autograd keeps of a forward pass over texts x length tokens in bf16 autocast, weights aside."""
    body: Any = model.backbone if model.architecture == "encoder" else model.backbone.base_model
    mode, cpu = FakeTensorMode(), torch.device("cpu")
    stand_in = {
        name: FakeTensor(mode, tensor.detach(), cpu).requires_grad_(tensor.requires_grad)
        for name, tensor in (*body.named_parameters(), *body.named_buffers())
    }
    own = {tensor.untyped_storage()._cdata for tensor in stand_in.values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    more = {} if model.architecture == "encoder" else {"use_cache": False}
    with mode, torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(note, _same):
        ids = torch.zeros(texts, length, dtype=torch.int64)
        torch.func.functional_call(body, stand_in, (), {"input_ids": ids, **more})
    return sum(storage.nbytes() for storage in kept.values())


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class _Varlen(torch.autograd.Function):
    """What FlashAttention keeps: q, k, v, its output and a number a head and token."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mixed = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, mixed, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return mixed


class _Norm(torch.autograd.Function):
    """What the fused RMS norm keeps: its input, and a number a token."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)


def _norm(x: torch.Tensor, _: Any, weight: torch.Tensor, __: float) -> torch.Tensor:
    result: torch.Tensor = _Norm.apply(x, weight)
    return result


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """attention.attention's shapes and types, without its numbers. [B, heads, L, d] -> [B, L, heads, d]"""
    dtype, groups = torch.get_autocast_dtype("cpu"), query.shape[1] // key.shape[1]
    q, k, v = (tensor.to(dtype).transpose(1, 2) for tensor in (query, key, value))
    if groups > 1 and not keeps_groups():
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    mixed: torch.Tensor = _Varlen.apply(q.contiguous(), k.contiguous(), v.contiguous())
    return mixed, None


AttentionInterface.register(COUNTED, _attention)
AttentionMaskInterface.register(COUNTED, _mask)


@dataclass(frozen=True)
class Way:
    """One way to train a base model, in bytes on each GPU: what stays, and what each token adds whose activations are
    held; `again`: with layers computed again, when it adds their inputs and a share of one layer's activations."""

    words: str
    fixed: float
    token: float
    again: float

    def most(self, room: float, again: bool) -> int:
        """Tokens that fit into room."""
        return max(0, int((room - self.fixed) / (self.again if again else self.token)))


def way(size: Sizes, config: ResolvedConfig, *, words: str = "", shards: int = 1, **other: str) -> Way:
    """What it takes to train as the config says, with another `tuning` or `optimizer` where given.

    All that learns has weights, gradients and moments in fp32; a base that does not learn is bf16.
    """
    tuning = other.get("tuning", config.tuning)
    optimizer = other.get("optimizer", config.optimizer)
    adapted = tuning in ADAPTED
    learns = size.adapters if adapted else size.weights
    held = 4.0 * size.weights
    if adapted:
        four = size.linear if tuning == "qlora" else 0
        held = FOUR_BITS * four + 2.0 * (size.weights - four) + 4.0 * learns
    state = (4 + STATE[optimizer]) * learns
    # a pass keeps copies of fp32 weights in autocast's type; sharded ones are gathered, two layers at a time
    counted = shards == 1 and adapted == (config.tuning in ADAPTED)
    copies = size.kept_pass if counted else 0.0
    passing = copies if shards == 1 else 2 * (2.0 if adapted else 4.0) * size.largest
    if not adapted:
        passing += 4.0 * size.largest  # a gradient that is added to the one at hand
    if config.method in ("haf", "grm"):  # logits in bf16 and fp32, and their gradient
        passing += (2 + 4 + 4) * min(LOGITS_AT_ONCE, LARGEST_PASS * size.vocabulary)
    token = size.kept_token + copies / (config.micro_batch_tokens or LARGEST_PASS)
    again = size.layers * size.width * (2 if adapted else 4) + token / size.layers
    return Way(words, (held + state) / shards + passing, token, again)


@dataclass(frozen=True)
class Memory:
    """What a run does with each GPU's memory, in bytes and tokens."""

    free: int
    weights: int  # all of the base model's, as they lie on a GPU that is not one of several
    fixed: int  # weights, gradients, optimiser and what a step makes in passing
    token: int  # of each token whose activations are held
    tokens: int  # that are held at once: what a step has beyond is learnt part by part
    per_pass: int  # tokens of one forward pass
    checkpointing: bool

    @property
    def peak(self) -> int:
        """At the most."""
        return self.fixed + self.tokens * self.token

    def applied(self, config: ResolvedConfig) -> ResolvedConfig:
        """The config with what follows from memory."""
        return replace(config, micro_batch_tokens=self.per_pass, gradient_checkpointing=self.checkpointing)

    def __str__(self) -> str:
        layers = ", layers computed again for the gradient" if self.checkpointing else ""
        return (
            f"{_gb(self.fixed)} for weights, gradients and optimiser, {self.token / 1e6:.2f} MB a token{layers}, "
            f"{self.tokens:,} tokens at once: up to {_gb(self.peak)} of {_gb(self.free)} that are free"
        )


def fit(size: Sizes, config: ResolvedConfig, free: int, longest: int, processes: int = 1) -> Memory:
    """How a run fits into what is free on each GPU, with texts of up to `longest` tokens. Raises Refused."""
    room = USABLE * free
    chosen = way(size, config, shards=processes if config.shard else 1)
    again = config.gradient_checkpointing
    if again is None:
        again = chosen.most(room, False) < max(longest, SMALLEST_PASS)
    tokens = chosen.most(room, again)
    if tokens < longest:
        raise Refused(_too_large(size, config, chosen, free, longest))
    return Memory(
        free=free,
        weights=int((2.0 if config.tuning in ADAPTED else 4.0) * size.weights),
        fixed=int(chosen.fixed),
        token=int(chosen.again if again else chosen.token),
        tokens=min(tokens, MOST_HELD),
        per_pass=min(tokens, config.micro_batch_tokens or LARGEST_PASS),
        checkpointing=again,
    )


def _too_large(size: Sizes, config: ResolvedConfig, chosen: Way, free: int, longest: int) -> str:
    """What does not fit, and what would, each in gigabytes."""
    room = USABLE * free
    others = []
    if config.gradient_checkpointing is False:
        others.append(replace(chosen, words="gradient_checkpointing true"))
    if config.optimizer == "adamw" and config.tuning == "tuned":
        others.append(way(size, config, words="optimizer adamw_8bit", optimizer="adamw_8bit"))
    if config.backbone == "causal":
        for tuning in ("lora", "qlora")[
            ADAPTED.index(config.tuning) + 1 if config.tuning in ADAPTED else 0 :
        ]:
            others.append(way(size, config, words=f"tuning {tuning}", tuning=tuning, optimizer="adamw"))
    if not config.shard:
        shared = (way(size, config, words=f"shard over {n} GPUs", shards=n) for n in (2, 4, 8, 16, 32, 64))
        others += [next((one for one in shared if one.most(room, True) >= longest), chosen)]
    fits = [
        f"{one.words} ({_gb(one.fixed + longest * one.again)})"
        for one in others
        if one.words and one.most(room, True) >= longest
    ]
    if (shorter := chosen.most(room, True)) >= SHORTEST:
        fits.append(f"max_length {shorter:,} or less")
    return (
        f"base model {config.base_model!r} of {size.weights / 1e9:.2f} billion weights takes "
        f"{_gb(chosen.fixed + longest * (chosen.token if config.gradient_checkpointing is False else chosen.again))} "
        f"with tuning {config.tuning} and texts of {longest:,} tokens, but {_gb(free)} of the GPU are free, of which "
        f"nine tenths are used; {'what fits: ' + ', '.join(fits) if fits else 'use a smaller base model'}"
    )


def _gb(amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e8 else f"{amount / 1e6:,.1f} MB"
