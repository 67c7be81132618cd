"""Responses without padding: a micro-batch is one row of real tokens, and attention stays inside each text.

Linear layers, norms and MLPs see [1, T] real tokens; only attention knows where a text ends. The boundaries travel
as a keyword argument through transformers' attention registry, so encoders and causal models run unmodified. On
causal models responses of one prompt share its tokens: the prompt stands in the row once, and each response
attends to it and to itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..text.sections import Encoded


@dataclass(frozen=True)
class Segments:
    """The texts of a packed row: lengths of each one's queries and keys, in the row's order.

    `keys` are the row positions of all keys, segment after segment, or None when each segment attends to itself
    alone. Then a causal query sees the keys up to its own, counted from both ends (bottom-right aligned).
    """

    queries: tuple[int, ...]
    lengths: tuple[int, ...]
    keys: torch.Tensor | None  # [K]
    cumulative_queries: torch.Tensor  # [S + 1] int32
    cumulative_keys: torch.Tensor  # [S + 1] int32
    longest: int  # of all texts that the model will be given, not only these

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
    """One packed row. Order B is that of the rows it was made from.

    ids, positions [T]: tokens, and their places in their texts. pooled [Q]: row positions of the states that the head
    reads, response by response; counts [B]: how many of each. before, targets, owner [R]: row position of the state
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

    Sorted by length, so that texts of one length are neighbours. With `share` prompt by prompt: a prompt that a
    micro-batch shares counts once. A prompt longer than half the budget may be followed by as many response tokens as
    it has; otherwise it would be recomputed per response.
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
    offset: int = 0,
) -> Packed:
    """Lay rows out one after the other; `offset` is what the architecture adds to positions (RoBERTa's 2).

    On a causal model a prompt that several rows share stands in the row once, and the head reads the token before a
    response's last `after`. On an encoder the head reads all tokens from the response's `pooled` on.
    """
    ids: list[int] = []
    positions: list[torch.Tensor] = []
    queries: list[int] = []
    lengths: list[int] = []
    keys: list[torch.Tensor] = []
    heads: list[int] = []  # row position and length of the part that a response shares
    shared: list[int] = []
    tails: list[int] = []
    prompts: dict[tuple[int, ...], int] = {}
    uses: dict[tuple[int, ...], int] = {}
    if causal:
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
            segment(row.ids, 0, None)
            continue
        if prompt not in prompts:
            prompts[prompt] = len(ids)
            segment(prompt, 0, None)
        at = prompts[prompt]
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
    ends = [len(row) - (row.after if causal else 0) for row in rows]
    pooled = _sent(torch.cat([place(n, end - counts[n], end) for n, end in enumerate(ends)]), device)
    before = torch.cat([place(number, row.start - 1, row.stop - 1) for number, row in enumerate(rows)])
    targets = [token for row in rows for token in row.ids[row.start : row.stop]]
    owner = torch.repeat_interleave(torch.tensor([row.stop - row.start for row in rows]))

    segments = Segments(
        tuple(queries),
        tuple(lengths),
        _sent(torch.cat(keys), device) if prompts else None,
        _sent(_cumulative(queries), device),
        _sent(_cumulative(lengths), device),
        max(lengths),
    )
    return Packed(
        _sent(torch.tensor(ids), device),
        _sent(torch.cat(positions).add_(offset), device),
        segments,
        pooled,
        _sent(torch.tensor(counts), device),
        _sent(before, device),
        _sent(torch.tensor(targets, dtype=torch.int64), device),
        _sent(owner, device),
    )


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device. From pinned memory a GPU takes it without waiting for what it still has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Positions of `lengths` in batches of similar length, each at most max_tokens when padded.

    Sorted by length, so padding is little and the same rows always meet in the same batches.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda item: (lengths[item], item)):
        if batches and (len(batches[-1]) + 1) * lengths[position] <= max_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def restore_order(parts: Sequence[torch.Tensor], batches: Sequence[Sequence[int]]) -> torch.Tensor:
    """Outputs of micro-batches back in the order of the rows. list of [b, ...] -> [B, ...]"""
    positions = torch.tensor([position for batch in batches for position in batch])
    joined = torch.cat(list(parts))
    return joined[torch.argsort(positions).to(joined.device)]


def _cumulative(lengths: Sequence[int]) -> torch.Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
