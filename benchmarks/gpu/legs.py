"""The legs of the GPU benchmark, each in a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from benchmarks.gpu.shapes import WORDS, tokenizer
from benchmarks.train_throughput.recording import record_training
from benchmarks.trl_leg import peak_memory
from workers.rewards.config import ResolvedConfig, RunConfig
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.models.encode import MICRO_BATCH_TOKENS
from workers.rewards.models.load import load_backbone
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.batches import Blocks
from workers.rewards.training.optimiser import make_optimizer

WARM_UP = 2  # steps


def leg(name: str, path: Path) -> int:
    """Run one leg and write its figures."""
    job = json.loads(path.read_text(encoding="utf-8"))
    random_weights(job["device"])
    result = {"ours": ours, "naive": naive, "trl": with_trl, "score": scoring}[name](job)
    Path(job["out"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def random_weights(device: str) -> None:
    """Let load_backbone build a folder's config with random weights on the device instead of reading them."""
    import transformers

    from workers.rewards.training import prepare

    def build(path: str, **options: Any) -> Any:
        config = transformers.AutoConfig.from_pretrained(path)
        torch.manual_seed(0)
        with torch.device(device):
            built = transformers.AutoModelForCausalLM.from_config(
                config, dtype=options.get("dtype", torch.float32)
            )
        return (built, {"missing_keys": ()}) if options.get("output_loading_info") else built

    setattr(transformers.AutoModelForCausalLM, "from_pretrained", build)  # noqa: B010
    setattr(prepare, "load_tokenizer", lambda name, path, revision=None: tokenizer())  # noqa: B010


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """workers.rewards.train until enough steps are done."""
    wanted = job["steps"] + WARM_UP
    records, peak = record_training(Path(job["folder"]) / "run", lambda done: len(done) >= wanted)
    timed = records[WARM_UP:]
    shared = sum(r.computed_tokens for r in timed) < sum(r.distinct_tokens for r in timed)
    tokens = sum(min(r.computed_tokens, r.distinct_tokens) for r in timed)
    attended = sum(r.attended_shared if shared else r.attended for r in timed)
    return {
        "seconds": records[-1].end - records[WARM_UP - 1].end,
        "judgements": sum(r.judgements for r in timed),
        "pair_tokens": sum(r.pair_tokens for r in timed),
        "computed_tokens": sum(r.computed_tokens for r in timed),
        "flops": flops(job, tokens, attended),
        "peak_memory": peak,
        "note": f"{sum(r.distinct_tokens for r in timed) / len(timed):.0f} distinct tokens a step",
    }


def naive(job: dict[str, Any]) -> dict[str, Any]:
    """Chosen and rejected padded to one rectangle, every response encoded in each of its pairs."""
    device = torch.device(job["device"])
    config, model, rows, pairs = setting(job)
    steps = Blocks(pairs, [], [len(row) for row in rows], config.token_budget).epoch(0, 0)
    optimizer = make_optimizer(model, config)
    model.train()

    def step(number: int, size: int) -> dict[str, float]:
        chosen = [pairs[row] for row in steps[number % len(steps)].judgements]
        chosen.sort(key=lambda pair: max(len(rows[pair[0]]), len(rows[pair[1]])))
        count = {
            "judgements": float(len(chosen)),
            "pair_tokens": 0.0,
            "computed_tokens": 0.0,
            "attended": 0.0,
        }
        for start in range(0, len(chosen), size):
            batch = chosen[start : start + size]
            members = [rows[pair[side]] for side in (0, 1) for pair in batch]
            lengths = torch.tensor([len(row) for row in members])
            ids = torch.zeros(len(members), int(lengths.max()), dtype=torch.int64)
            for place, row in enumerate(members):
                ids[place, : len(row)] = torch.tensor(row.ids)
            reward = padded_rewards(model, ids.to(device), lengths.to(device))
            first, second = reward.chunk(2)
            (-F.logsigmoid(first - second).sum() / len(chosen)).backward()
            count["pair_tokens"] += float(lengths.sum())
            count["computed_tokens"] += ids.numel()
            count["attended"] += float((lengths**2).sum()) / 2
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return count

    rates: dict[int, float] = {}
    for size in job["naive_batch"]:
        try:
            step(0, size)
            started = clock(device)
            done = [step(number, size)["judgements"] for number in range(1, 3)]
            rates[size] = sum(done) / (clock(device) - started)
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            break
    if not rates:
        raise RuntimeError(f"out of memory with {min(job['naive_batch'])} pairs; lower --naive-batch")
    best = max(rates, key=lambda size: rates[size])
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for number in range(WARM_UP):
        step(number, best)
    started = clock(device)
    counts = [step(number, best) for number in range(WARM_UP, WARM_UP + job["steps"])]
    seconds = clock(device) - started
    total = {key: sum(count[key] for count in counts) for key in counts[0]}
    return {
        **total,
        "seconds": seconds,
        "flops": flops(job, total["pair_tokens"], total["attended"]),
        "peak_memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory(),
        "note": f"{best} pairs a rectangle, of "
        + ", ".join(f"{size}: {rates[size]:.1f}/s" for size in rates),
    }


