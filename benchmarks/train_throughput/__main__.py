"""Training speed beside TRL's RewardTrainer: same pairs, same token ids, same update, both in this run.

    python -m benchmarks.train_throughput [--quick] [--seconds N] [--repeats N] [--json FILE] [--accuracy]
        [--datasets ukp qa_feedback hh_rlhf] [--models minilm qwen2] [--trl-python PYTHON]

Every leg is a fresh process, and the order alternates: ours, TRL, TRL at its best, and back. Ours is
workers.rewards.train on a run folder, ended by its own Stop; TRL's is benchmarks/trl_leg.py: as it comes, with 8
random pairs to a batch, and with the best of 8 and 16 pairs, random and grouped by length, tried beforehand for a
short while. The bars hold against TRL as it comes, the ratio against its best stands beside; our memory may be no
higher than that of either.

Equal in both: the pairs (preferences only, since TRL knows no ties), the token ids (cut by our template, since TRL
drops a pair that is too long; the output counts what it would have dropped), judgements per optimiser step on
average, AdamW (0.9, 0.98) with the head at its own rate, a linear schedule over three epochs with a tenth of warm-up,
clipping at 1, no centring, no annotator reliability, no dropout, fp32, threads. Different: ours draws its steps as
blocks of the pair graph, TRL pairs at random; ours reads the mean over tokens of an encoder, TRL BERT's pooler.

The first step (TRL: micro-batch) is left out of the time. Memory is the process's resident high-water mark, imports
included. Exit status 1 if a bar is missed, 2 if data or TRL is not to be had.
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

import torch

from benchmarks.train_throughput.bench import Bench
from benchmarks.train_throughput.case import LOADERS, MAX_LENGTH
from benchmarks.train_throughput.recording import our_leg
from workers.rewards.models.embeddings import cache_folder

TRL = "1.16.0"
QUICK = [("ukp", "minilm"), ("qa_feedback", "qwen2"), ("hh_rlhf", "qwen2")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", choices=list(LOADERS), default=list(LOADERS))
    parser.add_argument("--models", nargs="+", choices=list(MAX_LENGTH), default=list(MAX_LENGTH))
    parser.add_argument("--seconds", type=float, default=60.0, help="time of a leg after its first step")
    parser.add_argument("--repeats", type=int, default=1, help="legs of each program per case")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="three cases, short legs: about three minutes")
    parser.add_argument("--accuracy", action="store_true", help="held-out accuracy of both instead of speed")
    parser.add_argument("--accuracy-pairs", type=int, default=1500, help="training pairs of --accuracy")
    parser.add_argument("--accuracy-epochs", type=int, default=2)
    parser.add_argument("--trl-python", type=Path, help="a Python that has TRL")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="of our config.json")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--leg", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.leg:
        return our_leg(options.leg)
    try:
        trl_python = str(options.trl_python or find_trl())
        loaded = {name: LOADERS[name]() for name in options.datasets}
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, load {os.getloadavg()[0]:.1f} "
        f"before; fp32 on the CPU, torch {torch.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Bench(Path(folder), trl_python, options.threads, options.seconds, extra)
        if options.accuracy:
            report = run.accuracy(options.accuracy_pairs, options.accuracy_epochs)
        else:
            chosen = [(data, model) for data in options.datasets for model in options.models]
            if options.quick:
                chosen = [pair for pair in QUICK if pair in chosen] or chosen
                run.seconds = min(options.seconds, 6.0)
            report = run.speed(loaded, chosen, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0 if report["reached"] else 1


def find_trl() -> str:
    """A Python with TRL: this one, else a virtual environment in the cache folder, made on first use."""
    if importlib.util.find_spec("trl") is not None:
        return sys.executable
    folder = cache_folder() / f"trl-{TRL}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing TRL {TRL} into {folder} (for this benchmark alone)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        version = "torch==" + torch.__version__.split("+")[0]
        index = "https://download.pytorch.org/whl/cpu"
        if subprocess.run(
            [*pip, "--no-deps", "--index-url", index, version], stderr=subprocess.DEVNULL
        ).returncode:
            subprocess.run([*pip, version], check=True)
        subprocess.run([*pip, f"trl=={TRL}"], check=True)
        (folder / "ready").touch()
    return str(python)


if __name__ == "__main__":
    sys.exit(main())
