"""Trains a run folder in child processes that kill themselves with signal 9.

`python -m tests.rewards.training.killed DIR SEED`

Forking after the imports makes a child cheap, so many moments fit into a test. A child dies at one of its writes to
disk (half of a file written; written, but not yet renamed; just renamed) or at a random time. The last child is left
alone. Prints the kinds of deaths as a JSON list.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from workers.rewards import files
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.training import loop as train

DEATHS = ("half written", "not renamed", "renamed", "any time")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doomed(death: str, after: int, draw: random.Random) -> None:
    """Arrange this process's end: at the `after`-th checkpoint, or within a second."""
    count = 0
    save_file, fsync = files.save_file, files.fsync

    def saving(tensors: Any, path: Path, *given: Any) -> None:
        nonlocal count
        count += 1
        save_file(tensors, path, *given)
        if death == "half written" and count == after:
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            die()

    def flushing(path: Path) -> None:
        fsync(path)
        if count == after and death == ("renamed" if path.is_dir() else "not renamed"):
            die()

    if death == "any time":
        seconds = draw.uniform(0.0, 1.0)
        threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()
    files.save_file, files.fsync = saving, flushing  # type: ignore[assignment]


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    # transformers imports its parts when they are first needed: here, once, rather than in every child
    base_model = json.loads((folder / "config.json").read_text())["base_model"]
    load_backbone(base_model, base_model, "encoder")
    load_tokenizer(base_model, base_model)
    draw = random.Random(seed)
    deaths = []
    for death in [*DEATHS, DEATHS[-1], None]:
        child = os.fork()
        if child == 0:
            if death is not None:
                doomed(death, draw.randint(1, 4), draw)
            train.train(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and death is not None:
            deaths.append(death)
            draw.random()  # the next child dies at another time
        elif status != 0:
            sys.exit(f"a child ended with {status}")
        else:
            break
    print(json.dumps(deaths))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
