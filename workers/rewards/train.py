"""Train one reward model in a run folder: `python -m workers.rewards.train RUN_DIR`.

Reads config.json and snapshot/; writes progress.jsonl, checkpoint/, model/, predictions.parquet, metrics.json.
Exit status 0 done, 2 refused, 1 crashed (both with error.json), 143 stopped with a checkpoint written; starting it
again in the same folder goes on from there. The steps stand in the order in which they run.

On several GPUs: `accelerate launch --multi_gpu --module workers.rewards.train RUN_DIR` (see distributed.py).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from .config import GENERATIVE_METHODS, Refused, RunConfig
from .files import write_text
from .training.loop import train
from .training.progress import Stop, Stopped

STOPPED_EXIT = 143


def main(arguments: Sequence[str]) -> int:
    """The command: train RUN_DIR; see the module's docstring for the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m workers.rewards.train RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0])
    if not run_dir.is_dir():
        print(f"refused: {run_dir} is not a folder", file=sys.stderr)
        return 2
    try:
        stop = Stop.listening()
        if RunConfig.read(run_dir / "config.json").method in GENERATIVE_METHODS:
            from .generative.run import generate  # transformers' trainer takes seconds to import

            generate(run_dir, stop)
        else:
            train(run_dir, stop)
    except Refused as error:
        _fail(run_dir, "refused", str(error))
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except Stopped:
        print("stopped; start again to resume", file=sys.stderr)
        return STOPPED_EXIT
    except Exception as error:
        traceback.print_exc()
        _fail(run_dir, "crashed", _readable(error))
        return 1
    return 0


def _readable(error: Exception) -> str:
    line = " ".join(str(error).split())[:300]
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in line:
        return (
            "out of memory; lower micro_batch_tokens, token_budget or max_length, set gradient_checkpointing to true, "
            f"or use tuning lora or qlora ({line[:120]})"
        )
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _fail(run_dir: Path, error_type: str, message: str) -> None:
    if (run_dir / "error.json").exists():
        return  # of several processes the first to fail knows why
    try:
        write_text(
            run_dir / "error.json", json.dumps({"kind": error_type, "message": message}, ensure_ascii=False)
        )
    except OSError as error:
        print(f"error.json can't be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not waiting for library threads: the status must not depend on their teardown
