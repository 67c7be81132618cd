"""Early stopping: a share of the training groups is not trained on but watched, and the best weights are kept.

The watched groups are drawn from the training side; the held-out ones, which the metrics speak of, take no part in the
choice. History and best weights travel in the checkpoint, so a run that is killed and resumed chooses as the straight
one does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data.snapshot import Snapshot
from ..evaluation.metrics import cross_entropy, level_masses, pair_votes
from ..models.predict import distributions
from ..models.preference import cut_masses, ordinal_p_preferred, scalar_p_preferred
from ..models.reward_model import RewardModel
from ..models.sharding import is_sharded, laid_out, learned
from ..scale import LEVEL_INDEX

PER_EPOCH = 2  # looks


class Watch:
    """NLL and accuracy on the watched pairs, the best weights so far, and whether patience has run out.

    `watched` holds the rows of the watched groups. The NLL is that of P(preferred) against the vote shares; where
    nobody compared there, the NLL of the levels, if the model knows them. `usable` is False where neither is given.
    """

    def __init__(self, watched: Snapshot, index: dict[str, int], model: RewardModel, patience: int) -> None:
        self.model, self.patience = model, patience
        self.pairs = pair_votes(watched.judgements)
        knows_levels = model.kind == "ordinal" or model.cuts is not None
        levels = watched.levels if knows_levels and not watched.judgements else []
        self.level = np.array([LEVEL_INDEX[row["level"]] for row in levels], dtype=np.int64)
        names = self.pairs.ids or sorted({row["response_id"] for row in levels})
        place = {name: number for number, name in enumerate(names)}
        self.labelled = np.array([place[row["response_id"]] for row in levels], dtype=np.int64)
        self.responses = [index[name] for name in names]  # rows of the snapshot to score
        self.history: list[tuple[int, float, float | None]] = []  # step, NLL, accuracy
        self.best: dict[str, torch.Tensor] = {}

    @property
    def usable(self) -> bool:
        return bool(self.responses)

    @property
    def best_step(self) -> int | None:
        """The step with the least NLL, the first of equals."""
        return min(self.history, key=lambda entry: (entry[1], entry[0]))[0] if self.history else None

    @property
    def done(self) -> bool:
        """Whether the last `patience` looks were all no better than one before them."""
        since = sum(step > self.best_step for step, _, _ in self.history) if self.best_step is not None else 0
        return since >= self.patience

    def look(
        self, step: int, features: torch.Tensor, partition: tuple[int, int]
    ) -> tuple[float, float | None]:
        """Score the watched responses, from `features` in the order of `responses`; keep the weights if best."""
        scored = distributions(self.model, features).numpy()
        nll, accuracy = self._figures(scored, partition)
        self.history.append((step, nll, accuracy))
        if self.best_step == step:
            self.best = {
                # a sharded model's parts stay where they are
                name: (value.detach() if is_sharded(self.model) else value.detach().cpu()).clone()
                for name, value in learned(self.model)
            }
        return nll, accuracy

    def _figures(self, scored: Any, partition: tuple[int, int]) -> tuple[float, float | None]:
        if not len(self.pairs.share):
            cuts = None if self.model.cuts is None else self.model.cuts.tolist()
            p = (
                level_masses(scored[self.labelled], partition)
                if cuts is None
                else cut_masses(scored[self.labelled], cuts)
            )
            hit = p[np.arange(len(self.level)), self.level]
            return float(-np.log(np.maximum(hit, 1e-12)).mean()), float(
                np.mean(p.argmax(axis=1) == self.level)
            )
        a, b = scored[self.pairs.first], scored[self.pairs.second]
        if self.model.kind == "ordinal":
            preferred = ordinal_p_preferred(a, b)
        else:
            tie = None if self.model.tie is None else self.model.tie.item()
            preferred = scalar_p_preferred(a - b, tie=tie)
        decisive = self.pairs.vote != 0.5
        guess = np.sign(preferred - 0.5)[self.pairs.pair_of[decisive]]
        right = 0.5 + 0.5 * guess * (2 * self.pairs.vote[decisive] - 1)
        nll = float(cross_entropy(preferred, self.pairs.share).mean())
        return nll, float(right.mean()) if len(right) else None

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back."""
        for name, value in learned(self.model):
            if name in self.best:
                value.copy_(self.best[name])

    # --- In the checkpoint ---

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors for the checkpoint: the history, NaN where there is no accuracy, and the best weights."""
        rows = [(step, nll, float("nan") if right is None else right) for step, nll, right in self.history]
        history = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
        return {"watch.history": history, **{f"watch.best.{name}": one for name, one in self.best.items()}}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """What state() gave."""
        self.history = [
            (int(step), nll, None if right != right else right)
            for step, nll, right in state["watch.history"].tolist()
        ]
        prefix = "watch.best."
        saved = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
        self.best = {name: laid_out(saved[name], one) for name, one in learned(self.model) if name in saved}

    def report(self, stopped_at: int | None) -> dict[str, Any]:
        """The figures of metrics.json; stopped_at is None where all planned steps were done."""
        return {
            "patience": self.patience,
            "best_step": self.best_step,
            "stopped_at": stopped_at,
            "history": [{"step": step, "nll": nll, "accuracy": right} for step, nll, right in self.history],
            "pairs": len(self.pairs.share),
            "levels": len(self.level),
        }


def looks(steps: int) -> set[int]:
    """After which of an epoch's steps to look: evenly, PER_EPOCH times, the last of them at its end."""
    return {round(steps * (number + 1) / PER_EPOCH) for number in range(PER_EPOCH)} - {0}


def not_watched(patience: int, note: str) -> dict[str, Any]:
    """The same where early stopping was asked for, but there is nothing to watch."""
    return {"patience": patience, "best_step": None, "stopped_at": None, "history": [], "note": note}
