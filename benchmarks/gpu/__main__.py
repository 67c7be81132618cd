"""Training speed on a GPU with the shapes of real models and our default settings, beside TRL's RewardTrainer.

    python3 -m benchmarks.gpu [--device cuda|cpu] [--shape 0.5b|7b|tiny|tiny-lora ...] [--without-trl] [--json FILE]

At most six minutes, no network and no data: Qwen2.5 shapes with random weights, built on the device, and random words
in texts of up to 1,024 tokens, four answers and six pairs a prompt. It needs Python 3.12, torch 2.11, transformers
5.17, accelerate, peft and pyarrow, and measures TRL where this Python has it. All weights of 0.5b are tuned; 7b gets
LoRA. Each leg is a process of its own with a share of the time; one that is cut off keeps its figures.

ours     workers.rewards.train on a run folder that names base model and tuning alone, its steps timed
trl      RewardTrainer as it comes (8 pairs, padded, layers computed again) on the same pairs as token ids

Model FLOPs: 6 N per token when all weights learn, 4 N when the base is frozen (LoRA), N without the embedding table,
plus attention's 12 x width x layers per causal (query, key) position. Only real tokens count, a shared prompt once,
and nothing that is computed again for the gradient.
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
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from benchmarks.gpu.legs import leg, pairs_of
from benchmarks.gpu.shapes import LONGEST, SHAPES, TOKENS, TUNING, texts, tokenizer
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.text.sections import Template

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 350.0  # seconds in all
# of a leg: what is timed, and the end of it with loading and warming up
SECONDS = {
    ("0.5b", "ours"): (20, 60),
    ("0.5b", "trl"): (20, 60),
    ("7b", "ours"): (25, 80),
    ("7b", "trl"): (20, 80),
}
TINY = (2, 40)
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
MFU_BAR = {"0.5b": 0.45, "7b": 0.50}
TRL_BAR = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["0.5b", "7b"])
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--leg", nargs=2, metavar=("NAME", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.leg:
        return leg(options.leg[0], Path(options.leg[1]))
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --shape tiny tiny-lora tries the program", file=sys.stderr)
        return 2
    end = time.monotonic() + LIMIT
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    peak = next((value for key, value in PEAK.items() if key in name), None)
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}", flush=True)
    programs = ["ours"]
    if importlib.util.find_spec("trl") is not None and not options.without_trl:
        programs.append("trl")
    report: dict[str, dict[str, dict[str, Any]]] = {}
    for shape in options.shape:
        with tempfile.TemporaryDirectory() as folder:
            prepare(shape, Path(folder))
            report[shape] = {
                program: found
                for program in programs
                if (found := run(shape, program, options.device, Path(folder), end))
            }
        print(
            f"\n{table(report, peak)}\n", flush=True
        )  # after every shape: the machine may go before the last
    if options.json:
        options.json.write_text(
            json.dumps({"device": name, "torch": torch.__version__, "shapes": report}, indent=1),
            encoding="utf-8",
        )
    return 0 if all(len(legs) == len(programs) for legs in report.values()) else 1


def prepare(shape: str, folder: Path) -> None:
    """A base model without weights, a run folder, and the same pairs as token ids for TRL."""
    from transformers import Qwen2Config

    Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=32768,
        architectures=["Qwen2ForCausalLM"],
        eos_token_id=0,
        pad_token_id=0,
    ).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    save_file(
        {"none": torch.zeros(1)}, folder / "model" / "model.safetensors"
    )  # legs.random_weights makes them
    write_snapshot(folder / "run" / "snapshot", *texts(TOKENS[shape], LONGEST[shape]))
    config = {
        "method": "bt",
        "base_model": str(folder / "model"),
        "tuning": TUNING[shape],
        "checkpoint_seconds": 86400,  # none is written within the time
    }
    (folder / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    snapshot = read_snapshot(folder / "run" / "snapshot")
    template = Template(tokenizer(), architecture="causal", ordinal=False, max_length=LONGEST[shape])
    rows = [list(row.ids) for row in template.encode(snapshot.responses)]
    place = snapshot.index
    pairs = [(place[row["response_a"]], place[row["response_b"]]) for row in snapshot.judgements]
    pq.write_table(pairs_of(rows, pairs), folder / "pairs.parquet")


def run(shape: str, program: str, device: str, folder: Path, end: float) -> dict[str, Any] | None:
    """One leg's figures, as far as it came in its time; None if it had none."""
    seconds, limit = SECONDS.get((shape, program), TINY)
    out, job = folder / f"{program}.json", folder / f"{program}-job.json"
    told = {"folder": str(folder), "device": device, "seconds": seconds, "out": str(out)}
    job.write_text(json.dumps(told), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "benchmarks.gpu", "--leg", program, str(job)]
    said, started = "", time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=max(1.0, min(limit, end - started)),
        )  # fmt: skip
        said = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = "its time was over"
    found: dict[str, Any] | None = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
    if said:
        print(f"{shape} {program} ended early: {said.strip()[-1500:]}", flush=True)
    if found:
        print(
            f"{shape} {program}: {found['judgements_per_second']:.1f} judgements/s, {found['tokens_per_second']:,.0f} "
            f"tokens/s in {found['steps']} steps; {time.monotonic() - started:.0f} s in all",
            flush=True,
        )
        if found.get("facts"):
            print(found["facts"], flush=True)
    return found


def table(report: dict[str, dict[str, dict[str, Any]]], peak: float | None) -> str:
    """The figures as Markdown, and below them the bars."""
    lines = [
        "| | step | judgements/s | tokens/s | model FLOPs used | peak memory (planned) | attention |",
        "|---|---|---|---|---|---|---|",
    ]
    bars = []
    for shape, legs in report.items():
        for program, found in legs.items():
            used = found["flops_per_second"] / peak if peak and found["flops_per_second"] else None
            memory = "-" if found["peak_memory"] is None else f"{found['peak_memory'] / 2**30:.1f} GiB"
            if found.get("memory"):
                memory += f" ({found['memory']['peak'] / 2**30:.1f})"
            lines.append(
                f"| {shape}, {TUNING[shape]}, {program} | {found['step']} | {found['judgements_per_second']:.1f} | "
                f"{found['tokens_per_second']:,.0f} | {'-' if used is None else f'{used:.1%}'} | {memory} | "
                f"{found['kernel']} |"
            )
            if program != "trl" and used is not None and shape in MFU_BAR:
                bar = MFU_BAR[shape]
                bars.append(
                    f"{shape} {program}: {used:.1%} of the FLOPs, bar {bar:.0%}: "
                    + ("reached" if used >= bar else "MISSED")
                )
        if {"ours", "trl"} <= set(legs):
            ratio = legs["ours"]["judgements_per_second"] / legs["trl"]["judgements_per_second"]
            bars.append(
                f"{shape}: {ratio:.1f} times TRL, bar {TRL_BAR}: {'reached' if ratio >= TRL_BAR else 'MISSED'}"
            )
    return "\n".join([*lines, "", *bars])


if __name__ == "__main__":
    sys.exit(main())
