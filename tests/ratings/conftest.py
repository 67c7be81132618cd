"""Builders for the pages of ratings: versions with their predictions, votes and levels."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from typing import Any

import pytest
from django.core.cache import caches
from django.db.models import F

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import Judgement, QualityLabel
from webapp.ratings.models import Prediction
from webapp.ratings.services import percentiles
from webapp.snapshots.models import Snapshot
from webapp.training.models import ModelVersion, TrainingRun

METRICS: dict[str, Any] = {
    "held_out": {
        "pairs": {
            "n": 61,
            "groups": 12,
            "accuracy": {"value": 0.781, "low": 0.731, "high": 0.822, "n": 182},
            "model_ties": 0,
            "length_baseline": {"value": 0.612, "low": 0.53, "high": 0.69, "n": 182},
            "near_equal_length": None,
            "human_ties": {"n": 21, "mean_p_tie": 0.14},
            "human_ceiling": None,
            "nll": {"value": 0.561, "floor": 0.402, "n": 61},
            "brier": {"value": 0.192, "floor": 0.131, "n": 61},
            "ece": {"value": 0.047, "n": 61, "bins": [{}] * 10},
        },
        "levels": {"n": 120, "accuracy": 0.63, "quadratic_kappa": 0.58, "rps": 0.14, "coverage": 0.84},
        "auroc_good_bad": {"value": 0.88, "n": 80},
    },
    "training": {"judgements": 400, "levels": 240, "levelled": 120},
}


def peaked(mean: float, spread: float = 1.2) -> list[float]:
    """A distribution over 1..9 about `mean`."""
    weights = [math.exp(-(((rating - mean) / spread) ** 2) / 2) for rating in range(1, 10)]
    return [weight / sum(weights) for weight in weights]


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    """Pages cache by version and by label count, and a test's rows get the keys of the test before."""
    caches["local"].clear()


@pytest.fixture
def make_version(db: None) -> Callable[..., ModelVersion]:
    """make_version(project, {response: 4.2, ...}, method="oprm") makes a serving version with these ratings.

    For a scalar method the numbers are scores. `split` says what every prediction's split is.
    """
    numbers = count(1)

    def make(
        project: Project,
        ratings: Mapping[Response, float],
        *,
        method: str = "oprm",
        split: str = Prediction.Split.HELD_OUT,
        snapshot_at: datetime | None = None,
        is_serving: bool = True,
        metrics: dict[str, Any] = METRICS,
        **fields: Any,
    ) -> ModelVersion:
        kind = "scalar" if method in ("bt", "clf", "haf") else "ordinal"
        number = next(numbers)
        snapshot = None
        if snapshot_at is not None:
            snapshot = Snapshot.objects.create(
                project=project, digest=f"{number:064}", counts={}, created_at=snapshot_at
            )
        run = TrainingRun.objects.create(
            project=project, method=method, trigger="button", config={}, config_digest=str(number), state="done",
            snapshot=snapshot,
        )  # fmt: skip
        version = ModelVersion.objects.create(
            project=project, run=run, method=method, number=number, kind=kind, digest=str(number), metrics=metrics,
            is_serving=is_serving, **fields,
        )  # fmt: skip
        responses, values = list(ratings), list(ratings.values())
        rows = []
        for response, value, percentile in zip(responses, values, percentiles(values), strict=True):
            p = peaked(value) if kind == "ordinal" else None
            expected = sum(rating * share for rating, share in enumerate(p, start=1)) if p else None
            rows.append(
                Prediction(
                    version=version, response=response, score=value if expected is None else expected,
                    expected=expected, spread=1.2 if p else None, p=p, percentile=percentile, split=split,
                )
            )  # fmt: skip
        Prediction.objects.bulk_create(rows)
        return version

    return make


@pytest.fixture
def judge(db: None) -> Callable[..., Judgement]:
    """judge(pair, user, "a") stores a judgement as the services do, the pair's counter included."""
    numbers = count(1)

    def make(pair: Pair, annotator: User, verdict: str, **fields: Any) -> Judgement:
        if verdict != "skip" and fields.get("is_current", True):
            Pair.objects.filter(pk=pair.pk).update(judged=F("judged") + 1)
        key = f"judge-{next(numbers)}"
        return Judgement.objects.create(
            pair=pair, annotator=annotator, verdict=verdict, client_key=key, **fields
        )

    return make


@pytest.fixture
def rate(db: None) -> Callable[..., QualityLabel]:
    """rate(response, user, "good") stores a quality label."""
    numbers = count(1)

    def make(response: Response, annotator: User, level: str, **fields: Any) -> QualityLabel:
        return QualityLabel.objects.create(
            response=response, annotator=annotator, level=level, client_key=f"rate-{next(numbers)}", **fields
        )

    return make
