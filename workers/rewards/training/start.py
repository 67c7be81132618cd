"""What a base model gives a run beyond its backbone: a trained head, and where levels end on its reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..artifacts.save import HEAD_NAME
from ..config import Refused
from ..models.kinds import Base, local_file
from ..models.load import load_adapters, load_head
from ..models.reward_model import RewardModel


@dataclass(frozen=True)
class Start:
    """The head of a reward model or of an earlier training; `unlike`: why a head that is there can't be one here.

    `adapters`: settings and tensors of those that lie over the base model, which may go on learning.
    """

    base: Base
    head: dict[str, torch.Tensor] | None
    cuts: tuple[float, float] | None
    unlike: str = ""
    adapters: tuple[Any, dict[str, torch.Tensor]] | None = None

    @classmethod
    def of(cls, base: Base) -> Start:
        """Raises Refused where the head can't be read."""
        path = local_file(base.adapters or base.source, HEAD_NAME)
        try:
            head = load_head(base) if path is None else load_file(path)
        except (OSError, SafetensorError) as error:
            raise Refused(f"{HEAD_NAME} of the base model is damaged: {error}; choose another") from None
        cuts = (base.caliper or {}).get("level_cuts")
        unlike = ""
        if head is None and base.classifier:
            unlike = (
                "it reads the first token, this program the mean over the response"
                if base.architecture == "encoder"
                else "it is not one linear layer named score"
            )
        adapters = None if base.adapters is None else load_adapters(base)
        return cls(base, head, None if cuts is None else (cuts[0], cuts[1]), unlike, adapters)

    def give(self, model: RewardModel) -> None:
        """Puts head and cut points on a new model, if they fit it."""
        if self.head is None or model.head is None or self._misfit(model):
            return
        model.head.load_state_dict(self.head)
        if model.cuts is not None and self.cuts is not None:
            model.add_cuts(*self.cuts)

    def note(self, model: RewardModel) -> str | None:
        """What becomes of the head, as a sentence; None where there is none to begin with."""
        if why := self._misfit(model):
            return f"the head starts anew, not from {self.base.name}'s: {why}"
        return None if self.head is None else f"the head goes on from {self.base.name}'s"

    def _misfit(self, model: RewardModel) -> str:
        if self.head is None:
            return self.unlike
        if model.head is None:
            return "this method reads its ratings from the language model's own"
        return "" if shapes(self.head) == shapes(model.head.state_dict()) else "it has another form"


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
