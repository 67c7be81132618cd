"""Responses without padding: a micro-batch is one row of real tokens, and attention stays inside each text.

Linear layers, norms and MLPs see [1, T] real tokens; only attention knows where a text ends.  The boundaries travel
as a keyword argument through transformers' attention registry, so encoders and causal models run unmodified.  On
causal models responses of one prompt share its tokens: the prompt stands in the row once, and each response
attends to it and to itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .text.sections import Encoded

ATTENTION = "caliper_packed"


class Unpackable(Exception):
    """The architecture asks for attention that a packed row doesn't offer; pad instead."""


@dataclass(frozen=True)
class Segments:
    """The texts of a packed row: lengths of each one's queries and keys, in the row's order.

    `keys` are the row positions of all keys, segment after segment, or None when each segment attends to itself
    alone.  Then a causal query sees the keys up to its own, counted from both ends (bottom-right aligned).
    """

    queries: tuple[int, ...]
    lengths: tuple[int, ...]
    keys: torch.Tensor | None  # [K]
    cumulative_queries: torch.Tensor  # [S + 1] int32
    cumulative_keys: torch.Tensor  # [S + 1] int32
    longest: int  # of all texts that the model will be given, not only these
    last: Segments | None = None  # what the last layer attends with, see last_layer.py
    read: torch.Tensor | None = None  # [Q] row positions of the queries; None: all, in order
    rows: torch.Tensor | None = None  # [1, T, H] what the last layer was given, on the way to its attention

    @functools.cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Adjacent segments of one shape, each run one batched call: (count, queries, keys)."""
        runs: list[tuple[int, int, int]] = []
        for queries, keys in zip(self.queries, self.lengths, strict=True):
            if runs and runs[-1][1:] == (queries, keys):
                runs[-1] = (runs[-1][0] + 1, queries, keys)
            else:
                runs.append((1, queries, keys))
        return runs


@dataclass(frozen=True)
class Packed:
    """One packed row.  Order B is that of the rows it was made from.

    ids, positions [T]: tokens, and their places in their texts.  pooled [Q]: row positions of the states that the head
    reads, response by response; counts [B]: how many of each.  before, targets, owner [R]: row position of the state
    that predicts each response token, that token, and whose it is.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: Segments
    pooled: torch.Tensor
    counts: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor


