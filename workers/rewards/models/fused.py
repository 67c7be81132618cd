"""The same layers in fewer kernels: for a GPU, where each launch takes 11 us and each pass over memory its time.

Measured on an H100 with a 0.5B, whose steps wait for launches; see docs/measurements.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
)  # what they give is read by linear maps alone, or is a branch


class FusedNorm(nn.Module):
    """An RMS norm in one kernel, which gives what autocast would make of its output, once instead of for each map.

    Not made, but what a decoder layer's own norm becomes: the weight and its name stay.
    """

    weight: torch.Tensor
    variance_epsilon: float
    kernel: Callable[..., torch.Tensor] = staticmethod(F.rms_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H] -> [..., H] in autocast's type"""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            weight = self.weight.to(x.dtype)
            return self.kernel(x, weight.shape, weight, self.variance_epsilon).to(dtype)


def fuse_norms(layers: Iterable[nn.Module]) -> None:
    """Make FusedNorms of the norms of these decoder layers that compute the same."""
    for layer in layers:
        for name in NORMS:
            norm: Any = getattr(layer, name, None)
            if hasattr(norm, "variance_epsilon") and _is_rms(type(norm)):
                # its class alone: sharding has noted the module and its weight
                norm.__class__ = FusedNorm


@functools.cache
def _is_rms(kind: Any) -> bool:
    """Whether a class of norms is x / rms(x) * weight. It is tried: Gemma's multiplies by 1 + weight."""
    if kind is FusedNorm:
        return False
    with torch.device("cpu"), torch.no_grad():  # the model may be one without storage
        x, weight = torch.linspace(-2, 3, 32).view(4, 8), torch.linspace(0.5, 2, 8)
        try:
            norm = kind(8, 1e-6)
            norm.weight = nn.Parameter(weight)
            return torch.allclose(norm(x), F.rms_norm(x, (8,), weight, 1e-6), rtol=1e-4)
        except (AttributeError, TypeError, RuntimeError):
            return False


def fuse_adapters(backbone: nn.Module) -> None:
    """Add what LoRA's adapters give to their layers' outputs within one product: PEFT reads and writes them twice."""
    from peft.tuners import lora

    class Joined(lora.Linear):
        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if self.disable_adapters or self.merged or args or kwargs:
                plain: torch.Tensor = super().forward(x, *args, **kwargs)
                return plain
            out: torch.Tensor = self.base_layer(x)
            low = self.lora_A["default"](x) * self.scaling["default"]  # [..., rank]
            up: Any = self.lora_B["default"]
            return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), up.weight.T).view_as(out)

    for module in backbone.modules():
        if type(module) is lora.Linear and list(module.lora_A) == ["default"] and _is_plain(module):
            module.__class__ = Joined


def _is_plain(layer: Any) -> bool:
    """Whether the update is B A x * scaling alone, over a linear layer."""
    dropout, up = layer.lora_dropout["default"], layer.lora_B["default"]
    variant = getattr(layer, "lora_variant", {})
    return (
        isinstance(layer.get_base_layer(), nn.Linear)
        and isinstance(dropout, nn.Identity)
        and up.bias is None
        and not variant
    )
