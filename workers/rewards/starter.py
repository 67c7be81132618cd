"""Make a tiny causal language model from texts: `python -m workers.rewards.starter TEXTS_JSONL OUT_DIR`.

TEXTS_JSONL has a line {"text": ..., "messages": [{"role", "content"}, ...]} per response, messages optional.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .config import Refused
from .data.responses import BadInput, read_responses
from .training.starter import build_starter_lm


def main(arguments: Sequence[str]) -> int:
    """The command; exit status 0 built, 2 unreadable texts."""
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.starter", description=__doc__)
    parser.add_argument("texts", type=Path, metavar="TEXTS_JSONL")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seconds", type=float, default=30.0, help="time cap of the training (default 30)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        texts, refused = read_responses(options.texts)
        for refusal in refused:
            print(f"left out: {refusal}", file=sys.stderr)
        report = build_starter_lm(
            texts,
            options.out,
            seconds=options.seconds,
            epochs=options.epochs,
            seed=options.seed,
        )
    except (BadInput, Refused) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: {report['parameters'] / 1e6:.1f} million weights, {report['steps']:.0f} steps in "
        f"{report['seconds']:.0f} s, loss {report['loss']:.2f} nats a token; a starter, not a good model"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
