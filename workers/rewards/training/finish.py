"""What a trained model leaves in its run folder: model/ with its calibration, predictions.parquet, metrics.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Any

import torch

from ..artifacts.adapters import link_base
from ..artifacts.save import save_model
from ..data.judgements import assert_apart
from ..data.snapshot import Snapshot
from ..data.split import held_out_rows
from ..evaluation.calibrate import calibrate
from ..evaluation.metrics import first_and_last, score_spread
from ..evaluation.robustness import measure, model_scorer
from ..files import write_text
from ..models.base_models import public_name
from ..models.calibration import Calibration
from ..models.embeddings import embed
from ..models.predict import distributions, predictions, write_predictions
from ..scale import UNKNOWN
from .checkpoint import Position
from .crossfit import cross_fit, known_to
from .early_stopping import not_watched
from .prepare import Run


def finish(run: Run, position: Position) -> dict[str, Any]:
    """Calibrate, save, predict and measure; returns what metrics.json then holds, the last file to be written.

    Raises Stopped.
    """
    config, model, labels, say = run.config, run.model, run.labels, run.progress.say
    snapshot, rows = labels.snapshot, run.texts.rows[: run.texts.count]

    # Calibrate on the held-out groups, with the weights as they will be saved (adapters beside their base)
    features = run.features
    features = (
        embed(run.encoder, rows, run.on_progress("scoring")) if features is None else features[: len(rows)]
    )
    say("evaluating")
    measured = held_out_rows(labels.learned, labels.split)
    assert_apart(snapshot, labels.data, measured)
    raw = predictions(snapshot.responses, rows, distributions(model, features))
    model.calibration, held_out_metrics, of_group = calibrate(
        responses=measured.responses,
        judgements=measured.judgements,
        levels=measured.levels,
        scores={row["response_id"]: row["score"] for row in raw},
        probs={row["response_id"]: row["p"] for row in raw} if config.ordinal else None,
        kind=config.kind,
        tie=None if model.tie is None else model.tie.item(),
        partition=config.partition,
        seed=config.seed,
        cuts=None if model.cuts is None else model.cuts.tolist(),
    )

    # Save, and predict as the saved model does
    say("saving")
    artifact = save_model(
        run.run_dir / "model",
        model,
        run.texts.template,
        method=config.method,
        partition=config.partition,
        base_model=config.base_model,
        base_revision=run.base.revision,
        base=run.lies_over,
    )
    final = distributions(model, features)
    predicted = predictions(snapshot.responses, rows, final)
    for row, side in zip(predicted, sides(run), strict=True):
        row["split"] = side

    # Measure what moves a score that should not
    say("evaluating")
    robustness = measure_robustness(run, measured, predicted, artifact)
    if config.ordinal:
        as_measured(run, raw, predicted, of_group)
    crossfit = cross_fit(run, position, final, predicted)
    metrics = {
        "format": 1,
        "kind": config.kind,
        "method": config.method,
        "preset": config.preset,
        "level_cuts": artifact["level_cuts"],
        "held_out": held_out_metrics,
        "crossfit": crossfit,
        "robustness": robustness,
        "spread": score_spread(predicted),
        "split": {
            "unit": labels.split.unit,
            "held_out": sorted(labels.split.held_out),
            "note": labels.split.note,
        },
        "reading": run.texts.reading,
        "memory": memory_figures(run),
        "training": training_figures(run, position),
        **(run.reliability.report() if run.reliability is not None else {"annotators": None, "base": None}),
        "config": {**config.to_json(), "base_model": public_name(config.base_model)},
        "base_revision": run.base.revision,
        "early_stopping": early_stopping(run, position),
        "model_digest": artifact["digest"],
    }
    write_predictions(run.run_dir / "predictions.parquet", predicted)
    write_text(run.run_dir / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
    if run.lies_over is not None:
        link_base(run.run_dir, run.base.source)
    shutil.rmtree(run.run_dir / "checkpoint", ignore_errors=True)
    say("saving", 1, 1, message="done")
    run.progress.close()
    return metrics


def as_measured(
    run: Run, raw: list[dict[str, Any]], predicted: list[dict[str, Any]], of_group: dict[str, Calibration]
) -> None:
    """Gives held-out rows the distribution that they are measured with: by the calibration of the other groups.

    The one that is served was fitted on them too. So what is shown beside people's labels never knew those labels,
    and the metrics can be counted again from predictions.parquet. `raw`: the rows before calibration.
    """
    snapshot, joined = run.labels.snapshot, run.labels.split.joined
    for number, response in enumerate(snapshot.responses):
        own = of_group.get(joined.get(response["group"], response["group"]))
        if own is not None and predicted[number]["split"] == "held_out":
            p = torch.from_numpy(own.ratings([raw[number]["p"]]))
            told = predictions([response], run.texts.rows[number : number + 1], p)[0]
            predicted[number] = {**told, "split": "held_out"}


def sides(run: Run) -> list[str]:
    """train, held_out or unlabelled, for each response; what chose the weights counts as trained on. [N]"""
    snapshot, split = run.labels.snapshot, run.labels.split
    labelled = {row[side] for row in snapshot.judgements for side in ("response_a", "response_b")}
    labelled |= {row["response_id"] for row in snapshot.levels}
    known = known_to(run)
    return [
        "train"
        if number in known
        else "held_out"
        if split.is_held_out(row) and row["response_id"] in labelled
        else "unlabelled"
        for number, row in enumerate(snapshot.responses)
    ]


def measure_robustness(
    run: Run, measured: Snapshot, predicted: list[dict[str, Any]], artifact: dict[str, Any]
) -> dict[str, Any]:
    """The suite on the held-out responses, or on all where none were held out."""
    config, on_trained = run.config, not measured.responses
    on = run.labels.learned if on_trained else measured
    scorer = model_scorer(
        run.model,
        run.texts.template,
        run.team.device,
        config.micro_batch_tokens,
        cached=run.features is not None,
        progress=run.on_progress("evaluating"),
    )
    found = measure(
        scorer,
        responses=on.responses,
        judgements=on.judgements,
        scores={row["response_id"]: row["score"] for row in predicted},
        kind=config.kind,
        partition=config.partition,
        tie=artifact["tie"],
        temperature=artifact["temperature"],
        seed=config.seed,
        hardening=config.hardening,
    )
    return {"on": "all" if on_trained else "held_out", **found}


def training_figures(run: Run, position: Position) -> dict[str, Any]:
    """The "training" object of metrics.json."""
    data, texts = run.labels.data, run.texts
    seconds = max(position.seconds, 1e-9)
    uses = len(data.first) * run.config.epochs * position.step / position.total
    return {
        "judgements": len(data.first),
        "levels": len(data.level_response),
        # Responses whose level drew the region of their pairs, whether it was a term of its own or not.
        "levelled": int((data.level != UNKNOWN).sum()),
        "responses": len(data.trained_on),
        "hardening_copies": len(texts.rows) - texts.count,
        "policy_off": run.config.method == "haf" and not run.loss.with_policy,
        "dropped": dict(data.dropped),
        "truncated": sum(row.truncated for row in texts.rows[: texts.count]),
        "processes": run.team.size,
        "steps": position.total,
        "loss": first_and_last(position.losses) if len(position.losses) == position.step else None,
        "tokens": position.tokens,
        "seconds": round(position.seconds, 3),
        "judgements_per_second": round(uses / seconds, 1),
        "tokens_per_second": round(position.tokens / seconds, 1),
    }


def memory_figures(run: Run) -> dict[str, Any] | None:
    """The "memory" object of metrics.json: a GPU's plan, and the peak that was; None on a CPU."""
    if run.memory is None:
        return None
    gpu = run.team.device.type == "cuda"
    taken = torch.cuda.max_memory_allocated(run.team.device) if gpu else None
    return {**asdict(run.memory), "peak": run.memory.peak, "taken": taken, "words": str(run.memory)}


def early_stopping(run: Run, position: Position) -> dict[str, Any] | None:
    """The "early_stopping" object of metrics.json; None where it wasn't asked for."""
    if not run.config.patience:
        return None
    if run.watch is None:
        return not_watched(run.config.patience, run.watch_note or "")
    return run.watch.report(position.step if position.epoch < run.config.epochs else None)
