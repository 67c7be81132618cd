"""One optimiser step, as the loop makes it for the final model and cross-fitting for each fold's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..config import ResolvedConfig
from ..models.distributed import Group
from ..models.reward_model import RewardModel
from ..models.sharding import clip_gradients
from .batches import Step
from .optimiser import schedule
from .step import StepLoss


class Update:
    """Learns from steps, one call each. The learning rate falls as if all epochs had as many steps as this one."""

    def __init__(
        self,
        model: RewardModel,
        loss: StepLoss,
        optimizer: torch.optim.Optimizer,
        config: ResolvedConfig,
        team: Group,
    ) -> None:
        self.model, self.loss, self.optimizer, self.config, self.team = model, loss, optimizer, config, team
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self._steps: Sequence[Step] = ()
        self._mean_weight = 1.0

    def __call__(self, steps: Sequence[Step], epoch: int, within: int, number: int) -> float:
        """Learn from steps[within] of an epoch's `steps`; returns the loss a unit of weight.

        `number`, of the step in the whole training, seeds dropout: a resumed run is the straight one.
        """
        config, step = self.config, steps[within]
        if steps is not self._steps:
            self._steps, self._mean_weight = steps, sum(map(self.loss.weight, steps)) / len(steps)
        rate = schedule(len(steps) * epoch + within, len(steps) * config.epochs, config.warmup)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * rate
        seed = config.seed * 1_000_003 + number + 2**40 * self.team.rank
        losses = self._gradient(step, seed)
        while losses is None:
            torch.cuda.empty_cache()  # once the failed pass's tensors are gone
            losses = self._gradient(step, seed)
        total = sum(loss.item() for loss in losses)
        if not math.isfinite(total):
            raise RuntimeError(f"the loss is {total} at step {number}; lower learning_rate")
        self.team.sum_gradients(self.model.parameters(), self.model.thresholds)
        clip_gradients(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total / self.loss.weight(step)

    def _gradient(self, step: Step, seed: int) -> list[torch.Tensor] | None:
        """Fill the gradients; the losses of the step's parts, to be looked at together, since a look waits for the GPU.

        None where memory ran out: the encoder then holds half as much at once, and the next try has the same gradient.
        Raises OutOfMemoryError where that is too little, or where other processes wait in this try.
        """
        torch.manual_seed(seed)
        losses = []
        try:
            for part in self.loss.parts(step):
                loss = self.loss(part, step)
                (loss / self._mean_weight).backward()
                losses.append(loss.detach())
        except torch.OutOfMemoryError:
            self.optimizer.zero_grad(set_to_none=True)
            if self.team.size > 1 or not self.loss.encoder.narrow():
                raise
            return None
        return losses
