"""The network: a text encoder or a causal language model, with a scalar or a nine-rating score on top.

Positions and masks come from lengths, never from token ids (pad may equal eos, and either may stand in a text).
Padding is on the right.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..config import LORA_ALPHA, LORA_RANK, RunConfig
from ..scale import RATINGS
from .calibration import Calibration
from .fused import fuse_adapters, fuse_norms
from .lora import adapted, merged
from .packing import Packed

# Above this many logits (1 GiB in fp32) log-probabilities are computed in parts, and again for the gradient.
LOGITS_AT_ONCE = 2**28
# How steep an ordinal head's start is: .3 and .5 are alike, 1 overfits sooner (benchmarks/heads.py).
ORDERED_START = 0.3


def set_dropout(backbone: nn.Module, rate: float) -> None:
    """Dropout at this rate everywhere in the backbone, attention included."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate  # type: ignore[assignment]  # causal models keep a number there


def position_offset(backbone: nn.Module) -> int:
    """Where the architecture's positions begin: RoBERTa and its kin count from padding_idx + 1."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def longest_text(backbone: nn.Module) -> int | None:
    """Tokens of the longest text that the backbone has positions for; None: it doesn't say."""
    config: Any = backbone.config
    places = getattr(config, "max_position_embeddings", None)
    return None if places is None else int(places) - position_offset(backbone)


def layers_of(backbone: nn.Module) -> Iterable[nn.Module]:
    """The repeated layers of a transformer: the module list with the most weights."""
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=[])


