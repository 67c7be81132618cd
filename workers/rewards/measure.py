"""Measure a saved model on rows that came after it: `python -m workers.rewards.measure MODEL_DIR SNAPSHOT_DIR DIR`.

DIR/ask.json: {"unit", "held_out", "learnt"}: the names that a newer training held out, and the ids of the responses
whose labels this model has seen. Writes DIR/progress.jsonl, DIR/predictions.parquet (the labelled responses that were
measured) and DIR/metrics.json. Exit status 0 measured, 2 refused, 143 stopped. Nothing of the model changes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .artifacts.save import ArtifactError, load_model
from .config import Refused
from .data.snapshot import Snapshot, read_snapshot
from .data.split import held_out_rows, split_again
from .evaluation.metrics import evaluate_run
from .files import write_text
from .generative.saved import is_judge, load_judge
from .models.embeddings import embed
from .models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from .models.predict import distributions, predictions, write_predictions
from .text.readable import readable, reads_alike, same_texts
from .training.progress import Progress, Stop, Stopped

STOPPED_EXIT = 143


def measure_again(model_dir: Path, snapshot_dir: Path, folder: Path, stop: Stop) -> dict[str, Any]:
    """metrics.json's object: `held_out` as after a training, with the calibration that the model serves with.

    `responses`: how many were scored; `left_out`: held-out units of which the model has seen labels.
    Raises ArtifactError, Refused and Stopped.
    """
    ask = json.loads((folder / "ask.json").read_text(encoding="utf-8"))
    progress = Progress(folder / "progress.jsonl")
    progress.say("loading")
    snapshot = read_snapshot(snapshot_dir)
    split, left_out = split_again(snapshot, ask["unit"], ask["held_out"], set(ask["learnt"]))
    measured = labelled(held_out_rows(snapshot, split))
    metrics: dict[str, Any] = {"format": 1, "held_out": None, "responses": 0, "left_out": left_out}
    predicted: list[dict[str, Any]] = []
    if measured.responses:

        def said(done: int, total: int) -> None:
            stop.check()
            progress.say("scoring", done, total)

        together = None
        if is_judge(model_dir):
            judge, config = load_judge(model_dir, stop)
            _, votes = judge.voted(measured, say=said)
            predicted, together = votes.predictions(measured.responses), votes.together()
            alike = same_texts(measured)
        else:
            model, template, config = load_model(model_dir)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            model.to(device)
            rows = template.encode(measured.responses)
            longest = template.max_length
            encoder = ResponseEncoder(model, device, MICRO_BATCH_TOKENS[device.type], longest=longest)
            values = distributions(model, embed(encoder, rows, said))
            predicted = predictions(measured.responses, rows, values)
            alike = reads_alike(measured, rows)
        for row in predicted:
            row["split"] = "held_out"
        found = evaluate_run(
            responses=measured.responses,
            judgements=readable(measured, alike).judgements,
            levels=measured.levels,
            scores={row["response_id"]: row["score"] for row in predicted},
            probs={row["response_id"]: row["p"] for row in predicted}
            if config["kind"] == "ordinal"
            else None,
            kind=config["kind"],
            partition=tuple(config["partition"]),
            tie=config.get("tie"),
            temperature=config["temperature"],
            seed=0,
            together=together,
        )
        metrics |= {"held_out": found, "responses": len(predicted), "model_digest": config["digest"]}
    write_predictions(folder / "predictions.parquet", predicted)
    write_text(folder / "metrics.json", json.dumps(metrics, allow_nan=False))
    progress.close()
    return metrics


def labelled(snapshot: Snapshot) -> Snapshot:
    """The snapshot with the responses alone that somebody compared or levelled."""
    names = {row[side] for row in snapshot.judgements for side in ("response_a", "response_b")}
    names |= {row["response_id"] for row in snapshot.levels}
    responses = [row for row in snapshot.responses if row["response_id"] in names]
    return Snapshot(responses, snapshot.judgements, snapshot.levels)


def main(arguments: Sequence[str]) -> int:
    """The command; see the module's docstring for files and exit status."""
    if len(arguments) != 3:
        print("usage: python -m workers.rewards.measure MODEL_DIR SNAPSHOT_DIR DIR", file=sys.stderr)
        return 2
    model, snapshot, folder = (Path(each) for each in arguments)
    try:
        measure_again(model, snapshot, folder, Stop.listening())
    except (ArtifactError, Refused) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except Stopped:
        return STOPPED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
