"""How fast scoring is, as a share of the speed of the bare network.

    python -m benchmarks.score_throughput [--responses N] [--rounds N] [--threads N] [--clock wall|cpu]

Scoring is workers.rewards.score after the tokenizer: micro-batches, packing, backbone, head, rows of predictions.
The bare backbone is transformers' own forward on the same tokens without padding: batches of texts of one length, as
many tokens in each as a micro-batch of scoring has, or one text alone. Both orders
alternate within one process, and the best round of each counts. Models: MiniLM, and the starter's tiny Qwen2 on the
same texts; where responses share prompts, scoring computes fewer tokens than there are, and may pass 1.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.datasets import Rows, load_qa_feedback, load_ukp_strict
from workers.rewards.config import RunConfig
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.encode import MICRO_BATCH_TOKENS
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_encoded
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.starter import build_starter_lm

BAR = 0.90
CPU = torch.device("cpu")


def equal_batches(rows: Sequence[Encoded]) -> list[torch.Tensor]:
    """All rows as rectangles of one length each, nothing padded. list of [n, L]"""
    by_length: dict[int, list[Encoded]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    batches = []
    for length, members in sorted(by_length.items()):
        size = max(1, MICRO_BATCH_TOKENS["cpu"] // length)
        for start in range(0, len(members), size):
            batches.append(torch.tensor([row.ids for row in members[start : start + size]]))
    return batches


@torch.inference_mode()
def bare(backbone: Any, batches: Sequence[torch.Tensor]) -> None:
    """The forward alone; a causal model without its LM head and without a cache for generating."""
    causal = backbone.get_output_embeddings() is not None
    body = backbone.base_model if causal else backbone
    for ids in batches:
        body(input_ids=ids, **({"use_cache": False} if causal else {}))


def plain_backbone(path: str, kind: str) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM

    loader = AutoModelForCausalLM if kind == "causal" else AutoModel
    return loader.from_pretrained(path, use_safetensors=True, dtype=torch.float32).eval()


def measure(
    name: str, path: str, kind: str, data: Rows, *, responses: int, rounds: int, clock: Callable[[], float]
) -> float:
    """Prints one line; returns scoring's speed as a share of the bare forward."""
    backbone = load_backbone(name, path, kind)
    limit = 256 if kind == "encoder" else 1024
    template = Template(
        load_tokenizer(name, path),
        architecture=kind,
        ordinal=False,
        max_length=limit,
        pool_prompt=RunConfig().pool_prompt,
    )
    model = RewardModel(backbone, architecture=kind, kind="scalar").eval()
    some = data.responses[:responses]
    rows = template.encode([{"messages": [], **row} for row in some])
    tokens = sum(map(len, rows))
    batches = equal_batches(rows)
    plain = plain_backbone(path, kind)
    legs: dict[str, Callable[[], Any]] = {
        "scoring": lambda: score_encoded(model, template, some, rows, CPU),
        "bare": lambda: bare(plain, batches),
    }
    best = dict.fromkeys(legs, float("inf"))
    for number in range(rounds + 1):
        for leg in list(legs)[:: 1 if number % 2 else -1]:
            started = clock()
            legs[leg]()
            if number:  # the first round warms up
                best[leg] = min(best[leg], clock() - started)
    ratio = best["bare"] / best["scoring"]
    speeds = ", ".join(f"{leg} {tokens / seconds:.0f} tokens/s" for leg, seconds in best.items())
    print(
        f"{name}: {len(rows)} responses, {tokens} tokens: {speeds}; scoring at {ratio:.2f} of the bare forward, "
        f"bar {BAR} {'reached' if ratio >= BAR else 'MISSED'}",
        flush=True,
    )
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice if not given")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu on a busy machine")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.clock} time, "
        f"best of {options.rounds}"
    )
    ukp, qa = load_ukp_strict(), load_qa_feedback()
    shared = {"responses": options.responses, "rounds": options.rounds, "clock": clock}
    minilm = resolve_base_model(PACKAGED)
    with tempfile.TemporaryDirectory() as folder:
        starter = Path(folder) / "starter"
        build_starter_lm([*ukp.responses, *qa.responses[:500]], starter, epochs=1, seconds=5.0)
        ratios = [
            measure("MiniLM on UKP", minilm, "encoder", ukp, **shared),
            measure("MiniLM on qa_feedback", minilm, "encoder", qa, **shared),
            measure("starter Qwen2 on UKP", str(starter), "causal", ukp, **shared),
            measure("starter Qwen2 on qa_feedback", str(starter), "causal", qa, **shared),
        ]
    return 0 if min(ratios) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
