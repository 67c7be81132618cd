"""Speed on a GPU with the shapes of real models: our training step beside padded pairs, and scoring.

    python -m benchmarks.gpu [--device cuda|cpu] [--shape tiny|0.5b|7b ...] [--steps N] [--lengths synthetic|...]
        [--token-budget N] [--micro-batch-tokens N] [--peak TFLOPS] [--set KEY=JSON ...] [--json FILE]

Needs workers.rewards and what it needs, no data and no hub: Qwen2 and Qwen2.5 shapes with random weights, built on
the device, and random words in the lengths of --lengths (qa_feedback and hh_rlhf take their lengths, at four
characters a token, from ../shared/data). 0.5b is tuned whole, 7b with LoRA; bf16 autocast on a GPU. Every leg is a
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
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.legs import WARM_UP, leg
from benchmarks.gpu.shapes import BUDGET, SHAPES, TUNING, texts, tokenizer
from workers.rewards.data.snapshot import write_snapshot

ROOT = Path(__file__).resolve().parents[2]
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


if __name__ == "__main__":
    sys.exit(main())
