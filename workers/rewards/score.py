"""Score responses with a saved model: `python -m workers.rewards.score MODEL_DIR RESPONSES [--out FILE]`.

RESPONSES is Parquet or JSONL (UTF-8; either may be gzipped) with `text`, and optionally `response_id`, `messages` and
`tools`.  Scores go to --out (.parquet or .jsonl), else as JSON lines to standard output.  A row that can't be read as
it stands is refused by its line, the others are scored.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .artifacts import ArtifactError, load_model
from .backbones import RewardModel
from .data.responses import UNKNOWN_SHARE, BadInput, read_responses
from .embeddings import embed
from .encoding import MICRO_BATCH_TOKENS, ResponseEncoder
from .files import fsync
from .scale import expected_rating, rating_spread
from .text.sections import Encoded, Template

PREDICTION_SCHEMA = pa.schema(
    [
        ("response_id", pa.string()),
        ("score", pa.float64()),
        ("expected", pa.float64()),
        ("spread", pa.float64()),
        ("p", pa.list_(pa.float64())),
        ("split", pa.string()),
        ("truncated", pa.bool_()),
    ]
)


@torch.no_grad()
def distributions(model: RewardModel, features: torch.Tensor) -> torch.Tensor:
    """Rewards [N] (scalar) or calibrated rating distributions [N, 9] (ordinal) in float64, from features [N, H]."""
    model.eval()
    scores = model.score(features).double().cpu()
    if model.kind == "scalar":
        return scores  # temperature and tie belong to differences of rewards, not to a reward
    return torch.from_numpy(model.calibration.ratings(torch.softmax(scores, dim=1).numpy()))


def predictions(
    responses: Sequence[dict[str, Any]], rows: Sequence[Encoded], scored: torch.Tensor
) -> list[dict[str, Any]]:
    """One row per response: score for ranking (r or E[s]), and for ordinal models E[s], its spread and p(1..9)."""
    ordinal = scored.ndim == 2
    expected = expected_rating(scored) if ordinal else None
    spread = rating_spread(scored) if ordinal else None
    return [
        {
            "response_id": response["response_id"],
            "score": float(scored[number]) if expected is None else float(expected[number]),
            "expected": None if expected is None else float(expected[number]),
            "spread": None if spread is None else float(spread[number]),
            "p": scored[number].tolist() if ordinal else None,
            "split": "unlabelled",
            "truncated": row.truncated,
        }
        for number, (response, row) in enumerate(zip(responses, rows, strict=True))
    ]


def score_responses(
    model: RewardModel,
    template: Template,
    responses: Sequence[dict[str, Any]],
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Predictions for rows with response_id, messages (list) and text; the model's weights stay as they are."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return score_encoded(model, template, responses, template.encode(responses), device)


def score_encoded(
    model: RewardModel,
    template: Template,
    responses: Sequence[dict[str, Any]],
    rows: Sequence[Encoded],
    device: torch.device,
) -> list[dict[str, Any]]:
    """score_responses after the tokenizer."""
    encoder = ResponseEncoder(
        model.to(device), device, MICRO_BATCH_TOKENS[device.type], longest=template.max_length
    )
    features = embed(encoder, rows, lambda done, total: None)
    return predictions(responses, rows, distributions(model, features))


def write_predictions(path: Path, rows: list[dict[str, Any]]) -> None:
    """predictions.parquet, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, PREDICTION_SCHEMA), beside)
    fsync(beside)
    beside.replace(path)


def main(arguments: Sequence[str]) -> int:
    """The command; exit status 0 scored, 1 scored but for the rows that were refused, 2 nothing could be scored.

    Every refusal is a line on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.score", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("responses", type=Path, metavar="RESPONSES")
    parser.add_argument("--out", type=Path, help="a .parquet or .jsonl file; standard output if not given")
    options = parser.parse_args(arguments)
    try:
        responses, refused = read_responses(options.responses)
        model, template, _ = load_model(options.model)
    except (ArtifactError, BadInput) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    for refusal in refused:
        print(f"refused: {refusal}", file=sys.stderr)
    if not responses:
        print(f"refused: {options.responses}: no row of it can be scored", file=sys.stderr)
        return 2
    encoded = template.encode(responses)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = score_encoded(model, template, responses, encoded, device)
    unknown = sum(row.unknown for row in encoded) / max(1, sum(len(row) for row in encoded))
    if unknown >= UNKNOWN_SHARE:
        print(
            f"note: {unknown:.1%} of the tokens are characters that the model does not know", file=sys.stderr
        )
    if options.out is not None and options.out.suffix == ".parquet":
        write_predictions(options.out, rows)
    else:
        lines = "".join(json.dumps({k: v for k, v in row.items() if k != "split"}) + "\n" for row in rows)
        if options.out is not None:
            options.out.write_text(lines, encoding="utf-8")
        else:
            sys.stdout.write(lines)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
