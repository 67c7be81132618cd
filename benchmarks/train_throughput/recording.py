"""Our trainer with its steps noted and ended when told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.trl_leg import Enough, peak_memory
from workers.rewards.training.progress import Stop


@dataclass
class StepRecord:
    """One optimiser step of our training."""

    end: float  # seconds, monotonic
    judgements: int
    pair_tokens: int  # both texts of every judgement
    distinct_tokens: int  # every response once
    computed_tokens: int  # that went through the network: less with shared prompts, more with padding
    attended: float  # (query, key) positions of the distinct responses, each by itself
    attended_shared: float  # the same with every prompt computed once
    loss: float  # mean of its terms


def record_training(
    run_dir: Path, enough: Callable[[list[StepRecord]], bool]
) -> tuple[list[StepRecord], int]:
    """workers.rewards.train.train itself, noted from its own hooks and ended when `enough`; steps and peak bytes.

    The peak is the process's memory on a CPU, the allocator's on a GPU.
    """
    from workers.rewards.training import loop, prepare

    on_gpu = torch.cuda.is_available()
    records: list[StepRecord] = []
    computed = 0
    peak = 0

    def count(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal computed
        computed += arguments[0].numel()

    class Noted(prepare.StepLoss):
        def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(model, *args, **kwargs)
            model.backbone.get_input_embeddings().register_forward_hook(count)

        def __call__(self, step: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            nonlocal computed
            computed = 0
            loss = super().__call__(step, *args, **kwargs)
            judged = torch.tensor(step.judgements)
            sides = [*self.data.first[judged].tolist(), *self.data.second[judged].tolist()]
            rows = [self.rows[response] for response in step.responses]
            prompts = {row.ids[: row.start] for row in rows}
            own = [(row.start, len(row) - row.start) for row in rows]
            records.append(
                StepRecord(
                    end=0.0,
                    judgements=len(judged),
                    pair_tokens=sum(len(self.rows[response]) for response in sides),
                    distinct_tokens=sum(len(row) for row in rows),
                    computed_tokens=computed,
                    attended=sum(len(row) ** 2 for row in rows) / 2,
                    attended_shared=sum(len(prompt) ** 2 for prompt in prompts) / 2
                    + sum(more * (before + more / 2) for before, more in own),
                    loss=loss.item() / self.weight(step),
                )
            )
            return loss

    class Until(Stop):
        """Asked after every optimiser step, before anything is saved: notes the time, ends the run when due."""

        @property
        def wanted(self) -> bool:
            nonlocal peak
            if records and not records[-1].end:
                if on_gpu:
                    torch.cuda.synchronize()
                records[-1].end = time.monotonic()
                peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
                if enough(records):
                    raise Enough
            return False

    prepare.StepLoss = Noted  # type: ignore[misc]
    try:
        loop.train(run_dir, Until())
    except Enough:
        pass
    return records, peak


def our_leg(path: Path) -> int:
    """In the fresh process: workers.rewards.train on the run folder until the time is over."""
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    run_dir = Path(job["run_dir"])

    def enough(records: list[StepRecord]) -> bool:
        return len(records) > 1 and records[-1].end - records[0].end >= job["seconds"]

    records, peak = record_training(run_dir, enough)
    rows = [[r.end, r.judgements, r.pair_tokens, r.computed_tokens, r.loss] for r in records]
    (run_dir / "leg.json").write_text(json.dumps({"records": rows, "peak_memory": peak}), encoding="utf-8")
    return 0