def padded_rewards(model: RewardModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Rewards by the plain transformers forward with an attention mask, read at the last real token. [B, L] -> [B]"""
    backbone: Any = model.backbone
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        hidden = backbone.base_model(
            input_ids=ids, attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
    last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
    return model.score(last)


def with_trl(job: dict[str, Any]) -> dict[str, Any]:
    """RewardTrainer on the same pairs, by benchmarks.trl_leg."""
    from benchmarks.trl_leg import main as trl_main

    config, model, rows, pairs = setting(job)
    lora = {
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "task_type": "SEQ_CLS",
    }
    steps = Blocks(pairs, [], [len(row) for row in rows], config.token_budget).epoch(0, 0)
    del model
    if job["device"] == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    folder = Path(job["folder"])
    ids = pa.schema([("chosen_ids", pa.list_(pa.int32())), ("rejected_ids", pa.list_(pa.int32()))])
    columns = {
        "chosen_ids": [list(rows[a].ids) for a, _ in pairs],
        "rejected_ids": [list(rows[b].ids) for _, b in pairs],
    }
    pq.write_table(pa.table(columns, ids), folder / "pairs.parquet")
    size = min(job["naive_batch"])
    order = {
        "model": str(folder / "model"),
        "random_weights": True,
        "lora": lora if config.tuning == "lora" else None,
        "device": job["device"],
        "threads": torch.get_num_threads(),
        "pairs": str(folder / "pairs.parquet"),
        "work": str(folder / "trl"),
        "out": str(folder / "trl.json"),
        "seed": 0,
        "probe": False,
        "score": None,
        "seconds": 30.0 if job["device"] == "cuda" else 2.0,
        "per_device": size,
        "sampling": "grouped",
        "max_length": config.max_length,
        "judgements": len(pairs),
        "update": len(pairs) / len(steps),
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "head_learning_rate": config.head_learning_rate,
        "weight_decay": config.weight_decay,
        "warmup": config.warmup,
        "clip_norm": config.clip_norm,
    }
    (folder / "trl-job.json").write_text(json.dumps(order), encoding="utf-8")
    trl_main([str(folder / "trl-job.json")])
    result = json.loads((folder / "trl.json").read_text(encoding="utf-8"))
    records = result["records"]
    return {
        "seconds": records[-1][0] - records[0][0],
        "judgements": sum(record[1] for record in records[1:]),
        "pair_tokens": sum(record[2] for record in records[1:]),
        "computed_tokens": sum(record[3] for record in records[1:]),
        "peak_memory": result["peak_memory"],
        "note": f"TRL {result['trl']}, {size} pairs per device batch, grouped by length",
    }


@torch.no_grad()
def scoring(job: dict[str, Any]) -> dict[str, Any]:
    """score_responses, and the bare backbone on rectangles of the mean length with as many tokens."""
    device = torch.device(job["device"])
    config, model, rows, _ = setting(job)
    model.eval()
    template = Template(tokenizer(), architecture="causal", ordinal=False, max_length=config.max_length)
    responses = read_snapshot(Path(job["folder"]) / "run" / "snapshot").responses
    tokens = sum(map(len, rows))
    score_responses(model, template, responses[:64], device)
    started = clock(device)
    score_responses(model, template, responses, device)
    whole = clock(device) - started
    started = time.monotonic()
    template.encode(responses)
    tokenising = time.monotonic() - started

    length = round(tokens / len(rows))
    batch = max(1, (config.micro_batch_tokens or MICRO_BATCH_TOKENS[device.type]) // length)
    backbone: Any = model.backbone
    ids = torch.randint(1, WORDS, (batch, length), device=device)
    times = max(3, tokens // ids.numel())
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for run in range(times + 2):
            if run == 2:
                started = clock(device)
            backbone.base_model(input_ids=ids, use_cache=False)
    bare = clock(device) - started
    return {
        "tokens_per_second": tokens / max(whole - tokenising, 1e-9),
        "with_tokenising": tokens / whole,
        "bare": times * ids.numel() / bare,
        "tokens": tokens,
        "bare_shape": [batch, length],
    }


def setting(job: dict[str, Any]) -> tuple[ResolvedConfig, RewardModel, list[Encoded], list[tuple[int, int]]]:
    """The run folder's config resolved, the model as the trainer makes it, token ids, pairs (chosen first)."""
    folder = Path(job["folder"])
    snapshot = read_snapshot(folder / "run" / "snapshot")
    asked = RunConfig.read(folder / "run" / "config.json")
    backbone: Any = load_backbone(asked.base_model, asked.base_model, "causal")
    backbone.set_attn_implementation("sdpa")
    config = asked.resolved("causal", backbone.config.hidden_size, job["device"])
    model = RewardModel(backbone, architecture="causal", kind="scalar", head_hidden=config.head_hidden)
    if config.tuning == "lora":
        model.add_lora(config)
    model.to(job["device"])
    template = Template(tokenizer(), architecture="causal", ordinal=False, max_length=config.max_length)
    rows = template.encode(snapshot.responses)
    index = snapshot.index
    pairs = [(index[row["response_a"]], index[row["response_b"]]) for row in snapshot.judgements]
    return config, model, rows, pairs


def flops(job: dict[str, Any], tokens: float, attended: float) -> float:
    """Model FLOPs of forward and backward; see the module's docstring."""
    from transformers import AutoConfig

    folder = Path(job["folder"])
    shape = AutoConfig.from_pretrained(folder / "model")
    frozen = RunConfig.read(folder / "run" / "config.json").tuning == "lora"
    head = shape.hidden_size // shape.num_attention_heads
    projections = 2 * shape.hidden_size * head * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = projections + 3 * shape.hidden_size * shape.intermediate_size
    weights = shape.num_hidden_layers * layer
    # attention: two products of 2 x width per position forward, twice that backward
    return (
        4 if frozen else 6
    ) * weights * tokens + 12 * shape.num_hidden_layers * shape.hidden_size * attended


def clock(device: torch.device) -> float:
    """Seconds, when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()
