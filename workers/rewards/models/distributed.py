"""Several processes on one run: a step's responses are divided among them, and everything else is as in one process.

Started by `accelerate launch --module workers.rewards.train RUN_DIR` or `python -m torch.distributed.run`, which set
WORLD_SIZE, RANK and LOCAL_RANK. Each process encodes its share of a step's responses; all scores are gathered, so
that each computes the whole step's loss; the gradient of a score flows to the process that encoded it, and the
parameters' gradients are summed. That is exactly the step of one process, pairs across the shares included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from ..config import Refused

PATIENCE = timedelta(hours=12)  # the others wait while rank 0 measures or writes
BUCKET = 2**24  # gradients that are summed in one message

# What `accelerate launch` or its configuration file asks for by a variable: the values that ask for nothing which is
# not done, and what to do instead.
LAUNCHED: dict[str, tuple[tuple[str, ...], str]] = {
    "ACCELERATE_USE_FSDP": (("false",), "leave out --use_fsdp and set shard to true in config.json"),
    "ACCELERATE_USE_DEEPSPEED": (("false",), "leave out --use_deepspeed and set shard to true in config.json"),
    "ACCELERATE_USE_MEGATRON_LM": (("false",), "leave out --use_megatron_lm and set shard to true in config.json"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (("false",), "leave out --use_parallelism_config"),
    "ACCELERATE_MIXED_PRECISION": (("no", "bf16"), "give --mixed_precision bf16, which a GPU computes in anyway"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "leave out --dynamo_backend"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        ("1",),
        "leave out --gradient_accumulation_steps: token_budget says how much a step holds",
    ),
    "ACCELERATE_GRADIENT_CLIPPING": (("none",), "leave out --gradient_clipping and set clip_norm in config.json"),
    "ACCELERATE_CPU_AFFINITY": (("0", "false"), "leave out --enable_cpu_affinity"),
}  # fmt: skip


def refuse_flags(environment: Mapping[str, str] = os.environ) -> None:
    """Raise Refused for what a launcher was asked for and this program doesn't do."""
    for name, (fine, remedy) in LAUNCHED.items():
        value = environment.get(name, "")
        if value and value.lower() not in fine:
            raise Refused(f"{name} is {value!r}, which is not done here; {remedy}")


class Group:
    """The processes of a run; with one of them every method is a plain local operation."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or default_device()

    @classmethod
    def started(cls) -> Group:
        """The group that a launcher's environment describes; one process without a launcher."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        rank, device = int(os.environ["RANK"]), default_device()
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(rank, size, device)

    @property
    def first(self) -> bool:
        """Whether this process writes files, measures and scores."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, told to all."""
        return bool(self.most(flag)[0])

    def most(self, *counts: int) -> list[int]:
        """The largest value of each number in any process, told to all."""
        if self.size == 1:
            return list(counts)
        told = torch.tensor(counts, dtype=torch.int64, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return told.tolist()

    def least(self, count: int) -> int:
        """The smallest value of a number in any process, told to all."""
        return -self.most(-count)[0]

    def from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first process's values of a tensor that all have."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def divide(self, groups: Sequence[Sequence[int]], costs: Sequence[int]) -> list[list[int]]:
        """Whole groups of positions to processes, about equal in cost; the same answer in every process."""
        shares: list[list[int]] = [[] for _ in range(self.size)]
        load = [0] * self.size
        for number in sorted(range(len(groups)), key=lambda number: (-costs[number], number)):
            least = min(range(self.size), key=lambda rank: (load[rank], rank))
            shares[least].extend(groups[number])
            load[least] += costs[number]
        return shares

    def gather(self, own: torch.Tensor, shares: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of all processes in the order of positions, with a gradient for one's own. [b, ...] -> [B, ...]"""
        if torch.is_grad_enabled() and not own.requires_grad:
            own = (
                own.detach().requires_grad_()
            )  # an empty share of a frozen head; the loss still needs its graph
        counts = [len(share) for share in shares]
        joined: torch.Tensor = _Gather.apply(own, counts, self.rank)
        order = torch.tensor([position for share in shares for position in share])
        return joined[torch.argsort(order).to(joined.device)]

    def sum_gradients(
        self, parameters: Iterable[torch.nn.Parameter], replicated: Sequence[torch.nn.Parameter]
    ) -> None:
        """Sum gradients over the processes; those of `replicated` parameters stand whole in each already, and those
        of sharded ones are summed in backward."""
        if self.size == 1:
            return
        known = {id(parameter) for parameter in replicated}
        learning = [
            p for p in parameters if p.requires_grad and id(p) not in known and not isinstance(p, DTensor)
        ]
        used = torch.tensor([float(p.grad is not None) for p in learning], device=self.device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        bucket: list[torch.nn.Parameter] = []
        for parameter, anywhere in zip(learning, used.tolist(), strict=True):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (
                parameter.dtype != bucket[0].dtype
                or sum(p.numel() for p in bucket) + parameter.numel() > BUCKET
            ):
                _sum(bucket)
                bucket = []
            bucket.append(parameter)
        if bucket:
            _sum(bucket)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # every process has the whole loss, so nothing needs to be sent back
        return grad[ctx.start : ctx.start + ctx.count].contiguous(), None, None


def _sum(parameters: Sequence[torch.nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def default_device() -> torch.device:
    """A GPU where there is one, unless `accelerate launch --cpu` says otherwise."""
    wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes")
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
