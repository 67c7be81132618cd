"""A data set with a model, made ready for both programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.datasets import Rows, load_hh_rlhf, load_qa_feedback, load_ukp_strict
from workers.rewards.config import RunConfig
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.models.base_models import PACKAGED
from workers.rewards.models.load import architecture_of, load_tokenizer
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.batches import Blocks

LOADERS = {"ukp": load_ukp_strict, "qa_feedback": load_qa_feedback, "hh_rlhf": load_hh_rlhf}
# All that MiniLM can read; for Qwen2 as much as the longest pair needs (at 1024 TRL would drop half of qa_feedback)
MAX_LENGTH = {"minilm": 512, "qwen2": 2048}
UPDATE = {"qa_feedback": 16, "hh_rlhf": 16}  # judgements per step; UKP takes what our default budget gives
EPOCHS = 3


@dataclass
class Case:
    """One data set with one model, ready for both programs."""

    data: str
    model: str
    folder: Path  # snapshot/, pairs.parquet
    config: dict[str, Any]  # of our run
    trl: dict[str, Any]  # of TRL's job
    about: dict[str, Any]


def prepare(
    folder: Path,
    data: str,
    model: str,
    path: str,
    rows: Rows,
    extra: dict[str, Any],
    *,
    epochs: int = EPOCHS,
) -> Case:
    """Write the snapshot and the same pairs as token ids; choose the update. Ties are left out."""
    judgements = [row for row in rows.judgements if row["verdict"] in ("a", "b")]
    write_snapshot(folder / "snapshot", rows.responses, judgements)
    responses = read_snapshot(folder / "snapshot").responses
    base = PACKAGED if model == "minilm" else path
    architecture = architecture_of(base, path)
    tokenizer = load_tokenizer(base, path)

    def encode(max_length: int) -> list[Encoded]:
        return Template(tokenizer, architecture=architecture, ordinal=False, max_length=max_length).encode(
            responses
        )

    max_length = MAX_LENGTH[model]
    encoded = encode(max_length)
    whole = [len(row) for row in encode(10**6)]
    sizes = [len(row) for row in encoded]
    index = {row["response_id"]: number for number, row in enumerate(responses)}
    pairs = []
    for row in judgements:
        sides = (index[row["response_a"]], index[row["response_b"]])
        pairs.append(sides if row["verdict"] == "a" else sides[::-1])
    trained = sum(sizes[response] for response in {response for pair in pairs for response in pair})
    config = {
        "method": "bt",
        "base_model": base,
        "max_length": max_length,
        "holdout": 0.0,
        "centring": 0.0,
        "reliability": False,  # TRL knows no annotators; the loss is the plain pairwise mean in both
        "epochs": epochs,
        "checkpoint_seconds": 86400,
    }
    if data in UPDATE:
        config["token_budget"] = round(UPDATE[data] * trained / len(pairs))
    config |= extra
    filled = (
        RunConfig.from_dict(config)
        .resolved(architecture, 256 if model == "qwen2" else 384)
        .with_budget(trained)
    )
    config["token_budget"] = budget = filled.token_budget
    update = len(pairs) / len(Blocks(pairs, [], sizes, budget).epoch(0, 0))
    table = {
        "chosen_ids": [list(encoded[chosen].ids) for chosen, _ in pairs],
        "rejected_ids": [list(encoded[rejected].ids) for _, rejected in pairs],
    }
    ids = pa.list_(pa.int32())
    pq.write_table(
        pa.table(table, pa.schema([("chosen_ids", ids), ("rejected_ids", ids)])), folder / "pairs.parquet"
    )
    pq.write_table(
        pa.table({"ids": [list(row.ids) for row in encoded]}, pa.schema([("ids", ids)])),
        folder / "responses.parquet",
    )
    job = {
        "model": path,
        "max_length": max_length,
        "judgements": len(pairs),
        "update": update,
        "epochs": epochs,
        "learning_rate": filled.learning_rate,
        "head_learning_rate": filled.head_learning_rate,
        "weight_decay": filled.weight_decay,
        "warmup": filled.warmup,
        "clip_norm": filled.clip_norm,
    }
    about = {
        "pairs": len(pairs),
        "responses": len({response for pair in pairs for response in pair}),
        "ties_left_out": len(rows.judgements) - len(judgements),
        "max_length": max_length,
        "token_budget": budget,
        "update": update,
        "tokens_per_pair": sum(sizes[a] + sizes[b] for a, b in pairs) / len(pairs),
        "trl_would_drop": sum(max(whole[a], whole[b]) > max_length for a, b in pairs),
    }
    return Case(data, model, folder, config, job, about)