class RewardModel(nn.Module):
    """Backbone and head.

    kind "scalar": r [B]. kind "ordinal": nine logits [B, 9]: a linear layer on an encoder, the LM head's nine
    digit rows on a causal model (no new parameters, OPRM). The thresholds of a scalar likelihood stay None unless the
    labels need them: `tie` (Rao-Kupper), `bad_threshold` (where bad ends, of "both bad" and of levels), `cuts` (where
    bad and normal end) and `strength_steps`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        architecture: str,
        kind: str,
        head_hidden: int = 0,
        digit_ids: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.architecture = architecture
        self.kind = kind
        self.head_hidden = head_hidden
        self._lora: Any = None
        self.packable: dict[tuple[torch.device, int], bool] = {}  # what encode.packable has found
        pooler = getattr(backbone, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)  # BERT's own pooler is not read here
        config: Any = backbone.config
        self.hidden_size = int(config.hidden_size)
        outputs = RATINGS if kind == "ordinal" else 1
        self.head: nn.Module | None = None
        self.digits: torch.Tensor
        if digit_ids is not None:
            self.register_buffer("digits", torch.tensor(digit_ids), persistent=False)
        else:
            # no bias on a causal model: transformers' sequence classifiers have none, so the head can be exported
            self.head = _head(
                self.hidden_size, head_hidden, outputs, bias=architecture == "encoder" or head_hidden > 0
            )
        self.tie_raw: nn.Parameter | None = None
        self.bad_threshold: nn.Parameter | None = None
        self.normal_raw: nn.Parameter | None = None
        self.steps_raw: nn.Parameter | None = None
        self.calibration = Calibration()  # applied by predict.distributions

    # --- Thresholds of the scalar likelihood ---

    def add_thresholds(self, *, ties: bool, both_bad: bool) -> None:
        """Learn the thresholds that the labels need; eta starts at softplus(0) = 0.69, close to a third of ties."""
        if ties:
            self.tie_raw = nn.Parameter(torch.zeros(()))
        if both_bad:
            self.bad_threshold = nn.Parameter(torch.zeros(()))

    def add_cuts(self, low: float, high: float) -> None:
        """Learn where the levels bad and normal end on the reward, from low < high on.

        Bad ends for "both bad" where it ends for a level: both say that a response is bad, so it is one parameter.
        """
        self.bad_threshold = nn.Parameter(torch.tensor(low))
        self.normal_raw = nn.Parameter(torch.tensor(_inverse_softplus(high - low)))

    def add_strengths(self, shares: Sequence[float]) -> None:
        """Learn from which difference on a win is called stronger, above the tie's threshold.

        `shares`: of all verdicts but "both bad", the wins of strength 2 or more, of 3 or more. Between equal rewards
        they start with these shares.
        """
        start = [0.0 if self.tie is None else self.tie.item()]
        for share in shares:
            start.append(max(-logit(share / 2), start[-1] + 0.1))
        gaps = [_inverse_softplus(high - low) for low, high in itertools.pairwise(start)]
        self.steps_raw = nn.Parameter(torch.tensor(gaps))

    @property
    def cuts(self) -> torch.Tensor | None:
        """c1 < c2, where bad and normal end on the reward. [2], or None"""
        if self.bad_threshold is None or self.normal_raw is None:
            return None
        return torch.stack([self.bad_threshold, self.bad_threshold + F.softplus(self.normal_raw) + 1e-4])

    @property
    def strength_steps(self) -> torch.Tensor | None:
        """How far above the tie's threshold each further strength begins, rising. [2], or None"""
        return None if self.steps_raw is None else (F.softplus(self.steps_raw) + 1e-4).cumsum(0)

    @property
    def tie(self) -> torch.Tensor | None:
        """Rao-Kupper's eta > 0, or None."""
        return None if self.tie_raw is None else F.softplus(self.tie_raw) + 1e-4

    def checkpoint_gradients(self) -> None:
        """Keep only each layer's input for the gradient, and compute the layer again."""
        backbone: Any = self.backbone
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def gather_embedding_gradient(self) -> None:
        """Keep the embedding's gradient as rows while it grows, and fill the matrix once a step: for a CPU.

        Each micro-batch would else write, and add up, a matrix of the whole vocabulary: 47 MB for MiniLM.
        """
        embedding = self.backbone.get_input_embeddings()  # type: ignore[operator]
        if isinstance(embedding, nn.Embedding) and embedding.weight.requires_grad:
            embedding.sparse = True
            embedding.weight.register_post_accumulate_grad_hook(_fill_gradient)

    @property
    def thresholds(self) -> list[nn.Parameter]:
        """Parameters of the likelihood alone, which no text passes through."""
        every = (self.tie_raw, self.bad_threshold, self.normal_raw, self.steps_raw)
        return [value for value in every if value is not None]

    # --- LoRA ---

    @property
    def lora(self) -> Any:
        """PEFT's wrapper where there are adapters, else None."""
        return self._lora

    def add_lora(self, config: RunConfig, given: tuple[Any, dict[str, torch.Tensor]] | None = None) -> None:
        """Freeze the backbone and put adapters on its linear layers; the head outside stays trainable.

        `given`: settings and tensors of adapters that go on; new ones start as nothing. Raises ValueError.
        """
        from peft import LoraConfig

        new = LoraConfig(
            r=config.lora_rank or LORA_RANK,
            lora_alpha=config.lora_alpha or LORA_ALPHA,
            target_modules="all-linear",
        )
        adapters, tensors = (new, None) if given is None else (copy.deepcopy(given[0]), given[1])
        adapters.inference_mode = False
        # peft works in place; the wrapper is kept to write the adapters and to merge them
        wrapper = adapted(self.backbone, adapters, tensors)
        object.__setattr__(self, "_lora", wrapper)
        self.backbone = wrapper.base_model.model

    def merge_lora(self) -> None:
        """Fold the adapters into the weights, in fp32: scores change by fp32's rounding only."""
        if self._lora is not None:
            self.backbone = merged(self._lora)
            object.__setattr__(self, "_lora", None)

    def fuse(self) -> None:
        """Fewer kernels for the same numbers up to rounding: for a GPU, under autocast."""
        self.uncast_adapters()
        fuse_norms(layers_of(self.backbone))
        if self._lora is not None:
            fuse_adapters(self.backbone)

    def uncast_adapters(self) -> None:
        """Give adapters their layers' inputs as they are: for autocast, which casts the adapters to that.

        PEFT makes fp32 of every input, and autocast bf16 of that again, a copy for each layer.
        """
        for module in self.backbone.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # type: ignore[assignment]

    # --- Forward ---

    @property
    def _body(self) -> Any:
        """The backbone without an LM head: a call that returns last hidden states."""
        if self.architecture == "encoder":
            return self.backbone
        body: Any = self.backbone.base_model
        return functools.partial(body, use_cache=False)

    def states(self, **inputs: Any) -> torch.Tensor:
        """The backbone's last hidden states; what a sharded model gathers its weights for. [B, L, H]"""
        output: torch.Tensor = self._body(**inputs).last_hidden_state
        return output

    def hidden(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Last hidden states of a padded batch. [B, L], [B] -> [B, L, H]"""
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)  # [B, L]
        return self.states(input_ids=ids, attention_mask=mask.long())

    def hidden_packed(self, packed: Packed) -> torch.Tensor:
        """Last hidden states of a packed row. [T, H]"""
        return self.states(
            input_ids=packed.ids.unsqueeze(0),
            position_ids=packed.positions.unsqueeze(0),
            segments=packed.segments,
        ).squeeze(0)

    @property
    def position_offset(self) -> int:
        """Where the architecture's positions begin."""
        return position_offset(self.backbone)

    def pool(self, hidden: torch.Tensor, lengths: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Mean over the tokens from `pooled` to the end (encoder), or the one that `pooled` tokens follow (causal).
        [B, L, H], [B], [B] -> [B, H]"""
        if self.architecture == "causal":
            return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1 - pooled]
        token = torch.arange(hidden.shape[1], device=hidden.device)
        mask = (token >= pooled.unsqueeze(1)) & (token < lengths.unsqueeze(1))
        total = (hidden * mask.unsqueeze(2)).sum(1)
        return total / (lengths - pooled).unsqueeze(1)

    def pool_packed(self, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
        """The same from what hidden_packed returns. [T, H] -> [B, H]"""
        whole = self.architecture == "encoder" and len(packed.pooled) == len(hidden)
        states = hidden if whole else hidden[packed.pooled]  # [Q, H]
        if self.architecture == "causal":
            return states
        text = torch.repeat_interleave(packed.counts)  # [Q]
        total = states.new_zeros(len(packed.counts), states.shape[1]).index_add(0, text, states)
        return total / packed.counts.unsqueeze(1)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Scores from pooled features, fp32 at least. [B, H] -> [B] (scalar) or [B, 9] (ordinal logits)"""
        if self.head is None:
            rows = self.lm_head_weight[self.digits]  # [9, H]: nine rows, never the whole vocabulary
            exact = torch.promote_types(rows.dtype, torch.float32)
            return F.linear(features.to(exact), rows.to(exact))
        scores: torch.Tensor = self.head(features.to(next(self.head.parameters()).dtype))
        return scores.squeeze(-1) if self.kind == "scalar" else scores

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """What sections.collate makes of rows. [B, L], [B], [B] -> [B] or [B, 9]"""
        return self.score(self.pool(self.hidden(ids, lengths), lengths, pooled))

    def token_log_probs(
        self, states: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor, count: int
    ) -> torch.Tensor:
        """log pi(response | prompt): the sum over its tokens, each from the state before it. [R, H], [R], [R] -> [B]

        The LM head runs on these positions alone, a part at a time when the vocabulary makes them large.
        """
        head: Any = self.backbone.get_output_embeddings()  # type: ignore[operator]

        def part(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return -F.cross_entropy(head(states).float(), targets, reduction="none")

        rows = max(1, LOGITS_AT_ONCE // int(head.weight.shape[0]))
        pieces = list(zip(states.split(rows), targets.split(rows), strict=True))
        if len(pieces) > 1:
            chosen = torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])
        else:
            chosen = part(states, targets)
        return torch.zeros(count, device=states.device).index_add(0, owner, chosen)

    @property
    def lm_head_weight(self) -> torch.Tensor:
        head: Any = self.backbone.get_output_embeddings()  # type: ignore[operator]
        weight: torch.Tensor = head.weight
        return weight


def logit(share: float) -> float:
    """log odds of a probability within 0..1, both excluded."""
    return math.log(share / (1 - share))


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


def _fill_gradient(weight: torch.Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()


def weights_digest(module: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all weights: the model's identity, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _head(hidden_size: int, width: int, outputs: int, *, bias: bool) -> nn.Module:
    """A linear layer, or one hidden layer on normalised features; small weights, so that scores start near zero.

    Nine ratings start as one scalar reward, in order: logit k is (k - 5) r.
    """
    last = nn.Linear(width or hidden_size, outputs, bias=bias)
    nn.init.normal_(last.weight, std=0.02)
    if outputs == RATINGS:
        # as nine rows of their own they need twice the epochs to find the order (benchmarks/heads.py)
        with torch.no_grad():
            last.weight.copy_(ORDERED_START * torch.outer(torch.arange(RATINGS) - 4.0, last.weight[0]))
    if bias:
        nn.init.zeros_(last.bias)
    if not width:
        return last
    return nn.Sequential(
        nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.GELU(), nn.Dropout(0.2), last
    )
