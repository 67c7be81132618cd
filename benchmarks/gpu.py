"""Speed on a GPU with the shapes of real models: our training step beside padded pairs, and scoring.

    python -m benchmarks.gpu [--device cuda|cpu] [--shape tiny|0.5b|7b ...] [--steps N] [--lengths synthetic|...]
        [--token-budget N] [--micro-batch-tokens N] [--peak TFLOPS] [--set KEY=JSON ...] [--json FILE]

Needs workers.rewards and what it needs, no data and no hub: Qwen2 and Qwen2.5 shapes with random weights, built on
the device, and random words in the lengths of --lengths (qa_feedback and hh_rlhf take their lengths, at four
characters a token, from ../shared/data).  0.5b is tuned whole, 7b with LoRA; bf16 autocast on a GPU.  Every leg is a
process of its own, in the order ours, naive, naive, ours, then TRL if this Python has it, then scoring:

ours     workers.rewards.train on a run folder, its steps timed
naive    the same judgements per step as pairs in padded rectangles of chosen and rejected, each response encoded in
         each of its pairs, sorted by length within the step; the best of --naive-batch pairs per rectangle
trl      RewardTrainer 1.16 itself on the same token ids, if importable
score    workers.rewards.score.score_responses beside the bare backbone on as many tokens without padding

Model FLOPs: 6 N per token when all weights learn, 4 N when the backbone is frozen (LoRA), N without the embedding
table, plus attention's 12 x width x layers per causal (query, key) position; only real tokens count, and a shared
prompt counts once where it is computed once.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from benchmarks.datasets import load_hh_rlhf, load_qa_feedback
from benchmarks.train_throughput import record_training
from benchmarks.trl_leg import peak_memory
from workers.rewards.config import RunConfig
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.models.encode import MICRO_BATCH_TOKENS
from workers.rewards.models.load import load_backbone
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.batches import Blocks
from workers.rewards.training.optimiser import make_optimizer
from workers.rewards.training.step import given

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
TUNING = {"tiny": "tuned", "0.5b": "tuned", "7b": "lora"}
BUDGET = {"tiny": 1024, "0.5b": 32768, "7b": 8192}  # tokens of distinct responses per step
# dense bf16, no sparsity, by the maker's data sheets
PEAK = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "4090": 165e12,
}
WORDS = 4000
WARM_UP = 2  # steps


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["0.5b", "7b"])
    parser.add_argument("--steps", type=int, default=20, help="timed optimiser steps of a leg")
    parser.add_argument("--repeats", type=int, default=2, help="legs of ours and of naive")
    parser.add_argument("--lengths", choices=("synthetic", "qa_feedback", "hh_rlhf"), default="synthetic")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--naive-batch", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, dense bf16")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="of our config.json")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out though this Python has it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--leg", nargs=2, metavar=("NAME", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.leg:
        return leg(options.leg[0], Path(options.leg[1]))
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --shape tiny tries the program", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    peak = options.peak * 1e12 if options.peak else next((v for k, v in PEAK.items() if k in name), None)
    print(
        f"{name}, torch {torch.__version__}, Python {platform.python_version()}, peak "
        + (f"{peak / 1e12:.0f} TFLOP/s" if peak else "unknown (--peak)"),
        flush=True,
    )
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "peak": peak, "shapes": {}}
    for shape in options.shape:
        with tempfile.TemporaryDirectory() as folder:
            report["shapes"][shape] = measure(shape, options, Path(folder), peak)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


def measure(shape: str, options: argparse.Namespace, folder: Path, peak: float | None) -> dict[str, Any]:
    """All legs of one shape; prints and returns their figures."""
    from transformers import Qwen2Config

    Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=32768,
        architectures=["Qwen2ForCausalLM"],
        eos_token_id=0,
        pad_token_id=0,
    ).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    budget = options.token_budget or BUDGET[shape]
    rows, judgements = texts(options.lengths, budget * (options.steps + WARM_UP) * 2, options.max_length)
    write_snapshot(folder / "run" / "snapshot", rows, judgements)
    config: dict[str, Any] = {
        "method": "bt",
        "base_model": str(folder / "model"),
        "tuning": TUNING[shape],
        "max_length": options.max_length,
        "holdout": 0.0,
        "centring": 0.0,
        "reliability": False,
        "token_budget": budget,
        "checkpoint_seconds": 86400,
    }
    if options.micro_batch_tokens:
        config["micro_batch_tokens"] = options.micro_batch_tokens
    config |= {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    (folder / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    job = {
        "folder": str(folder),
        "device": options.device,
        "steps": options.steps,
        "naive_batch": options.naive_batch,
    }
    legs: dict[str, list[dict[str, Any]]] = {}
    order = []
    for repeat in range(options.repeats):
        order += ["ours", "naive"] if repeat % 2 == 0 else ["naive", "ours"]
    if importlib.util.find_spec("trl") is not None and not options.no_trl:
        order.append("trl")
    for number, program in enumerate([*order, "score"]):
        path = folder / f"job-{number}.json"
        path.write_text(json.dumps({**job, "out": str(folder / f"out-{number}.json")}), encoding="utf-8")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if options.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", "--leg", program, str(path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(f"  {shape} {program} failed: {done.stderr.strip()[-1500:]}", flush=True)
        else:
            out = json.loads((folder / f"out-{number}.json").read_text(encoding="utf-8"))
            legs.setdefault(program, []).append(out)
            if "judgements" in out:  # a machine that is lent may go before the last leg
                rate = out["judgements"] / out["seconds"]
                print(f"  {shape} {program}: {rate:.1f} judgements/s, {out['note']}", flush=True)
    return summarise(shape, legs, config, peak)


def summarise(
    shape: str, legs: dict[str, list[dict[str, Any]]], config: dict[str, Any], peak: float | None
) -> dict[str, Any]:
    """Figures of a shape from its legs, printed."""
    figures: dict[str, Any] = {"config": config}
    print(f"\n{shape}, {config['tuning']}, {config['token_budget']} tokens of distinct responses a step")
    for program in ("ours", "naive", "trl"):
        runs = legs.get(program)
        if not runs:
            continue
        total = {
            key: sum(run[key] for run in runs)
            for key in ("seconds", "judgements", "pair_tokens", "computed_tokens")
        }
        figure = {
            "judgements_per_second": total["judgements"] / total["seconds"],
            "pair_tokens_per_second": total["pair_tokens"] / total["seconds"],
            "computed_tokens_per_second": total["computed_tokens"] / total["seconds"],
            "peak_memory": max(run["peak_memory"] for run in runs),
            "flops_per_second": None,
            "utilisation": None,
            "note": runs[0].get("note", ""),
        }
        if all("flops" in run for run in runs):
            figure["flops_per_second"] = sum(run["flops"] for run in runs) / total["seconds"]
            figure["utilisation"] = figure["flops_per_second"] / peak if peak else None
        figures[program] = figure
        share = "    -" if figure["utilisation"] is None else f"{figure['utilisation']:5.1%}"
        print(
            f"  {program:6} {figure['judgements_per_second']:9.1f} judgements/s "
            f"{figure['pair_tokens_per_second']:10.0f} real tokens/s "
            f"{figure['computed_tokens_per_second']:10.0f} computed tokens/s  MFU {share}  "
            f"{figure['peak_memory'] / 2**30:6.2f} GiB  {figure['note']}"
        )
    for other in ("naive", "trl"):
        if "ours" in figures and other in figures:
            ratio = figures["ours"]["judgements_per_second"] / figures[other]["judgements_per_second"]
            figures[f"ratio_{other}"] = ratio
            print(f"  ours / {other}: {ratio:.2f}x judgements per second")
    if "score" in legs:
        score = figures["score"] = legs["score"][0]
        print(
            f"  scoring {score['tokens_per_second']:.0f} tokens/s ({score['with_tokenising']:.0f} with tokenising), "
            f"bare backbone {score['bare']:.0f}: {score['tokens_per_second'] / score['bare']:.0%}"
        )
    sys.stdout.flush()
    return figures


# --- The legs, each in a process of its own -----------------------------------------------------------------


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

    from workers.rewards.training import loop as trainer

    def build(path: str, **options: Any) -> Any:
        config = transformers.AutoConfig.from_pretrained(path)
        torch.manual_seed(0)
        with torch.device(device):
            return transformers.AutoModelForCausalLM.from_config(
                config, dtype=options.get("dtype", torch.float32)
            )

    setattr(transformers.AutoModelForCausalLM, "from_pretrained", build)  # noqa: B010
    setattr(trainer, "load_tokenizer", lambda name, path, revision=None: tokenizer())  # noqa: B010


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
    steps = Blocks(pairs, [], [len(row) for row in rows], given(config.token_budget)).epoch(0, 0)
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
    """Rewards by the plain transformers forward with an attention mask, read at the last real token.  [B, L] -> [B]"""
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
        "lora_dropout": config.lora_dropout,
        "target_modules": "all-linear",
        "task_type": "SEQ_CLS",
    }
    steps = Blocks(pairs, [], [len(row) for row in rows], given(config.token_budget)).epoch(0, 0)
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
    template = Template(tokenizer(), backbone="causal", ordinal=False, max_length=given(config.max_length))
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


# --- What the legs share ------------------------------------------------------------------------------------


def setting(job: dict[str, Any]) -> tuple[RunConfig, RewardModel, list[Encoded], list[tuple[int, int]]]:
    """The run folder's config resolved, the model as the trainer makes it, token ids, pairs (chosen first)."""
    folder = Path(job["folder"])
    snapshot = read_snapshot(folder / "run" / "snapshot")
    asked = RunConfig.read(folder / "run" / "config.json")
    backbone: Any = load_backbone(asked.base_model, asked.base_model, "causal")
    backbone.set_attn_implementation("sdpa")
    config = asked.resolved("causal", backbone.config.hidden_size, job["device"])
    model = RewardModel(
        backbone, backbone_kind="causal", kind="scalar", head_hidden=given(config.head_hidden)
    )
    if config.tuning == "lora":
        model.add_lora(config)
    model.to(job["device"])
    template = Template(tokenizer(), backbone="causal", ordinal=False, max_length=given(config.max_length))
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


