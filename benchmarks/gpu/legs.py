"""The legs of the GPU benchmark, each in a process of its own, which writes its figures after every step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.shapes import tokenizer
from benchmarks.train_throughput.recording import StepRecord, record_training
from workers.rewards.config import RunConfig

WARM_UP = 3  # steps


def leg(name: str, path: Path) -> int:
    """Run one leg."""
    job = json.loads(path.read_text(encoding="utf-8"))
    if name == "trl":
        with_trl(job)
    else:
        random_weights(job["device"])
        ours(job)
    return 0


def write(job: dict[str, Any], figures: dict[str, Any]) -> None:
    """What the leg knows so far, whole or not at all."""
    beside = Path(job["out"]).with_suffix(".new")
    beside.write_text(json.dumps(figures), encoding="utf-8")
    os.replace(beside, job["out"])


def random_weights(device: str) -> None:
    """Let the trainer build a folder's config with random weights on the device instead of reading them."""
    import transformers

    from workers.rewards.training import prepare

    def build(path: str, *, config: Any, dtype: torch.dtype, **options: Any) -> Any:
        torch.manual_seed(0)
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        return model, {"missing_keys": []}

    setattr(transformers.AutoModelForCausalLM, "from_pretrained", build)  # noqa: B010
    setattr(prepare, "load_tokenizer", lambda *_: tokenizer())  # noqa: B010


def ours(job: dict[str, Any]) -> None:
    """workers.rewards.train until its time is over."""
    from workers.rewards.training import loop

    folder, gpu = Path(job["folder"]), job["device"] == "cuda"
    plain = loop.facts
    seen: dict[str, Any] = {}

    def noted(run: Any) -> str:
        facts = plain(run)
        seen["facts"] = facts
        seen["kernel"] = facts.partition("(packed, ")[2].partition(")")[0] or "padded"
        seen["memory"] = run.memory and {"words": str(run.memory), "peak": run.memory.peak}
        return facts

    loop.facts = noted

    def enough(done: list[StepRecord]) -> bool:
        timed = done[WARM_UP:]
        if not timed:
            return False
        seconds = timed[-1].end - done[WARM_UP - 1].end
        computed = sum(record.computed_tokens for record in timed)
        model_flops = flops(folder, computed, sum(record.attended_shared for record in timed))
        write(
            job,
            {
                **seen,
                "steps": len(timed),
                "judgements_per_second": sum(record.judgements for record in timed) / seconds,
                "tokens_per_second": computed / seconds,
                "flops_per_second": model_flops / seconds,
                "peak_memory": torch.cuda.max_memory_allocated() if gpu else None,
                "step": f"{sum(record.distinct_tokens for record in timed) / len(timed):,.0f} tokens a step",
            },
        )
        return seconds >= job["seconds"]

    record_training(folder / "run", enough)


def with_trl(job: dict[str, Any]) -> None:
    """RewardTrainer as it comes on the same pairs: 8 at a time, padded, in the order that it draws."""
    import pyarrow.parquet as pq
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoConfig, AutoModelForSequenceClassification, TrainerCallback

    folder, gpu = Path(job["folder"]), job["device"] == "cuda"
    lora = RunConfig.read(folder / "run" / "config.json").tuning == "lora"
    config = AutoConfig.from_pretrained(folder / "model", num_labels=1)
    torch.manual_seed(0)
    with torch.device(job["device"]):
        model = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.bfloat16 if lora and gpu else torch.float32
        )
    batches: list[tuple[float, int, int]] = []  # seconds, pairs, real tokens

    class Counted(trl.RewardTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs["attention_mask"]
            batches.append((0.0, len(mask) // 2, int(mask.sum())))
            return super().compute_loss(model, inputs, *args, **kwargs)

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            batches[-1] = (time.monotonic(), *batches[-1][1:])
            timed = batches[WARM_UP:]
            if not timed:
                return
            seconds = timed[-1][0] - batches[WARM_UP - 1][0]
            write(
                job,
                {
                    "steps": len(timed),
                    "judgements_per_second": sum(batch[1] for batch in timed) / seconds,
                    "tokens_per_second": sum(batch[2] for batch in timed) / seconds,
                    "flops_per_second": None,
                    "peak_memory": torch.cuda.max_memory_allocated() if gpu else None,
                    "kernel": f"TRL {trl.__version__}",
                    "step": f"{trainer.args.per_device_train_batch_size} pairs a step",
                },
            )
            control.should_training_stop = seconds >= job["seconds"]

    settings = trl.RewardConfig(
        output_dir=str(folder / "trl"), max_length=1024, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=not gpu, bf16=gpu,
    )  # fmt: skip
    trainer = Counted(
        model=model,
        args=settings,
        train_dataset=Dataset(pq.read_table(folder / "pairs.parquet")),
        processing_class=tokenizer(),
        peft_config=LoraConfig(target_modules="all-linear", task_type="SEQ_CLS", r=16) if lora else None,
        callbacks=[Clock()],
    )
    trainer.train()


def pairs_of(rows: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]) -> Any:
    """TRL's table of pairs as token ids, chosen first."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    schema = pa.schema([("chosen_ids", ids), ("rejected_ids", ids)])
    columns = {"chosen_ids": [rows[a] for a, _ in pairs], "rejected_ids": [rows[b] for _, b in pairs]}
    return pa.table(columns, schema)


def flops(folder: Path, tokens: float, attended: float) -> float:
    """Model FLOPs of forward and backward; see the module's docstring."""
    from transformers import AutoConfig

    shape: Any = AutoConfig.from_pretrained(folder / "model")
    frozen = RunConfig.read(folder / "run" / "config.json").tuning == "lora"
    head = shape.hidden_size // shape.num_attention_heads
    projections = 2 * shape.hidden_size * head * (shape.num_attention_heads + shape.num_key_value_heads)
    weights = shape.num_hidden_layers * (projections + 3 * shape.hidden_size * shape.intermediate_size)
    # attention: two products of 2 x width per position forward, twice that backward
    attention = 12 * shape.num_hidden_layers * shape.hidden_size * attended
    return (4 if frozen else 6) * weights * tokens + attention
