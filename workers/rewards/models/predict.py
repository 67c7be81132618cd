"""What a model says of responses: rows of predictions.parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..files import fsync
from ..scale import RATINGS
from ..text.sections import Encoded, Template
from .calibration import Calibration
from .embeddings import embed
from .encode import MICRO_BATCH_TOKENS, ResponseEncoder
from .reward_model import RewardModel

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


def expected_rating(probabilities: torch.Tensor) -> torch.Tensor:
    """E[s] of rating distributions. [..., 9] -> [...]"""
    return (
        probabilities * torch.arange(1, RATINGS + 1, dtype=probabilities.dtype, device=probabilities.device)
    ).sum(-1)


def rating_spread(probabilities: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the rating under each distribution. [..., 9] -> [...]"""
    ratings = torch.arange(1, RATINGS + 1, dtype=probabilities.dtype, device=probabilities.device)
    centre = expected_rating(probabilities)
    return (probabilities * (ratings - centre.unsqueeze(-1)) ** 2).sum(-1).clamp_min(0).sqrt()


@torch.no_grad()
def raw_scores(model: RewardModel, features: torch.Tensor) -> torch.Tensor:
    """What the head says, in float64 on the CPU, before calibration. [N, H] -> [N] (scalar) or [N, 9] (logits)"""
    model.eval()
    return model.score(features).double().cpu()


def calibrated(scores: torch.Tensor, calibration: Calibration) -> torch.Tensor:
    """Rewards [N] as they are (temperature and tie belong to their differences), logits [N, 9] as distributions."""
    if scores.ndim == 1:
        return scores
    return torch.from_numpy(calibration.ratings(torch.softmax(scores, dim=1).numpy()))


def distributions(model: RewardModel, features: torch.Tensor) -> torch.Tensor:
    """Rewards [N] (scalar) or calibrated rating distributions [N, 9] (ordinal) in float64, from features [N, H]."""
    return calibrated(raw_scores(model, features), model.calibration)


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
