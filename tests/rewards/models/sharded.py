"""Trains run folders with weights divided among processes: started by test_distributed.py under torchrun."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from workers.rewards.models import encode, sharding
from workers.rewards.models.distributed import Group
from workers.rewards.models.load import load_base, load_hollow
from workers.rewards.models.sharding import learned
from workers.rewards.training import loop, prepare
from workers.rewards.training.prepare import Run
from workers.rewards.training.progress import Stop, Stopped
from workers.rewards.training.tracking import Tracking

straight = loop.loop
evenly, most = Group.divide, Group.most
idle = [0]  # forward passes that a process made only because another had one more


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """bf16 base, layers gathered in bf16, sums in fp32, autocast: what shard and encode do on a GPU."""
    half = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    patch.setattr(sharding, "MixedPrecisionPolicy", lambda **given: MixedPrecisionPolicy(**{**given, **half}))
    patch.setattr(encode, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16))
    patch.setattr(
        prepare,
        "backbone_of",
        lambda config, base, device, hollow=False: (load_hollow if hollow else load_base)(
            base, torch.bfloat16
        ),
    )


class StopsSoon(Stop):
    """Wants to stop in the second process alone, after its tenth look."""

    looks = 0

    @property
    def wanted(self) -> bool:
        self.looks += 1
        return self.looks > 10 and dist.get_rank() == 1


def divided(run: Run, tracking: Tracking) -> loop.Position:
    for name, parameter in learned(run.model):
        if not name.startswith("backbone."):
            continue
        assert isinstance(parameter, DTensor), f"{name} is whole"
        assert not parameter.is_meta
        if name.endswith("mlp.down_proj.weight"):
            assert parameter.to_local().numel() == parameter.numel() // 2
    position = straight(run, tracking)
    for state in run.optimizer.state.values():
        assert all(value.ndim == 0 or value.device == run.team.device for value in state.values())
    return position


def unevenly(self: Group, groups: Sequence[Sequence[int]], costs: Sequence[int]) -> list[list[int]]:
    """All but one prompt to the first process; to the second nothing, where a step has but one."""
    shares = [[row for group in groups[: len(groups) - 1] for row in group], list(groups[-1])]
    return shares if shares[0] else shares[::-1]


def counted(self: Group, *counts: int) -> list[int]:
    told = most(self, *counts)
    idle[0] += told[-1] - counts[-1]
    return told


if __name__ == "__main__":
    loop.loop = divided
    Group.most = counted  # type: ignore[method-assign]
    if os.environ["RANK"] != "0":  # its parts come from the first process: it reads no weights
        del prepare.load_base, prepare.load_merged
    for folder in map(Path, sys.argv[1:]):
        Group.divide = unevenly if folder.name.startswith("small") else evenly  # type: ignore[method-assign]
        if folder.name.startswith("stopped"):
            try:
                loop.train(folder, StopsSoon())
            except Stopped:
                dist.barrier()
                assert (folder / "checkpoint" / "state.safetensors").exists()
            else:
                raise AssertionError("it did not stop")
        with pytest.MonkeyPatch.context() as patch:
            if folder.name.startswith("half"):
                as_on_a_gpu(patch)
            loop.train(folder)
    (Path(sys.argv[1]).parent / f"idle-{dist.get_rank()}").write_text(str(idle[0]))
