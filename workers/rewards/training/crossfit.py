"""Predictions of trained responses by heads that have not seen their labels.

The training groups are dealt to folds, and a head is trained without each, on the cached features, by the steps, seed
and rates of the final model.  What people judged is then always compared with a prediction that could have been wrong.
Nothing is kept between attempts: the folds of a resumed run are trained again, and are the same.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..data.judgements import TrainingData
from ..data.split import deal_folds
from ..evaluation.metrics import evaluate_run
from ..models.predict import distributions, predictions
from ..models.reward_model import RewardModel
from ..scale import UNKNOWN
from .batches import Step
from .checkpoint import Position
from .optimiser import make_optimizer, schedule
from .prepare import Run, make_trainable
from .reliability import Reliability
from .step import StepLoss

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """The labels without those that touch a fold's responses.

    judged: what people said.  data: that and hardening's terms.  steps: the final model's, less what was left out.
    """

    judged: TrainingData
    data: TrainingData
    steps: list[Step]


def cross_fit(run: Run, position: Position, predicted: list[Row]) -> dict[str, Any] | None:
    """Puts out-of-fold predictions in the place of the trained responses' rows; the "crossfit" object of metrics.json.

    `predicted` are the final model's.  Its calibration is applied to every fold, and as rewards have no zero of their
    own, a fold's scalars are moved to the final model's mean over all responses.  None if it was not asked for.
    Raises Stopped.
    """
    config, labels, model = run.config, run.labels, run.model
    if not config.crossfit:
        return None
    assert run.features is not None
    started = time.monotonic()
    responses, rows = labels.snapshot.responses, run.texts.rows[: run.texts.count]
    features = run.features[: len(responses)]
    folds = deal_folds(labels.learned, labels.split, config.split_salt or str(config.seed), config.crossfit)
    known = known_to(run)
    steps = steps_to_keep(run, position)
    final = distributions(model, features)
    say = run.tick("cross-fitting")

    def tick(before: int, total: int, step: int) -> None:
        say(before + step, total)

    done: set[int] = set()
    for fold in range(folds.count):
        left_out = {number for number, row in enumerate(responses) if folds.fold(row) == fold}
        part = without(run.loss.data, labels.data, run.steps, left_out, run.texts.count)
        if not any(step.judgements or step.levels for step in part.steps):
            continue
        assert part.data.trained_on.isdisjoint(left_out), "a fold's head would see its labels"
        head = train_head(run, part, steps, partial(tick, fold * steps, folds.count * steps))
        head.calibration = model.calibration
        scored = distributions(head, features)
        if head.kind == "scalar":
            scored = scored + (final.mean() - scored.mean())
        told = predictions(responses, rows, scored)
        for number in sorted(left_out & known):
            predicted[number] = {**told[number], "split": "crossfit"}
        done |= left_out & known
    return {
        "folds": folds.count,
        "unit": folds.unit,
        "note": folds.note,
        "responses": len(done),
        "seconds": round(time.monotonic() - started, 3),
        **measure_out_of_fold(run, done, predicted),
    }


def known_to(run: Run) -> set[int]:
    """The responses whose labels the final model has seen; what chose the weights counts as seen."""
    return run.labels.data.trained_on | set(run.watch.responses if run.watch else ())


def steps_to_keep(run: Run, position: Position) -> int:
    """How many steps the final model's weights have had: up to the best where early stopping watched."""
    best = run.watch.best_step if run.watch else None
    return position.step if best is None else best


def without(
    data: TrainingData, judged: TrainingData, steps: Sequence[Step], left_out: set[int], count: int
) -> Part:
    """The labels and steps of a training that knows nothing of these responses, nor of hardening's copies of them.

    `data` begins with the rows of `judged`; responses from `count` on are copies, each `second` of a term whose `first`
    it was made from.
    """
    out = torch.zeros(len(data.level), dtype=torch.bool)  # [N]
    out[sorted(left_out)] = True
    copied = data.second >= count
    out[data.second[copied]] = out[data.first[copied]]
    rows, levels = ~(out[data.first] | out[data.second]), ~out[data.level_response]  # [P], [L]
    people = rows[: len(judged.first)]
    gone, kept_row, kept_level = out.tolist(), rows.tolist(), levels.tolist()
    new_row, new_level = ((torch.cumsum(kept, 0) - 1).tolist() for kept in (rows, levels))
    return Part(
        _some(judged, people, ~out[judged.level_response], out[: len(judged.level)]),
        _some(data, rows, levels, out),
        [
            Step(
                [response for response in step.responses if not gone[response]],
                [new_row[row] for row in step.judgements if kept_row[row]],
                [new_level[row] for row in step.levels if kept_level[row]],
            )
            for step in steps
        ],
    )


