"""The tables of a judge's run: trajectories.parquet, critiques.parquet and joint.parquet, each whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import fsync
from .votes import Trajectory, Votes, critiques, joint_rows

TRAJECTORIES = pa.schema(
    [
        ("stage", pa.string()),  # rft | score
        ("prompt_id", pa.string()),
        ("responses", pa.list_(pa.string())),  # ids, in the order shown
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("scores", pa.list_(pa.int8())),  # in the same order; null where they could not be read
        ("reason", pa.string()),  # why not
        ("correct", pa.float64()),  # -1..1; null where nobody judged
        ("outcome", pa.string()),  # rft: kept | wrong | too_easy
        ("hinted", pa.bool_()),
        ("split", pa.string()),
        ("meta", pa.float64()),
        ("counted", pa.bool_()),  # whether it votes
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
    ]
)
CRITIQUES = pa.schema(
    [
        ("response_id", pa.string()),
        ("sample", pa.int32()),
        ("position", pa.int32()),
        ("rating", pa.int8()),
        ("principles", pa.string()),
        ("critique", pa.string()),
        ("median", pa.bool_()),
    ]
)
JOINT = pa.schema(
    [
        ("response_a", pa.string()),
        ("response_b", pa.string()),
        *((name, pa.int32()) for name in ("wins", "ties", "losses")),
        *((f"order_a_first_{name}", pa.int32()) for name in ("wins", "ties", "losses")),
    ]
)


def write_tables(
    folder: Path, learnt: Sequence[Trajectory], scored: Sequence[Trajectory], votes: Votes
) -> None:
    """`learnt`: trajectories of rft; `scored`: those of the votes."""
    rows = [
        {
            **{name: getattr(one, name) for name in TRAJECTORIES.names if hasattr(one, name)},
            "responses": list(one.responses),
            "scores": None if one.parsed.scores is None else list(one.parsed.scores),
            "reason": one.parsed.reason,
            "text": whole(one.text),
        }
        for one in (*learnt, *scored)
    ]
    _write(folder / "trajectories.parquet", rows, TRAJECTORIES)
    said = [
        {**row, "principles": whole(row["principles"]), "critique": whole(row["critique"])}
        for row in critiques(scored)
    ]
    _write(folder / "critiques.parquet", said, CRITIQUES)
    _write(folder / "joint.parquet", joint_rows(votes), JOINT)


def whole(text: str) -> str:
    """A model's text as UTF-8 can hold it: half a character becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, schema), beside)
    fsync(beside)
    beside.replace(path)
