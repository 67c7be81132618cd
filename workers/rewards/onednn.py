"""Linear layers through oneDNN on AMD's processors with AVX-512, which PyTorch's default, MKL, uses on Intel's alone.

Measured on one thread of an AMD EPYC (Zen 5): 95 GFLOP/s with F.linear, 200 with oneDNN, forward and backward, same
fp32 arithmetic.  Elsewhere MKL is the faster one: without AVX-512 (Zen 3) 78 against 63, on Intel (Sapphire Rapids)
140 against 125, and oneDNN compiles a product for every shape besides.
The operator is the one that torch.compile's CPU backend calls.
"""

from __future__ import annotations

import functools
import os
import platform
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

FEW_ROWS = 16  # below this the call costs more than it saves

# oneDNN, and ideep between PyTorch and it, each keep 1,024 compiled products by shape.  No two packed rows have the
# same shape, so those are hundreds of MiB that are never used again; a micro-batch needs a dozen.  Read at the first
# product.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "32")


@functools.cache
def available() -> bool:
    """Whether PyTorch has the operator here and it gives what F.linear gives."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.arange(12.0).view(4, 3), torch.arange(6.0).view(2, 3), torch.ones(2)
    try:
        same = torch.equal(_product(x, weight, bias), F.linear(x, weight, bias))
        return same and torch.equal(
            _product(x.t(), weight.new_ones(2, 4), None), F.linear(x.t(), torch.ones(2, 4))
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


@functools.cache
def faster() -> bool:
    """Whether oneDNN's products are the faster ones here.  Looked up, not timed: a run must not depend on the hour."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and "AuthenticAMD" in _vendor()


def _vendor() -> str:
    """The processor's maker, or what the system says in its place."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        return platform.processor()  # Windows: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD"


def use_onednn(model: nn.Module) -> None:
    """Let the model's linear layers take this path where it is the faster one; their weights and names stay."""
    if faster() and available():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """nn.Linear, with its products by oneDNN for fp32 on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if (
            input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or input.numel() < FEW_ROWS * self.in_features
            or torch.is_autocast_enabled("cpu")
        ):
            return F.linear(input, self.weight, self.bias)
        output: torch.Tensor = _Linear.apply(input, self.weight, self.bias)
        return output


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])  # [T, out]
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        to_x = _product(flat, weight.t(), None).view(x.shape) if needs_x else None
        to_weight = _product(flat.t(), x.reshape(-1, x.shape[-1]).t(), None) if needs_weight else None
        return to_x, to_weight, flat.sum(0) if needs_bias else None


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x @ weight^T + bias; both may be transposed views.  [T, in], [out, in] -> [T, out]"""
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output