def _some(data: TrainingData, rows: torch.Tensor, levels: torch.Tensor, out: torch.Tensor) -> TrainingData:
    """The judgements [P] and levels [L] that are True; responses [N] that are out have no level."""
    first, second, level_response = data.first[rows], data.second[rows], data.level_response[levels]
    return dataclasses.replace(
        data,
        first=first,
        second=second,
        outcome=data.outcome[rows],
        strength=data.strength[rows],
        level=data.level.where(~out, UNKNOWN),
        level_response=level_response,
        level_value=data.level_value[levels],
        annotator=data.annotator[rows],
        first_left=data.first_left[rows],
        weight=data.weight[rows],
        trained_on={*first.tolist(), *second.tolist(), *level_response.tolist()},
    )


def train_head(run: Run, part: Part, steps: int, tick: Callable[[int], None]) -> RewardModel:
    """A new head, trained on the features by a part's steps as loop.py trains the final one."""
    config = run.config
    model = new_head(run, part.data)
    several = run.reliability is not None and len(part.judged.first) > 0
    reliability = Reliability(part.judged, sides_only=config.ordinal) if several else None
    loss_of = StepLoss(model, config, part.data, run.texts.rows, run.features, run.encoder, reliability)
    optimizer = make_optimizer(model, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for number, step in enumerate(part.steps[:steps]):
        if step.judgements or step.levels:
            rate = schedule(number, len(part.steps), config.warmup)
            for group, base in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base * rate
            torch.manual_seed(config.seed * 1_000_003 + number)
            loss = loss_of(step)
            if not torch.isfinite(loss):
                raise RuntimeError(
                    f"the loss of a fold is {loss.item()} at step {number}; lower the learning rate"
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tick(number + 1)
    return model


def new_head(run: Run, data: TrainingData) -> RewardModel:
    """The final model as it began, on the same backbone."""
    config = run.config
    torch.manual_seed(config.seed)
    model = RewardModel(
        run.model.backbone,
        backbone_kind=run.model.backbone_kind,
        kind=config.kind,
        head_hidden=config.head_hidden,
    )
    make_trainable(model, config, data)
    return model.to(run.team.device)


def measure_out_of_fold(run: Run, done: set[int], predicted: list[Row]) -> dict[str, Any]:
    """Accuracies over the labels that the final model was trained on, predicted by heads that were not."""
    config, split, learned, calibration = (
        run.config,
        run.labels.split,
        run.labels.learned,
        run.model.calibration,
    )
    told = {row["response_id"]: row for number, row in enumerate(predicted) if number in done}
    judgements = [row for row in learned.judgements if {row["response_a"], row["response_b"]} <= told.keys()]
    levels = [row for row in learned.levels if row["response_id"] in told]
    if not judgements and not levels:
        return {"pairs": None, "levels": None}
    found = evaluate_run(
        responses=[
            {**row, "group": split.joined.get(row["group"], row["group"])}
            for row in learned.responses
            if row["response_id"] in told
        ],
        judgements=judgements,
        levels=levels,
        scores={name: row["score"] for name, row in told.items()},
        probs={name: row["p"] for name, row in told.items()} if config.ordinal else None,
        kind=config.kind,
        tie=calibration.tie(None if run.model.tie is None else run.model.tie.item()),
        temperature=calibration.temperature,
        partition=config.partition,
        seed=config.seed,
    )
    names = ("n", "groups", "accuracy", "length_baseline", "model_ties", "nll", "brier")
    pairs = found["pairs"]
    return {"pairs": pairs and {name: pairs[name] for name in names}, "levels": found["levels"]}
