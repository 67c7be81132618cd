"""What a judge's votes cost and give: a curve by number of votes beside oprm's, and samples a second on a GPU.

    python -m benchmarks.generative [--samples 32] [--prompts 200]      # a CPU: minutes
    python -m benchmarks.generative --shape 0.5b 7b                     # a GPU: under a minute each

Without --shape a language model of under a million weights that knows the judge's form, which as often as not prefers
the wrong response, learns by rejective fine-tuning (method grm, stages rft), and the same base by oprm, on the same
judgements. With --shape real shapes with random weights in bf16 write 300 tokens for each of 8 samples of 16 prompts of
700 tokens, by transformers and by vLLM where that is there. No network and no data.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.shapes import SHAPES, tokenizer
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.generative.sampling import Chat, TransformersSampler, VLLMSampler
from workers.rewards.train import main as train

PROMPTS, SAMPLES, READ, WRITTEN = 16, 8, 700, 300


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}\n", flush=True)
    if options.shape is None:
        return votes(options.prompts, options.samples)
    print("| shape | by | samples/s | tokens written/s | peak memory |\n|---|---|---|---|---|", flush=True)
    for shape in options.shape:
        for by, found in speed(shape, device):
            print(f"| {shape} | {by} | {found} |", flush=True)
    return 0


# --- Votes ---


def votes(prompts: int, samples: int) -> int:
    """Train grm and oprm on one base, and print both as a table."""
    from tests.rewards.generative.tiny import form_model, task

    torch.set_num_threads(1)
    lines = ["| method | held-out accuracy | s a response | training and scoring, s |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        base = form_model(Path(folder) / "form")
        for method, more in (
            ("grm", {"stages": "rft", "samples": samples, "max_new_tokens": 64}),
            ("oprm", {}),
        ):
            run_dir = Path(folder) / method
            write_snapshot(run_dir / "snapshot", *task(prompts))
            config = {
                "method": method, "base_model": str(base), "tuning": "tuned", "epochs": 3, "holdout": 0.25, **more
            }  # fmt: skip
            (run_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
            started = time.monotonic()
            if train([str(run_dir)]):
                return 1
            seconds = time.monotonic() - started
            metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
            took = spent(run_dir, "scoring") / (2 * prompts)
            if method == "oprm":
                value = metrics["held_out"]["accuracy"]
                lines.append(f"| oprm | {interval(value)} | {took:.4f} | {seconds:.0f} |")
                continue
            for point in metrics["generative"]["curve"]:
                part = took * point["samples"] / samples
                lines.append(
                    f"| grm, {point['samples']} votes | {interval(point['votes'])} | {part:.4f} | {seconds:.0f} |"
                )
    print("\n".join(lines))
    return 0


def interval(found: dict[str, Any]) -> str:
    """A figure with its interval."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def spent(run_dir: Path, phase: str) -> float:
    """Seconds between a phase's first line of progress and the next phase's."""
    lines = [json.loads(line) for line in (run_dir / "progress.jsonl").read_text().splitlines()]
    begun = next(number for number, line in enumerate(lines) if line["phase"] == phase)
    ended = next((line for line in lines[begun:] if line["phase"] != phase), lines[-1])
    first, last = (datetime.fromisoformat(line["time"]) for line in (lines[begun], ended))
    return (last - first).total_seconds()


# --- Speed ---


def speed(shape: str, device: torch.device) -> list[tuple[str, str]]:
    """Samples a second of random weights, by each sampler that is here."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(**SHAPES[shape], max_position_embeddings=32768)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    vocabulary = config.vocab_size
    prompts = torch.randint(1, min(vocabulary, 4000), (PROMPTS, READ)).tolist()
    chats = [
        Chat((), tuple(prompt), 1000 * number + sample)
        for number, prompt in enumerate(prompts)
        for sample in range(SAMPLES)
    ]
    found = [
        ("transformers", timed(TransformersSampler(model, tokenizer(), device, stop_ids=()), chats, device))
    ]
    if device.type == "cuda" and importlib.util.find_spec("vllm") is not None:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            torch.cuda.empty_cache()
            engine = VLLMSampler(folder, tokenizer(), stop_ids=(), max_length=READ + WRITTEN)
            found.append(("vLLM", timed(engine, chats, device)))
    return found


def timed(sampler: Any, chats: list[Chat], device: torch.device) -> str:
    """The cells of one sampler, after a warm-up on its first chats."""

    def run(some: list[Chat], written: int) -> float:
        started = time.monotonic()
        sampler.sample(some, temperature=0.5, max_new_tokens=written, progress=lambda number, result: None)
        return time.monotonic() - started

    run(chats[:SAMPLES], 8)
    before = sampler.usage.tokens_out
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = run(chats, WRITTEN)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else "-"
    return f"{len(chats) / seconds:.2f} | {(sampler.usage.tokens_out - before) / seconds:,.0f} | {memory}"


if __name__ == "__main__":
    sys.exit(main())
