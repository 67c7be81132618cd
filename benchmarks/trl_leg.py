"""TRL's side of the comparisons: `python -m benchmarks.trl_leg JOB.json`, in a Python that has TRL.

Imports neither workers nor any other benchmark, so that it runs in an environment with TRL alone. The job holds
token ids (Parquet, columns chosen_ids and rejected_ids), which RewardTrainer takes as they are, so both programs read
exactly the same tokens. RewardTrainer is set up as somebody would who knows it and wants it fast: no gradient
checkpointing (TRL turns it on by default), dynamic padding, fused AdamW, no saving, nothing reported anywhere.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class Enough(Exception):
    """The leg's time is over."""


def main(arguments: Sequence[str]) -> int:
    """Run one job and write what came out to its `out`."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    dataset = Dataset.from_parquet(job["pairs"], cache_dir=job["work"])

    def fresh() -> Any:
        torch.manual_seed(job["seed"])
        return AutoModelForSequenceClassification.from_pretrained(
            job["model"], num_labels=1, dtype=torch.float32
        )

    result: dict[str, Any]
    if job["probe"]:
        result = {"rates": []}
        for per_device, sampling in job["candidates"]:
            tried = fit(fresh(), tokenizer, dataset, {**job, "per_device": per_device, "sampling": sampling})
            result["rates"].append([per_device, sampling, rate(tried["records"])])
    else:
        model = fresh()
        result = fit(model, tokenizer, dataset, job)
        if job["score"]:
            result["scores"] = scores(model, tokenizer, job["score"])
    result["trl"] = importlib.import_module("trl").__version__
    result["torch"] = torch.__version__
    Path(job["out"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def fit(model: Any, tokenizer: Any, dataset: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Train with RewardTrainer for job["seconds"] after the first micro-batch, or for all epochs when that is None.

    records: (seconds at the end, pairs, real tokens, padded tokens, mean loss) of every micro-batch.
    """
    trl: Any = importlib.import_module("trl")
    from transformers import TrainerCallback

    per_device = job["per_device"]
    accumulation = max(1, round(job["update"] / per_device))
    update = per_device * accumulation
    steps = math.ceil(job["judgements"] / update) * job["epochs"]
    records: list[list[float]] = []
    peak = 0

    class Watched(trl.RewardTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs["attention_mask"]
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            records.append([0.0, len(mask) // 2, float(mask.sum()), mask.numel(), float(loss.detach())])
            return loss

    class Clock(TrainerCallback):
        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            self.tick()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.tick()

        def tick(self) -> None:
            nonlocal peak
            records[-1][0] = time.monotonic()
            limit = job["seconds"]
            if limit is not None and len(records) > 2 and records[-1][0] - records[0][0] >= limit:
                peak = peak_memory()
                raise Enough

    settings = trl.RewardConfig(
        output_dir=job["work"],
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=job["epochs"],
        max_length=job["max_length"],
        max_grad_norm=job["clip_norm"],
        center_rewards_coefficient=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="random" if job["sampling"] == "trainer" else "sequential",
        dataloader_drop_last=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    optimizer = make_optimizer(model, job)
    rising = math.ceil(job["warmup"] * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / rising if step < rising else max(0, steps - step) / max(1, steps - rising),
    )
    if job["sampling"] != "trainer":
        dataset = dataset.select(order(dataset, per_device, update, job["sampling"], job["seed"]))
    trainer = Watched(
        model=model,
        args=settings,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Clock()],
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(importlib.import_module("transformers").PrinterCallback)
    try:
        trainer.train()
    except Enough:
        pass
    return {
        "records": records,
        "peak_memory": peak or peak_memory(),
        "update": update,
        "kept": len(trainer.train_dataset),
    }


def order(dataset: Any, per_device: int, update: int, sampling: str, seed: int) -> list[int]:
    """Rows in the order of TRL's batches.

    "random": a permutation. "grouped": the batches of train_sampling_strategy="group_by_length" on the longer side's
    length, shuffled as wholes; the sampler itself sorts thousands of pairs from long to short, so a leg of a minute
    would see nothing but the longest.
    """
    if sampling == "random":
        return random.Random(seed).sample(range(len(dataset)), len(dataset))
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = [
        max(len(chosen), len(rejected))
        for chosen, rejected in zip(dataset["chosen_ids"], dataset["rejected_ids"], strict=True)
    ]
    grouped = get_length_grouped_indices(lengths, update, generator=torch.Generator().manual_seed(seed))
    batches = [grouped[start : start + per_device] for start in range(0, len(grouped), per_device)]
    random.Random(seed).shuffle(batches)
    batches.sort(key=lambda batch: len(batch) < per_device)  # the incomplete one last
    return [row for batch in batches for row in batch]


def make_optimizer(model: torch.nn.Module, job: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW with the groups of training.optimiser.make_optimizer: a faster head, no decay of vectors."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            new = "score." in name or "classifier." in name
            learning_rate = job["head_learning_rate"] if new else job["learning_rate"]
            decay = job["weight_decay"] if parameter.ndim >= 2 else 0.0
            groups.setdefault((learning_rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()],
        betas=(0.9, 0.98),
        fused=True,
    )


@torch.no_grad()
def scores(model: Any, tokenizer: Any, path: str) -> list[float]:
    """Rewards of single responses (Parquet, column ids), in their order."""
    from datasets import Dataset

    model.eval()
    rewards = []
    for row in Dataset.from_parquet(path)["ids"]:
        ids = torch.tensor([row])
        rewards.append(float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits))
    return rewards


def rate(records: Sequence[Sequence[float]]) -> float:
    """Pairs per second after the first record."""
    return sum(record[1] for record in records[1:]) / (records[-1][0] - records[0][0])


def peak_memory() -> int:
    """Bytes of resident memory at the process's highest. VmHWM starts anew at exec, ru_maxrss doesn't."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
