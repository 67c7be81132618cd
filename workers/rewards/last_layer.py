"""The last layer computes only the states that the head reads: its keys and values need all tokens, nothing else does.

A causal model's head reads one position of each response, an encoder's those of the response without its prompt.  The
layer is given the read rows alone, its attention is given all rows back and answers for the read ones (packing.py),
and the product after it is narrowed to them, so that residual, norms and MLP never see the others.  Hooks do it, so
the architecture's own code runs; which rows are read travels with the packed row (`segments.last`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn as nn

from .packing import Segments

# Of a layer: its attention, the norm before that (if the residual goes around it), and the product after attention.
PARTS = (
    ("attention.self", None, "attention.output.dense"),  # BERT, RoBERTa, XLM-R, ELECTRA
    ("self_attn", "input_layernorm", "self_attn.o_proj"),  # Llama, Qwen, Mistral, Gemma
    ("attn", "attn_norm", "attn.Wo"),  # ModernBERT
)
LAYERS = ("layer", "layers")


class LastLayer:
    """Hooks on a model's last layer; without `segments.last` they change nothing."""

    def __init__(
        self, layer: nn.Module, attention: nn.Module, norm: nn.Module | None, product: nn.Module
    ) -> None:
        self._norm = norm
        self._count: int | None = None  # rows that are read, from attention to the product after it
        self._hooks = [
            layer.register_forward_pre_hook(self._narrow, with_kwargs=True),
            attention.register_forward_pre_hook(self._widen, with_kwargs=True),
            product.register_forward_pre_hook(self._cut),
        ]

    @classmethod
    def of(cls, body: nn.Module) -> LastLayer | None:
        """Of the one stack of layers in `body`; None where there are several, or the layer's parts have other names."""
        stacks = [
            module
            for name, module in body.named_modules()
            if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in LAYERS and len(module)
        ]
        if len(stacks) != 1:
            return None
        layer = stacks[0][-1]
        for attention, norm, product in PARTS:
            try:
                return cls(
                    layer,
                    layer.get_submodule(attention),
                    layer.get_submodule(norm) if norm else None,
                    layer.get_submodule(product),
                )
            except AttributeError:
                continue
        return None

    def remove(self) -> None:
        """Take the hooks off again."""
        for hook in self._hooks:
            hook.remove()

    def _narrow(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        segments: Any = kwargs.get("segments")
        if segments is None or segments.last is None:
            return None
        # the layer's checkpointing begins behind this hook: what attention needs has to be among the arguments
        rows = args[0] if args else kwargs["hidden_states"]  # [1, T, H]
        last: Segments = dataclasses.replace(segments.last, rows=rows)
        return _with_rows(rows[:, segments.last.read], args, {**kwargs, "segments": last})

    def _widen(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        segments: Any = kwargs.get("segments")
        if segments is None or segments.rows is None:
            self._count = None
            return None
        self._count = len(segments.read)
        return _with_rows(segments.rows if self._norm is None else self._norm(segments.rows), args, kwargs)

    def _cut(self, product: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._count is None else (args[0][:, : self._count], *args[1:])


def _with_rows(
    rows: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with other hidden states, which come first or by name."""
    return ((rows, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": rows})
