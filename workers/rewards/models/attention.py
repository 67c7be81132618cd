"""Attention that stays inside each text of a packed row, by transformers' attention registry."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .packing import Segments

ATTENTION = "caliper_packed"


class Unpackable(Exception):
    """The architecture asks for attention that a packed row doesn't offer; pad instead."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface for a packed row; without `segments` it is plain SDPA.

    query [1, heads, T, d], key and value [1, key heads, T, d] -> [1, T, heads, d]. Raises Unpackable.
    """
    if segments is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return output
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if kwargs.get(name) is not None:
            raise Unpackable(f"{type(module).__name__} passes {name}")
    window = kwargs.get("sliding_window")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if window is not None and segments.longest > (window if causal else window // 2):
        raise Unpackable(f"{type(module).__name__} has a sliding window of {window}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):
        # rotary positions multiply by fp32 numbers: queries and keys come back as fp32, which no varlen kernel takes
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, d]
    if segments.keys is not None:
        # index_select adds up its gradient where indexing would sort the keys first
        k, v = k.index_select(0, segments.keys), v.index_select(0, segments.keys)  # [K, heads, d]
    kernel = choose(on_gpu(query), query.dtype, dropout)
    return kernel.run(q, k, v, segments, scale, causal, dropout).unsqueeze(0), None


def on_gpu(tensor: torch.Tensor) -> bool:
    """Apart, so that a test without a GPU can say yes."""
    return tensor.is_cuda


@dataclass(frozen=True)
class Kernel:
    """What mixes the tokens of a packed row. run: q [T, heads, d], k, v [K, key heads, d], segments, scale, causal,
    dropout -> [T, heads, d]"""

    name: str
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments, float, bool, float], torch.Tensor]


def choose(gpu: bool, dtype: torch.dtype, dropout: float) -> Kernel:
    """The kernel for rows on a GPU or a CPU, whose q, k and v have this type. No varlen kernel has dropout or fp32."""
    if not gpu:
        return Kernel("SDPA by runs", _by_runs)
    if dtype in (torch.float16, torch.bfloat16) and not dropout and (varlen := _varlen()):
        return varlen
    return Kernel("padded SDPA", _padded)


def _by_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """One SDPA call for each run of equally long segments, which are a batch without a copy. -> [T, heads, d]"""
    runs = segments.runs
    parts: list[torch.Tensor] = []
    pieces = zip(
        runs,
        q.split([count * queries for count, queries, _ in runs]),
        k.split([count * keys for count, _, keys in runs]),
        v.split([count * keys for count, _, keys in runs]),
        strict=True,
    )
    for (count, queries, keys), run_q, run_k, run_v in pieces:
        mask = None
        if causal and queries != keys:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        out = F.scaled_dot_product_attention(
            run_q.unflatten(0, (count, queries)).transpose(1, 2),
            run_k.unflatten(0, (count, keys)).transpose(1, 2),
            run_v.unflatten(0, (count, keys)).transpose(1, 2),
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal and mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # [count, heads, queries, d]
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _padded(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Attention alone in a padded rectangle: for a GPU when no varlen kernel fits. -> [T, heads, d]"""
    padded_q, padded_k, padded_v = (
        pad_sequence(list(tensor.split(list(counts))), batch_first=True).transpose(1, 2)
        for tensor, counts in ((q, segments.queries), (k, segments.lengths), (v, segments.lengths))
    )
    counts = segments.cumulative_queries.diff().view(-1, 1, 1)
    lengths = segments.cumulative_keys.diff().view(-1, 1, 1)
    row = torch.arange(padded_q.shape[2], device=q.device).view(1, -1, 1)
    column = torch.arange(padded_k.shape[2], device=q.device).view(1, 1, -1)
    seen = column < lengths
    if causal:
        seen = seen & (column <= row + lengths - counts)
    seen = seen | (row >= counts)  # a padded query sees all, so that its soft-max is a number
    out = F.scaled_dot_product_attention(
        padded_q,
        padded_k,
        padded_v,
        attn_mask=seen.unsqueeze(1),
        dropout_p=dropout,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    ).transpose(1, 2)  # [S, Q, heads, d]
    return out[(row < counts).squeeze(2)]


@functools.cache
def _varlen() -> Kernel | None:
    """FlashAttention over the whole row in one call: PyTorch's own, else the flash-attn package's, else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        pass
    else:
        # 2.10 had is_causal instead of a window and no scale; enable_gqa came after 2.11
        known = inspect.signature(varlen_attn).parameters
        if "window_size" in known and "scale" in known:
            run = functools.partial(_torch_varlen, varlen_attn, "enable_gqa" in known)
            return Kernel("torch varlen_attn", run)
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return Kernel("flash-attn", functools.partial(_flash_varlen, flash_attn_varlen_func))


@functools.cache
def takes_groups(function: Callable[..., Any], device: torch.device) -> bool:
    """Whether 2.11's varlen_attn takes keys and values of fewer heads than the queries have.

    Its kernel does, though nothing says so: it is tried on a GPU, with its gradient.
    """
    if device.type != "cuda":
        return False
    draw = torch.Generator(device).manual_seed(0)
    results = []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        q, k, v = (
            torch.randn(48, heads, 64, generator=draw, device=device).bfloat16().requires_grad_()
            for heads in (4, 2, 2)
        )
        ends = torch.tensor([0, 16, 48], dtype=torch.int32, device=device)
        for times in (1, 2):
            keys, values = (k, v) if times == 1 else (t.repeat_interleave(2, 1) for t in (k, v))
            try:
                mixed = function(q, keys, values, ends, ends, 32, 32, scale=0.125, window_size=(-1, 0))
                slopes = torch.autograd.grad(mixed.float().square().sum(), (q, k, v))
            except (RuntimeError, ValueError):
                return False
            results.append(torch.cat([t.detach().float().flatten() for t in (mixed, *slopes)]))
    return bool((results[0] - results[1]).norm() <= 2e-2 * results[1].norm())


def _torch_varlen(
    function: Callable[..., Any],
    groups: bool,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    grouped = q.shape[1] // k.shape[1]
    extra: dict[str, Any] = {}
    if grouped > 1 and groups:
        extra["enable_gqa"] = True
    elif grouped > 1 and not takes_groups(function, q.device):
        k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
    mixed: torch.Tensor = function(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        segments.cumulative_queries,
        segments.cumulative_keys,
        max(segments.queries),
        max(segments.lengths),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        **extra,
    )
    return mixed


@functools.cache
def keeps_groups() -> bool:
    """Whether a GPU's kernel here keeps keys and values of grouped heads as they are, for the gradient too."""
    kernel = _varlen()
    if kernel is None or kernel.name == "flash-attn":
        return kernel is not None
    function, groups = kernel.run.args  # type: ignore[attr-defined]
    return groups or takes_groups(function, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _flash_varlen(
    function: Callable[..., Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    mixed: torch.Tensor = function(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        segments.cumulative_queries,
        segments.cumulative_keys,
        max(segments.queries),
        max(segments.lengths),
        softmax_scale=scale,
        causal=causal,
    )
    return mixed


def _mask(attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask for a packed row (it comes without a padding mask), SDPA's own for a padded batch."""
    if attention_mask is None:
        return None
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, **kwargs)
    return mask


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _mask)
