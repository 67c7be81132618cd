"""What a trained model leaves in its run folder: model/ with its calibration, predictions.parquet, metrics.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..artifacts.save import save_model
from ..config import RunConfig
from ..data.judgements import TrainingData, assert_apart
from ..data.snapshot import Snapshot
from ..data.split import Split, held_out_rows
from ..evaluation.calibrate import calibrate
from ..evaluation.robustness import measure, model_scorer
from ..files import write_text
from ..models.base_models import public_name
from ..models.embeddings import embed
from ..models.encode import ResponseEncoder
from ..models.predict import distributions, predictions, write_predictions
from ..models.reward_model import RewardModel
from ..text.sections import Encoded, Template
from .step import given


@dataclass(frozen=True)
class Trained:
    """A run after its last step.  `data`: what people judged, without hardening's copies."""

    run_dir: Path
    config: RunConfig  # resolved
    base_revision: str | None  # the hub's commit that was loaded
    snapshot: Snapshot
    readable: Snapshot  # without the judgements of pairs that read alike
    reading: dict[str, Any]  # what could not be read (readable.py)
    split: Split
    data: TrainingData
    watched: frozenset[int]  # responses that were not trained on, but chose the weights
    model: RewardModel
    template: Template
    rows: list[Encoded]  # of the snapshot's responses
    encoder: ResponseEncoder
    features: torch.Tensor | None  # [N, H] of a frozen encoder

    def splits(self) -> list[str]:
        """train, held_out or unlabelled, for each response.  [N]"""
        labelled = {
            response
            for row in self.snapshot.judgements
            for response in (row["response_a"], row["response_b"])
        } | {row["response_id"] for row in self.snapshot.levels}
        known = self.data.trained_on | self.watched
        return [
            "train"
            if number in known
            else "held_out"
            if self.split.is_held_out(row) and row["response_id"] in labelled
            else "unlabelled"
            for number, row in enumerate(self.snapshot.responses)
        ]


def finish(
    run: Trained,
    *,
    training: dict[str, Any],
    annotators: dict[str, Any],
    early_stopping: dict[str, Any] | None,
    say: Callable[..., None],
    tick: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Calibrate, save, predict and measure; returns what metrics.json then holds, the last file to be written.

    `training`, `annotators` and `early_stopping` are entries that the training loop knows; `tick` may raise, to stop.
    """
    config, snapshot, model = run.config, run.snapshot, run.model

    # Calibrate on the held-out groups, with the weights as they will be saved (adapters merged)
    model.merge_lora()
    features = run.features
    if features is None:
        features = embed(run.encoder, run.rows, lambda done, total: tick("scoring", done, total))
    say("evaluating")
    measured = held_out_rows(run.readable, run.split)
    assert_apart(snapshot, run.data, measured)
    raw = predictions(snapshot.responses, run.rows, distributions(model, features))
    model.calibration, held_out_metrics = calibrate(
        responses=measured.responses,
        judgements=measured.judgements,
        levels=measured.levels,
        scores={row["response_id"]: row["score"] for row in raw},
        probs={row["response_id"]: row["p"] for row in raw} if config.ordinal else None,
        kind=config.kind,
        tie=None if model.tie is None else model.tie.item(),
        partition=config.partition,
        seed=config.seed,
    )

    # Save, and predict as the saved model does
    say("saving")
    artifact = save_model(
        run.run_dir / "model",
        model,
        run.template,
        method=config.method,
        partition=config.partition,
        base_model=config.base_model,
        base_revision=run.base_revision,
    )
    predicted = predictions(snapshot.responses, run.rows, distributions(model, features))
    for row, side in zip(predicted, run.splits(), strict=True):
        row["split"] = side

    # What moves a score that should not
    say("evaluating")
    on_trained = not measured.responses
    robustness = measure(
        model_scorer(
            model,
            run.template,
            run.encoder.device,
            given(config.micro_batch_tokens),
            cached=run.features is not None,
            tick=lambda done, total: tick("evaluating", done, total),
        ),
        responses=snapshot.responses if on_trained else measured.responses,
        judgements=run.readable.judgements if on_trained else measured.judgements,
        scores={row["response_id"]: row["score"] for row in predicted},
        kind=config.kind,
        partition=config.partition,
        tie=artifact["tie"],
        temperature=artifact["temperature"],
        seed=config.seed,
        hardening=config.hardening,
    )
    metrics = {
        "format": 1,
        "kind": config.kind,
        "method": config.method,
        "held_out": held_out_metrics,
        "robustness": {"on": "all" if on_trained else "held_out", **robustness},
        "split": {
            "unit": run.split.unit,
            "held_out": sorted(run.split.held_out),
            "note": run.split.note,
        },
        "reading": run.reading,
        "training": training,
        **annotators,
        "config": {**config.to_json(), "base_model": public_name(config.base_model)},
        "early_stopping": early_stopping,
        "model_digest": artifact["digest"],
    }
    write_predictions(run.run_dir / "predictions.parquet", predicted)
    write_text(run.run_dir / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    return metrics
