"""Predictions of trained responses by models that have not seen their labels.

The training groups are dealt to folds, and a model is trained without each, with the seed, rates and share of steps of
the final one: a new head on the cached features where the base model is frozen, else all that learns, anew from the
base model's weights. So what people judged is always compared with a prediction that could have been wrong.
Each fold's scores are kept beside the checkpoint as they come; a resumed run trains the other folds.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..config import CODE_VERSION
from ..data.judgements import TrainingData
from ..data.snapshot import of_people
from ..data.split import deal_folds
from ..evaluation.metrics import evaluate_run
from ..files import save_tensors
from ..models.distributed import Group
from ..models.embeddings import embed
from ..models.predict import calibrated, predictions, raw_scores
from ..models.reward_model import RewardModel
from ..scale import UNKNOWN
from .checkpoint import Position
from .hardening import Copy
from .optimiser import make_optimizer
from .prepare import Plan, Run, backbone_of, encoder_of, steps_of, untrained
from .reliability import Reliability
from .step import StepLoss
from .update import Update

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """The labels without those that touch a fold's responses.

    judged: what people said. data: that and the rows of hardening's copies.
    """

    judged: TrainingData
    data: TrainingData


def cross_fit(
    run: Run, position: Position, final: torch.Tensor, predicted: list[Row]
) -> dict[str, Any] | None:
    """Puts out-of-fold predictions in the place of the trained responses' rows; the "crossfit" object of metrics.json.

    `predicted` are the final model's, `final` what they are made of, [N] or [N, 9]. Its calibration is applied to every
    fold. None if it was not asked for. Raises Stopped.
    """
    config, labels = run.config, run.labels
    if not config.crossfit:
        return None
    started = time.monotonic()
    responses, rows = labels.snapshot.responses, run.texts.rows[: run.texts.count]
    folds = deal_folds(labels.learned, labels.split, config.split_salt or str(config.seed), config.crossfit)
    known = known_to(run)
    # embeddings are at hand; else no more texts are encoded five times than need be
    scored = sorted(known) if run.features is None else list(range(len(responses)))
    share = share_to_keep(run, position)
    say = run.on_progress("cross-fitting")
    if run.features is None:
        _let_go(run)

    def said(fold: int, step: int, steps: int) -> None:
        say(fold * steps + step, folds.count * steps)

    done: set[int] = set()
    for fold in range(folds.count):
        left_out = {number for number, row in enumerate(responses) if folds.fold(row) == fold}
        part = without(run.loss.data, labels.data, left_out, run.plan.copies)
        if not part.judged.trained_on:
            continue
        assert part.data.trained_on.isdisjoint(left_out), "a fold's model would see its labels"
        raw = _kept(run, fold, share, scored)
        if raw is None:
            model = train_fold(run, part, share, partial(said, fold))
            raw = fold_scores(run, model, scored, final)
            del model
            _keep(run, fold, share, scored, raw)
        said(fold, 1, 1)
        values = calibrated(raw, run.model.calibration)
        told = predictions([responses[row] for row in scored], [rows[row] for row in scored], values)
        for row, number in zip(told, scored, strict=True):
            if number in left_out & known:
                predicted[number] = {**row, "split": "crossfit"}
        done |= left_out & known
    return {
        "folds": folds.count,
        "unit": folds.unit,
        "note": folds.note,
        "responses": len(done),
        "seconds": round(time.monotonic() - started, 3),
        **measure_out_of_fold(run, done, predicted),
    }


def _let_go(run: Run) -> None:
    """The final model is saved and measured: its moments and gradients make room for a fold's, its weights on a GPU."""
    run.optimizer.state.clear()
    run.optimizer.zero_grad(set_to_none=True)
    run.model.to("cpu")
    _free()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fold_scores(run: Run, model: RewardModel, scored: list[int], final: torch.Tensor) -> torch.Tensor:
    """A fold's scores of these responses before calibration. [S] or [S, 9]

    As rewards have no zero of their own, scalars are moved: the middle of the cut points to the final model's, or
    without levels their mean to that of `final`, the final model's.
    """
    if run.features is not None:
        return _moved(run.model, model, raw_scores(model, run.features[scored]), final[scored])
    encoder = encoder_of(model, run.texts.template, run.config, Group(device=run.team.device), run.memory)
    features = embed(encoder, [run.texts.rows[row] for row in scored], lambda done, total: run.stop.check())
    found = _moved(run.model, model, raw_scores(model, features), final[scored])
    del model, encoder, features
    _free()
    return found


