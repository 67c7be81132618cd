"""Predictions of trained responses by heads that have not seen their labels.

The training groups are dealt to folds, and a head is trained without each, on the cached features, with the seed,
rates and share of steps of the final model. So what people judged is always compared with a prediction that could
have been wrong.
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
from .batches import Draws
from .checkpoint import Position
from .hardening import Copy
from .optimiser import make_optimizer, schedule
from .prepare import Plan, Run, make_trainable
from .reliability import Reliability
from .step import StepLoss

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """The labels without those that touch a fold's responses.

    judged: what people said. data: that and the rows of hardening's copies.
    """

    judged: TrainingData
    data: TrainingData


def cross_fit(run: Run, position: Position, predicted: list[Row]) -> dict[str, Any] | None:
    """Puts out-of-fold predictions in the place of the trained responses' rows; the "crossfit" object of metrics.json.

    `predicted` are the final model's. Its calibration is applied to every fold, and as rewards have no zero of their
    own, a fold's scalars are moved: its cut points to the middle of the final model's, or without levels its mean over
    all responses to the final one's. None if it was not asked for.
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
    share = share_to_keep(run, position)
    final = distributions(model, features)
    say = run.on_progress("cross-fitting")

    def said(fold: int, step: int, steps: int) -> None:
        say(fold * steps + step, folds.count * steps)

    done: set[int] = set()
    for fold in range(folds.count):
        left_out = {number for number, row in enumerate(responses) if folds.fold(row) == fold}
        part = without(run.loss.data, labels.data, left_out, run.plan.copies)
        if not part.judged.trained_on:
            continue
        assert part.data.trained_on.isdisjoint(left_out), "a fold's head would see its labels"
        head = train_head(run, part, share, partial(said, fold))
        head.calibration = model.calibration
        scored = distributions(head, features)
        if head.kind == "scalar":
            middle = [each.cuts for each in (model, head)]
            known_cuts = [cuts.mean().item() for cuts in middle if cuts is not None]
            scored = scored + (
                known_cuts[0] - known_cuts[1] if len(known_cuts) == 2 else final.mean() - scored.mean()
            )
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


def share_to_keep(run: Run, position: Position) -> float:
    """The share of its steps that the final model's weights have had: up to the best where early stopping watched."""
    best = run.watch.best_step if run.watch else None
    return (position.step if best is None else best) / position.total


def without(
    data: TrainingData, judged: TrainingData, left_out: set[int], copies: Sequence[Copy] = ()
) -> Part:
    """The labels of a training that knows nothing of these responses, nor of hardening's copies of them.

    `data` begins with the rows of `judged`; the copies are its last responses.
    """
    out = torch.zeros(len(data.level), dtype=torch.bool)  # [N]
    out[sorted(left_out)] = True
    count = len(data.level) - len(copies)
    out[count:] = out[[copy.of for copy in copies]]
    rows, levels = ~(out[data.first] | out[data.second]), ~out[data.level_response]  # [P], [L]
    people = rows[: len(judged.first)]
    return Part(
        _some(judged, people, ~out[judged.level_response], out[: len(judged.level)]),
        _some(data, rows, levels, out),
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


def train_head(run: Run, part: Part, share: float, progress: Callable[[int, int], None]) -> RewardModel:
    """A new head, trained on a part's labels as loop.py trains the final one, for a share of its steps."""
    config = run.config
    model = new_head(run, part.data)
    several = run.reliability is not None and len(part.judged.first) > 0
    reliability = Reliability(part.judged, sides_only=config.ordinal) if several else None
    loss_of = StepLoss(model, config, part.data, run.texts.rows, run.features, run.encoder, reliability)
    draws = Draws(part.judged.first, part.judged.second, part.judged.level_response)
    plan = Plan(draws, config.seed, part.data, run.plan.copies)
    optimizer = make_optimizer(model, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    total = draws.count * config.epochs
    stop_at = max(1, round(share * total))
    for number in range(stop_at):
        if number % draws.count == 0:
            steps = plan.epoch(number // draws.count)
            mean_weight = sum(map(loss_of.weight, steps)) / len(steps)
        step = steps[number % draws.count]
        rate = schedule(number, total, config.warmup)
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base * rate
        torch.manual_seed(config.seed * 1_000_003 + number)
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss of a fold is {loss.item()} at step {number}; lower the learning rate"
            )
        (loss / mean_weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(number + 1, stop_at)
    return model


def new_head(run: Run, data: TrainingData) -> RewardModel:
    """The final model as it began, on the same backbone."""
    config = run.config
    torch.manual_seed(config.seed)
    model = RewardModel(
        run.model.backbone,
        architecture=run.model.architecture,
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
        cuts=None if run.model.cuts is None else run.model.cuts.tolist(),
    )
    names = ("n", "groups", "accuracy", "length_baseline", "model_ties", "nll", "brier")
    pairs = found["pairs"]
    return {"pairs": pairs and {name: pairs[name] for name in names}, "levels": found["levels"]}