def by_prompt(rows: Sequence[Encoded]) -> list[list[int]]:
    """Positions of rows that share a prompt, group by group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row.ids[: row.start], []).append(position)
    return list(groups.values())


def packed_batches(rows: Sequence[Encoded], max_tokens: int, *, share: bool) -> list[list[int]]:
    """Positions of `rows` in micro-batches of at most max_tokens tokens in the row (a longer text stands alone).

    Sorted by length, so that texts of one length are neighbours.  With `share` prompt by prompt: a prompt that a
    micro-batch shares counts once, and where it leaves less room than it takes, as many tokens of responses as it has
    itself may follow, since it would else be computed again for each of them.
    """
    groups = by_prompt(rows) if share else [[position] for position in range(len(rows))]
    for group in groups:
        group.sort(key=lambda position: (len(rows[position]), position))
    groups.sort(key=lambda group: (len(rows[group[-1]]), group))
    batches: list[list[int]] = []
    used = 0
    for group in groups:
        prompt = rows[group[0]].start if share else 0
        tokens = [len(rows[position]) - prompt for position in group]
        if batches and used + prompt + sum(tokens) <= max_tokens:
            batches[-1].extend(group)
            used += prompt + sum(tokens)
            continue
        most = max(max_tokens, 2 * prompt)
        for number, (position, count) in enumerate(zip(group, tokens, strict=True)):
            if number and used + count <= most:
                batches[-1].append(position)
                used += count
            else:
                batches.append([position])
                used = prompt + count
    return batches


def packed_tokens(rows: Sequence[Encoded], *, share: bool) -> int:
    """Tokens of the row that `pack` makes of these."""
    prompts = {row.ids[: row.start] for row in rows} if share else set()
    return sum(map(len, prompts)) + sum(len(row) - (row.start if share else 0) for row in rows)


def pack(
    rows: Sequence[Encoded],
    device: torch.device,
    *,
    causal: bool,
    share: bool,
    narrow: bool = False,
    offset: int = 0,
) -> Packed:
    """Lay rows out one after the other; `offset` is what the architecture adds to positions (RoBERTa's 2).

    The head reads a response's last token on a causal model, on an encoder all from its `pooled` on.  With `narrow`
    the last layer computes those alone, where that saves anything.
    """
    ids: list[int] = []
    positions: list[torch.Tensor] = []
    queries: list[int] = []
    lengths: list[int] = []
    keys: list[torch.Tensor] = []
    heads: list[int] = []  # row position and length of the part that a response shares
    shared: list[int] = []
    tails: list[int] = []
    own: list[int] = []  # the segment in which a response ends
    prompts: dict[tuple[int, ...], int] = {}
    ends: dict[tuple[int, ...], int] = {}  # a prompt's segment
    uses: dict[tuple[int, ...], int] = {}
    if share:
        for row in rows:
            uses[row.ids[: row.start]] = uses.get(row.ids[: row.start], 0) + 1

    def segment(tokens: tuple[int, ...], begin: int, seen: torch.Tensor | None) -> None:
        at = len(ids)
        ids.extend(tokens)
        positions.append(torch.arange(begin, begin + len(tokens)))
        these = torch.arange(at, at + len(tokens))
        keys.append(these if seen is None else torch.cat((seen, these)))
        queries.append(len(tokens))
        lengths.append(len(keys[-1]))

    for row in rows:
        prompt = row.ids[: row.start]
        if not prompt or uses.get(prompt, 0) < 2:
            heads.append(0)
            shared.append(0)
            tails.append(len(ids))
            own.append(len(queries))
            segment(row.ids, 0, None)
            continue
        if prompt not in prompts:
            prompts[prompt] = len(ids)
            ends[prompt] = len(queries)
            segment(prompt, 0, None)
        at = prompts[prompt]
        own.append(len(queries) if len(row) > row.start else ends[prompt])
        heads.append(at)
        shared.append(row.start)
        tails.append(len(ids))
        if len(row) > row.start:
            segment(row.ids[row.start :], row.start, torch.arange(at, at + row.start))

    def place(number: int, first: int, stop: int) -> torch.Tensor:
        """Row positions of a response's tokens first..stop-1."""
        token = torch.arange(first, stop)
        head, count, tail = heads[number], shared[number], tails[number]
        return torch.where(token < count, head + token, tail + token - count)

    counts = [1 if causal else len(row) - row.pooled for row in rows]
    pooled = torch.cat([place(n, len(row) - counts[n], len(row)) for n, row in enumerate(rows)]).to(device)
    before = torch.cat([place(number, row.start - 1, row.stop - 1) for number, row in enumerate(rows)])
    targets = [token for row in rows for token in row.ids[row.start : row.stop]]
    owner = torch.repeat_interleave(torch.tensor([row.stop - row.start for row in rows]))

    def segments_of(which: Sequence[int], asked: Sequence[int], **more: Any) -> Segments:
        """These segments' keys, attended to by so many queries each."""
        seen = [lengths[segment] for segment in which]
        return Segments(
            tuple(asked),
            tuple(seen),
            torch.cat([keys[segment] for segment in which]).to(device) if prompts else None,
            _cumulative(asked).to(device),
            _cumulative(seen).to(device),
            max(lengths),
            **more,
        )

    saves = narrow and len(pooled) < len(ids)
    last = segments_of(own, counts, read=pooled) if saves else None
    segments = segments_of(range(len(queries)), queries, last=last)
    return Packed(
        torch.tensor(ids).to(device),
        torch.cat(positions).add_(offset).to(device),
        segments,
        pooled,
        torch.tensor(counts).to(device),
        before.to(device),
        torch.tensor(targets, dtype=torch.int64).to(device),
        owner.to(device),
    )


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

    query [1, heads, T, d], key and value [1, key heads, T, d] -> [1, T, heads, d]: of its rows the first Q where
    `segments` read Q queries, the others are zero.  Raises Unpackable.
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
    total = len(q)
    if segments.read is not None:
        q = q[segments.read]  # [Q, heads, d]
    if segments.keys is not None:
        k, v = k[segments.keys], v[segments.keys]  # [K, heads, d]
    kernel = _varlen() if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) else None
    if kernel is not None and not dropout:
        mixed = kernel(q, k, v, segments, scale, causal)
    elif query.is_cuda:
        mixed = _padded(q, k, v, segments, scale, causal, dropout)
    else:
        mixed = _by_runs(q, k, v, segments, scale, causal, dropout)
    if len(mixed) < total:
        mixed = F.pad(mixed, (0, 0, 0, 0, 0, total - len(mixed)))
    return mixed.unsqueeze(0), None


def _by_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """One SDPA call for each run of equally long segments, which are a batch without a copy.  -> [T, heads, d]"""
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
    """Attention alone in a padded rectangle: for a GPU when no varlen kernel fits.  -> [T, heads, d]"""
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


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments, float, bool], torch.Tensor]


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
            return functools.partial(_torch_varlen, varlen_attn, "enable_gqa" in known)
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return functools.partial(_flash_varlen, flash_attn_varlen_func)


def _torch_varlen(
    function: Callable[..., Any],
    groups: bool,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    grouped = q.shape[1] // k.shape[1]
    extra: dict[str, Any] = {}
    if grouped > 1 and groups:
        extra["enable_gqa"] = True
    elif grouped > 1:
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


def _flash_varlen(
    function: Callable[..., Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Segments,
    scale: float,
    causal: bool,
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


def _cumulative(lengths: Sequence[int]) -> torch.Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _mask)