def _moved(whole: RewardModel, fold: RewardModel, scores: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """[S] -> [S]; ratings [S, 9] stay where they are."""
    if fold.kind == "ordinal":
        return scores
    if whole.cuts is None or fold.cuts is None:
        return scores + (final.mean() - scores.mean())
    return scores + (whole.cuts.mean().item() - fold.cuts.mean().item())


def _header(run: Run, fold: int, share: float, scored: list[int]) -> str:
    """What a fold's scores depend on."""
    config = {key: value for key, value in run.config.to_json().items() if key != "checkpoint_seconds"}
    return json.dumps(
        {"code": CODE_VERSION, "fold": fold, "share": share, "scored": len(scored), "config": config}
    )


def _keep(run: Run, fold: int, share: float, scored: list[int], raw: torch.Tensor) -> None:
    path = run.run_dir / "checkpoint" / f"fold-{fold}.safetensors"
    save_tensors(path, {"scores": raw}, {"caliper": _header(run, fold, share, scored)})


def _kept(run: Run, fold: int, share: float, scored: list[int]) -> torch.Tensor | None:
    """The scores that an earlier attempt kept of a fold; None where there are none, or of another training."""
    path = run.run_dir / "checkpoint" / f"fold-{fold}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            same = file.metadata()["caliper"] == _header(run, fold, share, scored)
            return file.get_tensor("scores") if same else None
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


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


def train_fold(run: Run, part: Part, share: float, progress: Callable[[int, int], None]) -> RewardModel:
    """A new model, trained on a part's labels as loop.py trains the final one, for a share of its steps."""
    config, rows, team = run.config, run.texts.rows, Group(device=run.team.device)
    frozen = run.features is not None
    backbone = run.model.backbone if frozen else backbone_of(config, run.base, team.device)
    model = untrained(backbone, run.texts.template.digit_ids, config, part.data, team.device, run.start)
    encoder = run.encoder if frozen else encoder_of(model, run.texts.template, config, team, run.memory)
    several = run.reliability is not None and len(part.judged.first) > 0
    reliability = Reliability(part.judged, sides_only=config.ordinal) if several else None
    loss_of = StepLoss(model, config, part.data, rows, run.features, encoder, reliability)
    loss_of.reference = run.loss.reference  # of the starting weights, which are the same
    plan = Plan(steps_of(part.judged, run.texts.lengths, config), config.seed, part.data, run.plan.copies)
    update = Update(model, loss_of, make_optimizer(model, config), config, team)
    model.train()
    number = 0
    for epoch in range(config.epochs):
        steps = plan.epoch(epoch)
        total = len(steps) * config.epochs
        stop_at = max(1, round(share * total))
        for within in range(len(steps)):
            if (at := len(steps) * epoch + within) >= stop_at:
                break
            update(steps, epoch, within, number)
            number += 1
            progress(at + 1, stop_at)
    return model


def measure_out_of_fold(run: Run, done: set[int], predicted: list[Row]) -> dict[str, Any]:
    """Accuracies over the labels that the final model was trained on, predicted by heads that were not."""
    config, split, learned, calibration = (
        run.config,
        run.labels.split,
        run.labels.learned,
        run.model.calibration,
    )
    told = {row["response_id"]: row for number, row in enumerate(predicted) if number in done}
    judgements = [
        row for row in of_people(learned.judgements) if {row["response_a"], row["response_b"]} <= told.keys()
    ]
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
