"""Responses in, pooled features or scores and log-probabilities out; each response encoded once, in micro-batches.

Micro-batches are packed rows where the architecture allows it (see packing.py), else length-sorted padded ones.
Both give the same numbers up to rounding (tests/rewards/models/test_packing.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from ..text.sections import Encoded, collate
from .attention import Unpackable
from .distributed import Group
from .packing import by_prompt, micro_batches, pack, packed_batches, packed_tokens, restore_order
from .reward_model import RewardModel
from .sharding import forget_failed_pass, is_sharded

# Of one forward pass, by kind of device: a CPU gains nothing above 512, a GPU wants filling.
MICRO_BATCH_TOKENS = {"cpu": 512, "cuda": 32_768}
NARROWEST = 256  # tokens held at once below which a card that runs out of memory is given up


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, fp32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class ResponseEncoder:
    """Runs a model's backbone over responses.

    packing "auto" and "packed" pack where the architecture is seen to give the same hidden states packed as alone;
    "sorted" pads. A causal model computes a prompt once for all its responses in a micro-batch. For the gradient the
    activations of at most `kept_tokens` are kept. Those of the other micro-batches are computed again, so memory
    doesn't grow with a step.
    """

    def __init__(
        self,
        model: RewardModel,
        device: torch.device,
        micro_batch_tokens: int,
        *,
        longest: int,
        packing: str = "auto",
        kept_tokens: int | None = None,
        group: Group | None = None,
    ) -> None:
        """`kept_tokens` None: all."""
        self.model, self.device, self.micro_batch_tokens = model, device, micro_batch_tokens
        self.kept_tokens = kept_tokens
        self.share = model.architecture == "causal"
        self.longest, self.packing = longest, packing
        self.group = group or Group(device=device)
        if device.type != "cpu":
            model.fuse()

    @functools.cached_property
    def packed(self) -> bool:
        """Whether rows are packed; found out at the first use, since cached embeddings need no model at all."""
        if self.packing == "sorted":
            return False
        known, key = self.model.packable, (self.device, self.longest)
        if key not in known:
            known[key] = packable(self.model, self.device, self.longest)
        return known[key]

    def tokens(self, rows: Sequence[Encoded]) -> int:
        """Tokens that go through the backbone for these: of a shared prompt once, and padding where rows are padded."""
        if self.packed:
            return packed_tokens(rows, share=self.share)
        return sum(len(batch) * len(rows[batch[-1]]) for batch in self.batches(rows))

    def narrow(self) -> bool:
        """Hold half as much at once from now on; False where that is too little to go on with."""
        held = self.kept_tokens or self.micro_batch_tokens
        self.kept_tokens = held // 2
        self.micro_batch_tokens = min(self.micro_batch_tokens, self.kept_tokens)
        return self.kept_tokens >= NARROWEST

    def batches(self, rows: Sequence[Encoded]) -> list[list[int]]:
        """Positions of `rows` in micro-batches."""
        if self.packed:
            return packed_batches(rows, self.micro_batch_tokens, share=self.share)
        return micro_batches([len(row) for row in rows], self.micro_batch_tokens)

    def __call__(
        self,
        rows: Sequence[Encoded],
        *,
        log_probs: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        spare: Encoded | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pooled features in the order of `rows`, and log pi(response) if asked. [N, H], [N] or None

        With a graph unless gradients are off; `progress(done, total)` after each micro-batch. Processes of a sharded
        model run equally many micro-batches; what one lacks are passes of `spare`, which count for nothing.
        """
        batches = self.batches(rows) if rows else []
        again, passes = self._computed_again(rows, batches), len(batches)
        if is_sharded(self.model):
            # a whole pass within backward is more than FSDP bears; its layers are computed again one by one
            again, (passes,) = 0, self.group.most(passes)
        features: list[torch.Tensor] = []
        log_pi: list[torch.Tensor] = []
        done = 0
        run = self._packed if self.packed else self._sorted
        nothing = torch.zeros((), device=self.device)
        for number in range(passes):
            real = number < len(batches)
            members = [rows[position] for position in batches[number]] if real else [spare or rows[0]]
            with autocast(self.device):
                if number < again:
                    feature, log_p = checkpoint(run, members, log_probs and real, use_reentrant=False)
                else:
                    feature, log_p = run(members, log_probs and real)
            if real:
                features.append(feature)
                done += len(members)
            else:
                nothing = nothing + 0 * feature.sum()
            if log_p is not None:
                log_pi.append(log_p)
            progress(done, len(rows))
        if not batches:
            none = torch.zeros(0, device=self.device)
            return none.new_zeros(0, self.model.hidden_size) + nothing, none if log_probs else None
        pooled = restore_order(features, batches)
        if passes > len(batches):
            pooled = pooled + nothing.to(pooled.dtype)
        return pooled, restore_order(log_pi, batches) if log_probs else None

    def _computed_again(self, rows: Sequence[Encoded], batches: Sequence[Sequence[int]]) -> int:
        """How many of the first micro-batches keep no activations: backward reaches the last ones first, so theirs
        are freed before the first are computed again."""
        if self.kept_tokens is None or not torch.is_grad_enabled():
            return 0
        kept = 0
        for number in reversed(range(len(batches))):
            members = [rows[position] for position in batches[number]]
            kept += self.tokens(members)
            if kept > self.kept_tokens:
                return min(
                    number + 1, len(batches) - 1
                )  # recomputing the only micro-batch would not lower the peak
        return 0

    def scores(
        self,
        rows: Sequence[Encoded],
        *,
        log_probs: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores (the head stays out of autocast) and log pi(response) if asked. [N] or [N, 9], [N] or None

        Each process of the group encodes its share, and all have the result.
        """
        if self.group.size == 1:
            features, log_pi = self(rows, log_probs=log_probs, progress=progress)
            return self.model.score(features), log_pi
        shares = self.shares(rows)
        own = [rows[position] for position in shares[self.group.rank]]
        shortest = min(rows, key=len)
        features, log_pi = self(own, log_probs=log_probs, progress=progress, spare=shortest)
        scores = self.group.gather(self.model.score(features), shares)
        return scores, None if log_pi is None else self.group.gather(log_pi, shares)

    def shares(self, rows: Sequence[Encoded]) -> list[list[int]]:
        """Which process encodes which rows; a prompt's responses stay together unless they are more than a share."""
        share = self.packed and self.share

        def tokens(members: list[int]) -> int:
            return packed_tokens([rows[position] for position in members], share=share)

        whole = by_prompt(rows) if share else [[position] for position in range(len(rows))]
        costs = [tokens(members) for members in whole]
        fair = sum(costs) / self.group.size
        parts: list[tuple[list[int], int]] = []
        for members, cost in zip(whole, costs, strict=True):
            together = cost <= fair
            parts.extend([(members, cost)] if together else [([row], tokens([row])) for row in members])
        return self.group.divide([members for members, _ in parts], [cost for _, cost in parts])

    def _packed(self, rows: list[Encoded], log_probs: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        packed = pack(
            rows,
            self.device,
            causal=self.model.architecture == "causal",
            offset=self.model.position_offset,
        )
        hidden = self.model.hidden_packed(packed)  # [T, H]
        features = self.model.pool_packed(hidden, packed)
        if not log_probs:
            return features, None
        states = hidden[packed.before]
        return features, self.model.token_log_probs(states, packed.targets, packed.owner, len(rows))

    def _sorted(self, rows: list[Encoded], log_probs: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        ids, lengths, pooled = collate(rows, self.device)
        hidden = self.model.hidden(ids, lengths)  # [B, L, H]
        features = self.model.pool(hidden, lengths, pooled)
        if not log_probs:
            return features, None
        token = torch.arange(ids.shape[1], device=self.device)
        starts = torch.tensor([row.start for row in rows], device=self.device)
        stops = torch.tensor([row.stop for row in rows], device=self.device)
        owner, column = ((token >= starts.unsqueeze(1)) & (token < stops.unsqueeze(1))).nonzero(as_tuple=True)
        states = hidden[owner, column - 1]  # position t is predicted at t - 1
        return features, self.model.token_log_probs(states, ids[owner, column], owner, len(rows))


@torch.no_grad()
def packable(model: RewardModel, device: torch.device, longest: int) -> bool:
    """Whether texts up to `longest` tokens get the same features from a packed row as alone.

    It is tried rather than looked up: an architecture may take no positions, keep relative ones, ignore the
    attention registry or mix tokens outside attention.
    """
    vocabulary = model.backbone.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    tokens = [(7 * place + 11) % vocabulary for place in range(24)]
    rows = [
        Encoded(tuple(tokens[first:stop]), first_own, stop - first, False, 0)
        for first, stop, first_own in ((0, 9, 4), (9, 14, 2), (14, 24, 3))
    ]
    rows.append(Encoded((*rows[0].ids[:4], *tokens[20:23]), 4, 7, False, 0))
    training = model.training
    model.eval()
    try:
        causal = model.architecture == "causal"
        packed = pack(rows, device, causal=causal, offset=model.position_offset)
        segments = dataclasses.replace(packed.segments, longest=max(longest, packed.segments.longest))
        with autocast(
            device
        ):  # as in training: adapters take no bf16 without it, and another kernel would be tried
            together = model.pool_packed(
                model.hidden_packed(dataclasses.replace(packed, segments=segments)), packed
            )
            exact = together.dtype == torch.float32 and not torch.is_autocast_enabled(device.type)
            batches = (collate([row], device) for row in rows)
            alone = torch.cat([model.pool(model.hidden(*batch[:2]), *batch[1:]) for batch in batches])
    except (Unpackable, TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        forget_failed_pass(model)
        return False
    finally:
        model.train(training)
    tolerance = 1e-3 if exact else 5e-2
    difference = (together - alone).float().abs().max()
    return bool(difference <= tolerance * alone.float().abs().max())
