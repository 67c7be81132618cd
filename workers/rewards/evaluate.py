"""Measure a saved model on a snapshot: `python -m workers.rewards.evaluate MODEL_DIR SNAPSHOT_DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .artifacts.save import ArtifactError, load_model
from .config import Refused
from .data.snapshot import Snapshot, of_people, read_snapshot
from .data.split import Split
from .evaluation.metrics import evaluate_run
from .evaluation.robustness import measure, model_scorer
from .generative.saved import is_judge, load_judge
from .models.embeddings import embed
from .models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from .models.predict import distributions, predictions
from .text.readable import readable, reads_alike, report, same_texts


def evaluate_saved(
    model_dir: Path, snapshot_dir: Path, groups: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Metrics and robustness of a saved model on a snapshot's labels, or on those of some groups.

    Nothing here knows what the model was trained on: name the groups that it was not. Raises ArtifactError, Refused.
    """
    snapshot = read_snapshot(snapshot_dir)
    snapshot = replace(snapshot, judgements=list(of_people(snapshot.judgements)))
    if groups:
        unknown = set(groups) - {row["group"] for row in snapshot.responses}
        if unknown:
            raise Refused(f"no response of {snapshot_dir} has the group {sorted(unknown)[0]!r}")
        responses = [row for row in snapshot.responses if row["group"] in groups]
        inside = {row["response_id"] for row in responses}
        snapshot = Snapshot(
            responses,
            [row for row in snapshot.judgements if {row["response_a"], row["response_b"]} <= inside],
            [row for row in snapshot.levels if row["response_id"] in inside],
        )
    if is_judge(model_dir):
        return _evaluate_judge(model_dir, snapshot, groups, seed)
    model, template, config = load_model(model_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    rows = template.encode(snapshot.responses)
    encoder = ResponseEncoder(model, device, MICRO_BATCH_TOKENS[device.type], longest=template.max_length)
    features = embed(encoder, rows, lambda done, total: None)
    predicted = predictions(snapshot.responses, rows, distributions(model, features))
    scores = {row["response_id"]: row["score"] for row in predicted}
    alike = reads_alike(snapshot, rows)
    everything = Split(frozenset(row["group"] for row in snapshot.responses), "group")
    token = str(template.tokenizer.unk_token or "")
    shared: dict[str, Any] = {
        "responses": snapshot.responses,
        "judgements": readable(snapshot, alike).judgements,
        "scores": scores,
        "kind": config["kind"],
        "partition": tuple(config["partition"]),
        "tie": config.get("tie"),
        "temperature": config["temperature"],
        "seed": seed,
    }
    return {
        "model_digest": config["digest"],
        "groups": sorted(groups) or None,
        "reading": report(snapshot, rows, alike, everything, max_length=template.max_length, token=token),
        "metrics": evaluate_run(
            **shared,
            levels=snapshot.levels,
            probs={row["response_id"]: row["p"] for row in predicted},
            cuts=config.get("level_cuts"),
        ),
        "robustness": measure(model_scorer(model, template, device), **shared),
    }


def _evaluate_judge(model_dir: Path, snapshot: Snapshot, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """The same of a generative model, which votes as often as its run did."""
    judge, config = load_judge(model_dir)
    scored, votes = judge.voted(snapshot)
    predicted = votes.predictions(snapshot.responses)
    scores = {row["response_id"]: row["score"] for row in predicted}
    read = readable(snapshot, same_texts(snapshot))
    return {
        "model_digest": config["digest"],
        "groups": sorted(groups) or None,
        "reading": {"unparsed": sum(one.parsed.scores is None for one in scored), "answers": len(scored)},
        "metrics": evaluate_run(
            responses=snapshot.responses,
            judgements=read.judgements,
            levels=snapshot.levels,
            scores=scores,
            probs={row["response_id"]: row["p"] for row in predicted},
            kind="ordinal",
            tie=None,
            temperature=1.0,
            partition=tuple(config["partition"]),
            seed=seed,
            together=votes.together(),
        ),
        "robustness": judge.robustness(read, scores, len(scored)),
    }


def main(arguments: Sequence[str]) -> int:
    """`python -m workers.rewards.evaluate MODEL_DIR SNAPSHOT_DIR`; exit status 0 measured, 2 unreadable input."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.rewards.evaluate",
        description="Measure a saved model on a snapshot; prints JSON with metrics and robustness.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("snapshot", type=Path, metavar="SNAPSHOT_DIR")
    parser.add_argument(
        "--groups", nargs="+", default=[], help="measure on these groups only, such as the held-out ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="which responses are attacked")
    options = parser.parse_args(arguments)
    try:
        result = evaluate_saved(options.model, options.snapshot, options.groups, options.seed)
    except (ArtifactError, Refused) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
