"""A version in memory: the model, its template, and where a score lies among the project's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..artifacts.save import ArtifactError, load_model
from ..models.distributed import default_device
from ..models.embeddings import embed
from ..models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from ..models.predict import distributions, predictions
from ..models.preference import Floats
from ..models.reward_model import RewardModel
from ..text.sections import Encoded, Template

Row = dict[str, Any]

# Tried before a version serves: of several lengths, so that what a first pass sets up is set up.
_FIRST = [
    {"messages": [{"role": "user", "content": "How do I water a fern?"}], "tools": [], "text": text}
    for text in ("", "Once a week.", "Whenever the soil is dry to the touch. " * 20)
]


class Held:
    """A version that scores. It never changes, so requests that began with it end with it."""

    def __init__(
        self,
        model: RewardModel,
        template: Template,
        config: dict[str, Any],
        *,
        name: str,
        among: Sequence[float] = (),
        device: torch.device | None = None,
    ) -> None:
        """`config`: reward_config.json's object. `among`: scores of the project's responses, for percentiles."""
        self.model, self.template, self.config, self.name = model, template, config, name
        device = device or default_device()
        self.batch_tokens = MICRO_BATCH_TOKENS[device.type]
        self._encoder = ResponseEncoder(
            model.to(device), device, self.batch_tokens, longest=template.max_length
        )
        self._among: Floats = np.sort(np.asarray(among, dtype=np.float64))

    @classmethod
    def load(cls, folder: Path, name: str | None = None) -> Held:
        """The version in a model folder, which has scored a few texts already. Raises ArtifactError."""
        model, template, config = load_model(folder)
        digest = str(config["digest"])
        name = name or f"{config.get('method', 'model')}-{digest[:8]}"
        held = cls(model, template, config, name=name, among=_scores_beside(folder))
        for count in (1, len(_FIRST)):
            for row in held.score(held.encode(_FIRST[:count])):
                if not math.isfinite(row["score"]):
                    raise ArtifactError(f"{folder} gives scores that are no numbers; train it again")
        return held

    @property
    def digest(self) -> str:
        return str(self.config["digest"])

    @property
    def described(self) -> dict[str, str]:
        """What every answer says of the version."""
        return {"name": self.name, "digest": self.digest}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Token ids of rows with messages, tools and text."""
        return self.template.encode(rows)

    def batches(self, encoded: Sequence[Encoded]) -> list[tuple[list[int], int]]:
        """Positions in micro-batches, as `score` arranges them, each with its number of tokens."""
        return [
            (batch, self._encoder.tokens([encoded[position] for position in batch]))
            for batch in self._encoder.batches(encoded)
        ]

    def score(self, encoded: Sequence[Encoded]) -> list[Row]:
        """score, expected, spread, p(1..9), percentile and truncated of each.

        The percentile is the share (0..100) of the project's responses that score lower; equal ones count half. It is
        None where no predictions lie beside the model.
        """
        features = embed(self._encoder, encoded, lambda done, total: None)
        scored = predictions(
            [{"response_id": ""}] * len(encoded), encoded, distributions(self.model, features)
        )
        scores = [row["score"] for row in scored]
        keys = ("score", "expected", "spread", "p")
        return [
            {**{key: row[key] for key in keys}, "percentile": percentile, "truncated": row["truncated"]}
            for row, percentile in zip(scored, self._percentiles(scores), strict=True)
        ]

    def _percentiles(self, scores: Sequence[float]) -> list[float | None]:
        if not len(self._among):
            return [None] * len(scores)
        lower = np.searchsorted(self._among, scores, side="left")
        up_to = np.searchsorted(self._among, scores, side="right")
        shares: list[float | None] = (50.0 * (lower + up_to) / len(self._among)).tolist()
        return shares


class Holder:
    """Which version serves, and what is wrong with the one that should. A swap is one assignment."""

    def __init__(self) -> None:
        self.current: Held | None = None
        self.problem = "no model is loaded yet"
        """In words; empty while all is well."""


def _scores_beside(folder: Path) -> list[float]:
    """The scores in the run's predictions.parquet; none where it isn't there or can't be read."""
    try:
        column = pq.read_table(folder.parent / "predictions.parquet", columns=["score"])["score"]
    except (OSError, pa.ArrowException):
        return []
    return [score for score in column.to_pylist() if score is not None and math.isfinite(score)]