def texts(
    lengths: str, wanted_tokens: int, max_length: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Responses and judgements of random words, until there are `wanted_tokens` in distinct responses.

    synthetic: four answers to a prompt, all six pairs; prompts of about 250 words and answers of about 200, both
    log-normal (sigma .9 and .6), which is what chat data look like.
    """
    draw = random.Random(0)
    responses: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(max(1, count)))

    if lengths == "synthetic":
        total = 0
        while total < wanted_tokens:
            number = len(responses) // 4
            prompt = min(int(draw.lognormvariate(5.5, 0.9)), max_length // 2)
            messages = [{"role": "user", "content": words(prompt)}]
            for answer in range(4):
                size = min(int(draw.lognormvariate(5.3, 0.6)), max_length // 2 - 64)
                total += prompt + size
                responses.append(
                    {
                        "response_id": f"{number}-{answer}",
                        "prompt_id": str(number),
                        "messages": messages,
                        "text": words(size),
                    }
                )
            judgements.extend(
                {"response_a": f"{number}-{a}", "response_b": f"{number}-{b}", "verdict": "a"}
                for a in range(4)
                for b in range(a + 1, 4)
            )
        return responses, judgements
    rows = (load_qa_feedback if lengths == "qa_feedback" else load_hh_rlhf)()
    prompts: dict[str, list[dict[str, str]]] = {}
    for row in rows.responses:
        if row["prompt_id"] not in prompts:
            prompts[row["prompt_id"]] = [
                {"role": message["role"], "content": words(len(message["content"]) // 4)}
                for message in row["messages"]
            ]
        responses.append({**row, "messages": prompts[row["prompt_id"]], "text": words(len(row["text"]) // 4)})
    judgements = [{**row, "verdict": "a"} for row in rows.judgements if row["verdict"] in ("a", "b")]
    return responses, judgements


def tokenizer() -> Any:
    """A token per word w0, w1, ..., and the template's words: a text of n words has n tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<end>", "<unk>", *"#:.[]", "User", "Assistant", "System", "Response", "Score", "a"]
    names += [f"w{number}" for number in range(WORDS)]
    core = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )


def clock(device: torch.device) -> float:
    """Seconds, when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
