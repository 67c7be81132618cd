"""Storing what a model version predicts."""

import bisect
import math
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from webapp.corpus.models import Response
from webapp.jobs import JobFailed
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import RATINGS
from webapp.training.models import ModelVersion

BATCH = 1000


class BadPredictions(JobFailed):
    """predictions.parquet holds something that no model of ours writes. The message names the row."""


def percentiles(scores: Sequence[float]) -> list[float]:
    """Of each score, the share (0..100) of the others that are lower; equal ones count half. One alone gets 50."""
    ordered = sorted(scores)
    others = max(1, len(ordered) - 1)
    result = []
    for score in scores:
        lower = bisect.bisect_left(ordered, score)
        equal = bisect.bisect_right(ordered, score) - lower - 1
        result.append(50.0 if len(ordered) == 1 else 100 * (lower + equal / 2) / others)
    return result


def _checked(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row, or BadPredictions: finite numbers, p a distribution over nine ratings or null, a known split."""
    name = row.get("response_id")
    for column in ("score", "expected", "spread"):
        value = row.get(column)
        if (value is None and column == "score") or (value is not None and not math.isfinite(value)):
            raise BadPredictions(f"row {number} ({name}): {column} is {value}, not a finite number")
    p = row.get("p")
    if p is not None and not (
        len(p) == RATINGS and all(0 <= share <= 1 for share in p) and abs(sum(p) - 1) < 1e-3
    ):
        raise BadPredictions(f"row {number} ({name}): p is not a distribution over {RATINGS} ratings")
    if row.get("split") not in Prediction.Split.values:
        raise BadPredictions(f"row {number} ({name}): split {row.get('split')!r} is unknown")
    return row


@transaction.atomic
def predictions_store(*, version: ModelVersion, rows: Sequence[dict[str, Any]]) -> int:
    """Store one Prediction per row of predictions.parquet; returns how many. Raises BadPredictions.

    Rows whose response has been deleted since the snapshot are left out.
    """
    checked = [_checked(row, number) for number, row in enumerate(rows)]
    pk_of = dict(Response.objects.of(version.project).values_list("external_id", "pk"))
    known = [row for row in checked if row["response_id"] in pk_of]
    return _create(version, pk_of, known, percentiles([row["score"] for row in known]))


@transaction.atomic
def predictions_add(*, version: ModelVersion, rows: Sequence[dict[str, Any]]) -> int:
    """Store those rows whose response the version has not predicted yet; returns how many. Raises BadPredictions.

    Their percentiles are among the scores of both; those of the older rows stay as they were.
    """
    checked = [_checked(row, number) for number, row in enumerate(rows)]
    before = dict(version.predictions.values_list("response_id", "score"))
    pk_of = dict(Response.objects.of(version.project).values_list("external_id", "pk"))
    new = [row for row in checked if row["response_id"] in pk_of and pk_of[row["response_id"]] not in before]
    scores = [row["score"] for row in new]
    return _create(version, pk_of, new, percentiles([*scores, *before.values()])[: len(new)])


def _create(
    version: ModelVersion,
    pk_of: dict[str, int],
    rows: Sequence[dict[str, Any]],
    percentages: Sequence[float],
) -> int:
    predictions = [
        Prediction(
            version=version,
            response_id=pk_of[row["response_id"]],
            score=row["score"],
            expected=row["expected"],
            spread=row["spread"],
            p=row["p"],
            percentile=percentile,
            split=row["split"],
            truncated=bool(row["truncated"]),
        )
        for row, percentile in zip(rows, percentages, strict=True)
    ]
    Prediction.objects.bulk_create(predictions, batch_size=BATCH)
    return len(predictions)
