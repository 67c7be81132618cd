"""Weights divided among processes by PyTorch's FSDP2: each keeps a part of every layer, of its gradient and of the
optimiser's moments, and has a layer whole only while it computes with it.

The head and the thresholds are small and stay whole in each process. Gradients are summed, not averaged: every process
has the whole step's loss and its own share of the responses (see distributed.py). As layers are gathered from all
processes, all must run the same forward passes at the same time (encode.py sees to it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ..config import Refused
from .distributed import Group
from .reward_model import RewardModel, layers_of


def shard(model: RewardModel, team: Group) -> None:
    """Divide the first process's backbone among the team, layer by layer, each part on its process's device.

    The others' backbones may be without weights, so that a machine's memory holds the whole once.
    On a GPU layers are gathered, and computed with, in bf16; the parts and the sums of gradients keep their dtype.
    """
    small = [*model.thresholds, *(model.head.parameters() if model.head is not None else ())]
    for parameter in small:
        parameter.data = parameter.data.to(team.device)
    half = (
        {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if team.device.type == "cuda" else {}
    )
    how: dict[str, Any] = {
        "mesh": init_device_mesh(team.device.type, (team.size,)),
        "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False, **half),
    }
    whole = {name: value.detach() for name, value in model.named_parameters()} if team.first else {}
    for layer in layers_of(model.backbone):
        fully_shard(layer, **how)
    fully_shard(model, ignored_params=set(small), **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    register_fsdp_forward_method(model, "states")
    _give_parts(model, whole, team)


@torch.no_grad()
def _give_parts(model: nn.Module, whole: Mapping[str, torch.Tensor], team: Group) -> None:
    """Fill each process's parts from the first one's whole weights, one after the other."""
    model._apply(lambda tensor: torch.empty_like(tensor, device=team.device) if tensor.is_meta else tensor)
    for name, part in model.named_parameters():
        if isinstance(part, DTensor):
            source = (
                whole[name].to(team.device)
                if team.first
                else torch.empty(part.shape, dtype=part.dtype, device=team.device)
            )
            part.copy_(distribute_tensor(source, part.device_mesh, part.placements))


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def forget_failed_pass(model: nn.Module) -> None:
    """Make a sharded model usable after a forward pass that raised. Raises Refused where PyTorch can't."""
    if not isinstance(model, FSDPModule):
        return
    reset = getattr(model, "reset_iter_state", None)  # since PyTorch 2.13
    if reset is None:
        raise Refused(
            "this base model reads no packed rows, and with shard that needs PyTorch 2.13: update it, or set shard to "
            "false"
        )
    reset()


def learned(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that learn, as the process keeps them: of a sharded model its parts."""
    if isinstance(model, FSDPModule):
        model.reshard()  # embeddings and LM head stay gathered after a forward pass
    return ((name, value) for name, value in model.named_parameters() if value.requires_grad)


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors on the CPU, one after the other; all processes take part, those with `keep` get them."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if keep:
            found[name] = whole.cpu()
    return found


def laid_out(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What a process keeps of a whole tensor, which all have, if it keeps that much of `like`."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Like torch's clip_grad_norm_, over gradients of which processes hold parts too."""
    parameters = list(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    if not parts:
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        return
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = torch.nn.utils.get_total_norm(parts).float() ** 2
    dist.all_reduce(square)
    if whole:
        square = square + torch.nn.utils.get_total_norm(whole) ** 2
    factor = (limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in (*parts, *whole):
        gradient.mul_(factor)
