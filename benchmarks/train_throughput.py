"""Training speed beside TRL's RewardTrainer: same pairs, same token ids, same update, both in this run.

    python -m benchmarks.train_throughput [--quick] [--seconds N] [--repeats N] [--json FILE] [--accuracy]
        [--datasets ukp qa_feedback hh_rlhf] [--models minilm qwen2] [--trl-python PYTHON]

Every leg is a fresh process, and the order alternates: ours, TRL, TRL at its best, and back.  Ours is
workers.rewards.train on a run folder, ended by its own Stop; TRL's is benchmarks/trl_leg.py: as it comes, with 8
random pairs to a batch, and with the best of 8 and 16 pairs, random and grouped by length, tried beforehand for a
short while.  The bars hold against TRL as it comes, the ratio against its best stands beside; our memory may be no
higher than that of either.

Equal in both: the pairs (preferences only, since TRL knows no ties), the token ids (cut by our template, since TRL
drops a pair that is too long; the output counts what it would have dropped), judgements per optimiser step on
average, AdamW (0.9, 0.98) with the head at its own rate, a linear schedule over three epochs with a tenth of warm-up,
clipping at 1, no centring, no annotator reliability, no dropout, fp32, threads.  Different: ours draws its steps as
blocks of the pair graph, TRL pairs at random; ours reads the mean over tokens of an encoder, TRL BERT's pooler; ours
reads a causal model at the end marker, TRL one before it, since its padding is that token.

The first step (TRL: micro-batch) is left out of the time.  Memory is the process's resident high-water mark, imports
included.  Exit status 1 if a bar is missed, 2 if data or TRL is not to be had.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.datasets import Rows, load_hh_rlhf, load_qa_feedback, load_ukp_strict
from benchmarks.trl_leg import Enough, peak_memory
from workers.rewards.config import RunConfig
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.evaluation.metrics import clustered_mean
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.embeddings import cache_folder
from workers.rewards.models.load import backbone_kind, load_tokenizer
from workers.rewards.text.sections import Encoded, Template
from workers.rewards.training.batches import Blocks
from workers.rewards.training.progress import Stop
from workers.rewards.training.starter import build_starter_lm
from workers.rewards.training.step import given

ROOT = Path(__file__).resolve().parents[1]
TRL = "1.16.0"
LOADERS = {"ukp": load_ukp_strict, "qa_feedback": load_qa_feedback, "hh_rlhf": load_hh_rlhf}
TITLES = {"ukp": "UKPConvArg1 strict", "qa_feedback": "qa_feedback", "hh_rlhf": "hh_rlhf harmless"}
# judgements per second over TRL's; UKP's holds for the encoder, the others for both models
BARS = {("ukp", "minilm"): 12.0}
BARS |= {
    (data, model): bar
    for data, bar in (("qa_feedback", 3.0), ("hh_rlhf", 2.0))
    for model in ("minilm", "qwen2")
}
# All that MiniLM can read; for Qwen2 as much as the longest pair needs (at 1024 TRL would drop half of qa_feedback)
MAX_LENGTH = {"minilm": 512, "qwen2": 2048}
UPDATE = {"qa_feedback": 16, "hh_rlhf": 16}  # judgements per step; UKP takes what our default budget gives
EPOCHS = 3
CANDIDATES = [(8, "random"), (16, "random"), (8, "grouped"), (16, "grouped")]
QUICK = [("ukp", "minilm"), ("qa_feedback", "qwen2"), ("hh_rlhf", "qwen2")]
POINTS = 5


@dataclass
class Case:
    """One data set with one model, ready for both programs."""

    data: str
    model: str
    folder: Path  # snapshot/, pairs.parquet
    config: dict[str, Any]  # of our run
    trl: dict[str, Any]  # of TRL's job
    about: dict[str, Any]


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


class Bench:
    """The legs of one run of this benchmark, all below one folder."""

    def __init__(
        self, folder: Path, trl_python: str, threads: int, seconds: float, extra: dict[str, Any]
    ) -> None:
        self.folder, self.trl_python, self.threads = folder, trl_python, threads
        self.seconds, self.extra, self.legs = seconds, extra, 0

    # -- speed --

    def speed(self, loaded: dict[str, Rows], chosen: list[tuple[str, str]], repeats: int) -> dict[str, Any]:
        """All cases; prints as it goes.  Returns what --json writes."""
        paths = {}
        for model in dict.fromkeys(model for _, model in chosen):
            paths[model] = resolve_base_model(PACKAGED) if model == "minilm" else self.tiny_qwen2(loaded)
        cases, turn = [], 0
        for data, model in chosen:
            case = prepare(
                self.folder / f"{data}-{model}", data, model, paths[model], loaded[data], self.extra
            )
            rates = self.probe(case)
            batchings = {"trl": CANDIDATES[0]}
            size, order, _ = max(rates, key=lambda row: row[2])
            if (size, order) != CANDIDATES[0]:
                batchings["best"] = (size, order)
            legs: dict[str, list[dict[str, Any]]] = {side: [] for side in ("ours", *batchings)}
            for _ in range(repeats):
                for side in list(legs)[:: 1 if turn % 2 == 0 else -1]:
                    if side == "ours":
                        legs[side].append(self.ours(case))
                    else:
                        size, order = batchings[side]
                        legs[side].append(self.trl(case, self.seconds, per_device=size, sampling=order))
                turn += 1
            cases.append(compare(case, legs, rates))
            print(describe(cases[-1]), flush=True)
        reached = all(case["reached"] for case in cases)
        print("\n" + table(cases))
        return {"reached": reached, "machine": self.machine(), "cases": cases}

    def tiny_qwen2(self, loaded: dict[str, Rows]) -> str:
        """A Qwen2 of 256 x 4 with byte-level BPE over all texts; both programs start from these weights."""
        texts = [row for rows in loaded.values() for row in rows.responses]
        folder = self.folder / "qwen2"
        build_starter_lm(texts, folder, hidden_size=256, layers=4, vocabulary=4096, epochs=1, seconds=5.0)
        path = folder / "config.json"  # rotary positions: no weight depends on how many there are
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({**config, "max_position_embeddings": MAX_LENGTH["qwen2"]}), encoding="utf-8"
        )
        return str(folder)

    def probe(self, case: Case) -> list[tuple[int, str, float]]:
        """TRL's pairs per second with each batch size and order."""
        job = {"probe": True, "seconds": self.seconds / 5, "candidates": CANDIDATES}
        return [tuple(row) for row in self.run_trl(case, job)["rates"]]

    def ours(self, case: Case) -> dict[str, Any]:
        """Our leg: workers.rewards.train in a fresh process until the time is over."""
        self.legs += 1
        run_dir = self.folder / f"run-{self.legs}"
        shutil.copytree(case.folder / "snapshot", run_dir / "snapshot")
        (run_dir / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
        job = {"run_dir": str(run_dir), "seconds": self.seconds, "threads": self.threads}
        (run_dir / "job.json").write_text(json.dumps(job), encoding="utf-8")
        self.start([sys.executable, "-m", "benchmarks.train_throughput", "--leg", str(run_dir / "job.json")])
        result: dict[str, Any] = json.loads((run_dir / "leg.json").read_text(encoding="utf-8"))
        shutil.rmtree(run_dir)
        return result

    def trl(self, case: Case, seconds: float | None, **more: Any) -> dict[str, Any]:
        return self.run_trl(case, {"probe": False, "seconds": seconds, **more})

    def run_trl(self, case: Case, job: dict[str, Any]) -> dict[str, Any]:
        self.legs += 1
        work = self.folder / f"trl-{self.legs}"
        work.mkdir()
        places = {
            "pairs": str(case.folder / "pairs.parquet"),
            "work": str(work),
            "out": str(work / "out.json"),
        }
        whole = {"score": None, "threads": self.threads, "seed": 0, **case.trl, **job, **places}
        (work / "job.json").write_text(json.dumps(whole), encoding="utf-8")
        self.start([self.trl_python, "-m", "benchmarks.trl_leg", str(work / "job.json")])
        result: dict[str, Any] = json.loads((work / "out.json").read_text(encoding="utf-8"))
        shutil.rmtree(work)
        return result

    def start(self, command: list[str]) -> None:
        """Run a leg in a process of its own; its output is shown only if it fails."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")

    def machine(self) -> dict[str, Any]:
        return {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": self.threads,
            "torch": torch.__version__,
            "seconds": self.seconds,
        }

    # -- accuracy --

    def accuracy(self, pairs: int, epochs: int) -> dict[str, Any]:
        """Both trained on the same pairs of UKP, four debates (eight topics) held out.  Prints and returns figures.

        Two debates would be four topics, and a bootstrap over four clusters says little.
        """
        rows = load_ukp_strict()
        debates = rows.groups
        random.Random(0).shuffle(debates)
        held_out = debates[:4]
        group = {row["response_id"]: row["group"] for row in rows.responses}
        inside = [row for row in rows.judgements if group[row["response_a"]] in held_out]
        training = [row for row in rows.judgements if group[row["response_a"]] not in held_out]
        training = random.Random(0).sample(training, min(pairs, len(training)))
        path = resolve_base_model(PACKAGED)
        kept = Rows(rows.responses, training, [])
        case = prepare(self.folder / "accuracy", "ukp", "minilm", path, kept, self.extra, epochs=epochs)
        write_snapshot(case.folder / "snapshot", rows.responses, [*training, *inside], [])
        (case.folder / "config.json").write_text(
            json.dumps({**case.config, "holdout": 0.2, "held_out_groups": held_out}), encoding="utf-8"
        )
        started = time.monotonic()
        self.start([sys.executable, "-m", "workers.rewards.train", str(case.folder)])
        seconds = {"ours": time.monotonic() - started}
        predicted = pq.read_table(case.folder / "predictions.parquet").to_pylist()
        scores = {"ours": {row["response_id"]: row["score"] for row in predicted}}
        started = time.monotonic()
        responses = str(case.folder / "responses.parquet")
        result = self.trl(case, None, per_device=8, sampling="trainer", score=responses)
        seconds["trl"] = time.monotonic() - started
        names = [row["response_id"] for row in rows.responses]
        scores["trl"] = dict(zip(names, result["scores"], strict=True))

        topic = {row["response_id"]: row["prompt_id"] for row in rows.responses}
        topics = sorted(set(topic.values()))
        clusters = np.array([topics.index(topic[row["response_a"]]) for row in inside])
        right = {
            side: np.array(
                [
                    np.heaviside(
                        (values[row["response_a"]] - values[row["response_b"]])
                        * (1 if row["verdict"] == "a" else -1),
                        0.5,
                    )
                    for row in inside
                ]
            )
            for side, values in scores.items()
        }
        figures = {side: clustered_mean(values, clusters, seed=0) for side, values in right.items()}
        difference = clustered_mean(right["ours"] - right["trl"], clusters, seed=0)
        print(
            f"\nUKPConvArg1 strict, tuned MiniLM, {len(training)} training pairs, {epochs} epochs, "
            f"{case.about['update']:.0f} judgements a step; held out {len(inside)} pairs of {len(held_out)} debates"
        )
        for side, figure in figures.items():
            print(
                f"  {side:5} accuracy {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}], "
                f"{seconds[side]:.0f} s with start"
            )
        reached = difference["high"] >= 0
        print(
            f"  ours - TRL {difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}] "
            f"(topics drawn): {'not worse' if reached else 'WORSE'}"
        )
        return {
            "reached": reached,
            "machine": self.machine(),
            "accuracy": figures,
            "difference": difference,
            "seconds": seconds,
            "training_pairs": len(training),
            "epochs": epochs,
        }


def prepare(
    folder: Path,
    data: str,
    model: str,
    path: str,
    rows: Rows,
    extra: dict[str, Any],
    *,
    epochs: int = EPOCHS,
) -> Case:
    """Write the snapshot and the same pairs as token ids; choose the update.  Ties are left out."""
    judgements = [row for row in rows.judgements if row["verdict"] in ("a", "b")]
    write_snapshot(folder / "snapshot", rows.responses, judgements)
    responses = read_snapshot(folder / "snapshot").responses
    base = PACKAGED if model == "minilm" else path
    kind = backbone_kind(base, path)
    tokenizer = load_tokenizer(base, path)

    def encode(max_length: int) -> list[Encoded]:
        return Template(tokenizer, backbone=kind, ordinal=False, max_length=max_length).encode(responses)

    max_length = MAX_LENGTH[model]
    encoded = encode(max_length)
    whole = [len(row) for row in encode(10**6)]
    sizes = [len(row) for row in encoded]
    index = {row["response_id"]: number for number, row in enumerate(responses)}
    pairs = []
    for row in judgements:
        sides = (index[row["response_a"]], index[row["response_b"]])
        pairs.append(sides if row["verdict"] == "a" else sides[::-1])
    trained = sum(sizes[response] for response in {response for pair in pairs for response in pair})
    config = {
        "method": "bt",
        "base_model": base,
        "max_length": max_length,
        "holdout": 0.0,
        "centring": 0.0,
        "reliability": False,  # TRL knows no annotators; the loss is the plain pairwise mean in both
        "epochs": epochs,
        "checkpoint_seconds": 86400,
    }
    if data in UPDATE:
        config["token_budget"] = round(UPDATE[data] * trained / len(pairs))
    config |= extra
    filled = RunConfig.from_dict(config).resolved(kind, 256 if model == "qwen2" else 384).with_budget(trained)
    config["token_budget"] = budget = given(filled.token_budget)
    update = len(pairs) / len(Blocks(pairs, [], sizes, budget).epoch(0, 0))
    table = {
        "chosen_ids": [list(encoded[chosen].ids) for chosen, _ in pairs],
        "rejected_ids": [list(encoded[rejected].ids) for _, rejected in pairs],
    }
    ids = pa.list_(pa.int32())
    pq.write_table(
        pa.table(table, pa.schema([("chosen_ids", ids), ("rejected_ids", ids)])), folder / "pairs.parquet"
    )
    pq.write_table(
        pa.table({"ids": [list(row.ids) for row in encoded]}, pa.schema([("ids", ids)])),
        folder / "responses.parquet",
    )
    job = {
        "model": path,
        "max_length": max_length,
        "judgements": len(pairs),
        "update": update,
        "epochs": epochs,
        "learning_rate": filled.learning_rate,
        "head_learning_rate": filled.head_learning_rate,
        "weight_decay": filled.weight_decay,
        "warmup": filled.warmup,
        "clip_norm": filled.clip_norm,
    }
    about = {
        "pairs": len(pairs),
        "responses": len({response for pair in pairs for response in pair}),
        "ties_left_out": len(rows.judgements) - len(judgements),
        "max_length": max_length,
        "token_budget": budget,
        "update": update,
        "tokens_per_pair": sum(sizes[a] + sizes[b] for a, b in pairs) / len(pairs),
        "trl_would_drop": sum(max(whole[a], whole[b]) > max_length for a, b in pairs),
    }
    return Case(data, model, folder, config, job, about)


def our_leg(path: Path) -> int:
    """In the fresh process: workers.rewards.train on the run folder until the time is over."""
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    run_dir = Path(job["run_dir"])

    def enough(records: list[StepRecord]) -> bool:
        return len(records) > 1 and records[-1].end - records[0].end >= job["seconds"]

    records, peak = record_training(run_dir, enough)
    rows = [[r.end, r.judgements, r.pair_tokens, r.computed_tokens, r.loss] for r in records]
    (run_dir / "leg.json").write_text(json.dumps({"records": rows, "peak_memory": peak}), encoding="utf-8")
    return 0


@dataclass
class StepRecord:
    """One optimiser step of our training."""

    end: float  # seconds, monotonic
    judgements: int
    pair_tokens: int  # both texts of every judgement
    distinct_tokens: int  # every response once
    computed_tokens: int  # that went through the network: less with shared prompts, more with padding
    attended: float  # (query, key) positions of the distinct responses, each by itself
    attended_shared: float  # the same with every prompt computed once
    loss: float


def record_training(
    run_dir: Path, enough: Callable[[list[StepRecord]], bool]
) -> tuple[list[StepRecord], int]:
    """workers.rewards.train.train itself, noted from its own hooks and ended when `enough`; steps and peak bytes.

    The peak is the process's memory on a CPU, the allocator's on a GPU.
    """
    from workers.rewards.training import loop as trainer

    on_gpu = torch.cuda.is_available()
    records: list[StepRecord] = []
    computed = 0
    peak = 0

    def count(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal computed
        computed += arguments[0].numel()

    class Noted(trainer.StepLoss):
        def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(model, *args, **kwargs)
            model.backbone.get_input_embeddings().register_forward_hook(count)

        def __call__(self, step: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            nonlocal computed
            computed = 0
            loss = super().__call__(step, *args, **kwargs)
            judged = torch.tensor(step.judgements)
            sides = [*self.data.first[judged].tolist(), *self.data.second[judged].tolist()]
            rows = [self.rows[response] for response in step.responses]
            prompts = {row.ids[: row.start] for row in rows}
            own = [(row.start, len(row) - row.start) for row in rows]
            records.append(
                StepRecord(
                    end=0.0,
                    judgements=len(judged),
                    pair_tokens=sum(len(self.rows[response]) for response in sides),
                    distinct_tokens=sum(len(row) for row in rows),
                    computed_tokens=computed,
                    attended=sum(len(row) ** 2 for row in rows) / 2,
                    attended_shared=sum(len(prompt) ** 2 for prompt in prompts) / 2
                    + sum(more * (before + more / 2) for before, more in own),
                    loss=loss.item(),
                )
            )
            return loss

    class Until(Stop):
        """Asked after every optimiser step, before anything is saved: notes the time, ends the run when due."""

        @property
        def wanted(self) -> bool:
            nonlocal peak
            if records and not records[-1].end:
                if on_gpu:
                    torch.cuda.synchronize()
                records[-1].end = time.monotonic()
                peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
                if enough(records):
                    raise Enough
            return False

    trainer.StepLoss = Noted  # type: ignore[misc]
    try:
        trainer.train(run_dir, Until())
    except Enough:
        pass
    return records, peak


def compare(
    case: Case, legs: dict[str, list[dict[str, Any]]], rates: list[tuple[int, str, float]]
) -> dict[str, Any]:
    """Figures of a case: both programs over all their legs, loss curves, ratio and bar."""
    sides = {}
    for side, runs in legs.items():
        timed = [record for run in runs for record in run["records"][1:]]
        seconds = sum(run["records"][-1][0] - run["records"][0][0] for run in runs)
        judged, real, encoded = (sum(record[column] for record in timed) for column in (1, 2, 3))
        sides[side] = {
            "seconds": seconds,
            "judgements": judged,
            "judgements_per_second": judged / seconds,
            "pair_tokens_per_second": real / seconds,  # both texts of every judgement, no padding
            "encoded_tokens_per_second": encoded / seconds,  # through the network, padding included
            "peak_memory": max(run["peak_memory"] for run in runs),
        }
    seen = min(sum(record[1] for record in runs[0]["records"]) for runs in legs.values())
    counts = [round(seen * (point + 1) / POINTS) for point in range(POINTS)]
    for side, runs in legs.items():
        sides[side]["loss"] = curve(runs[0]["records"], counts)
    best = sides.get("best", sides["trl"])
    ours, trl, fastest = (side["judgements_per_second"] for side in (sides["ours"], sides["trl"], best))
    bar = BARS.get((case.data, case.model))
    lean = sides["ours"]["peak_memory"] <= min(sides["trl"]["peak_memory"], best["peak_memory"])
    return {
        "data": case.data,
        "model": case.model,
        **case.about,
        "trl_version": legs["trl"][0]["trl"],
        "trl_torch": legs["trl"][0]["torch"],
        "trl_update": legs["trl"][0]["update"],
        "trl_probes": rates,
        **sides,
        "loss_at": counts,
        "ratio": ours / trl,
        "ratio_to_best": ours / max(trl, fastest),
        "bar": bar,
        "no_more_memory": lean,
        "reached": (bar is None or ours / trl >= bar) and lean,
    }


def curve(records: Sequence[Sequence[float]], counts: Sequence[int]) -> list[float]:
    """Mean pairwise loss between one count of judgements and the next.

    A step's mean loss stands for each of its judgements, so a step across a boundary is split by its judgements.
    """
    points, edge, total, weight, seen = [], 0, 0.0, 0.0, 0.0
    for _, judged, _, _, loss in records:
        left = judged
        while left > 0 and edge < len(counts):
            taken = min(left, counts[edge] - seen)
            total, weight, seen, left = total + taken * loss, weight + taken, seen + taken, left - taken
            if seen >= counts[edge]:
                points.append(total / weight if weight else loss)
                edge, total, weight = edge + 1, 0.0, 0.0
    return points


def describe(case: dict[str, Any]) -> str:
    """A case in words and figures."""
    lines = [
        f"\n{TITLES[case['data']]}, {case['model']}: {case['pairs']} pairs of {case['responses']} responses "
        f"({case['ties_left_out']} ties left out), {case['tokens_per_pair']:.0f} tokens a pair, max_length "
        f"{case['max_length']}: TRL by itself would drop {case['trl_would_drop']} pairs",
        f"  update: ours {case['update']:.1f} judgements a step on average (token_budget {case['token_budget']}), "
        f"TRL {case['trl_update']}",
        f"  TRL {case['trl_version']} (torch {case['trl_torch']}), pairs/s tried: "
        + ", ".join(f"{size} {order} {rate:.1f}" for size, order, rate in case["trl_probes"])
        + "; no checkpointing, fp32, fused AdamW, dynamic padding",
    ]
    sides = [side for side in ("ours", "trl", "best") if side in case]
    for side in sides:
        figures = case[side]
        lines.append(
            f"  {side:5} {figures['judgements_per_second']:8.1f} judgements/s  "
            f"{figures['pair_tokens_per_second']:8.0f} real tokens/s  "
            f"{figures['encoded_tokens_per_second']:7.0f} encoded tokens/s  "
            f"{figures['peak_memory'] / 2**20:6.0f} MiB  {figures['judgements']:.0f} judgements in "
            f"{figures['seconds']:.0f} s"
        )
    for side in sides:
        points = ", ".join(f"{loss:.3f}" for loss in case[side]["loss"])
        lines.append(f"  {side:5} mean loss up to {case['loss_at']} judgements: {points}")
    return "\n".join(lines)


def table(cases: Sequence[dict[str, Any]]) -> str:
    lines = [
        "data                model    ours/s  TRL/s, at best   ratio  to best    bar   memory ours/TRL/at best"
    ]
    for case in cases:
        ours, trl, best = case["ours"], case["trl"], case.get("best", case["trl"])
        bar = f"{case['bar']:5.0f}x" if case["bar"] else "     -"
        lines.append(
            f"{TITLES[case['data']]:19} {case['model']:7} {ours['judgements_per_second']:7.1f}  "
            f"{trl['judgements_per_second']:5.1f}  {best['judgements_per_second']:7.1f}  {case['ratio']:5.1f}x "
            f"{case['ratio_to_best']:7.1f}x {bar}   "
            + "/".join(f"{side['peak_memory'] / 2**20:.0f}" for side in (ours, trl, best))
            + " MiB  "
            f"{'reached' if case['reached'] else 'MISSED' if case['no_more_memory'] else 'MISSED (memory)'}"
        )
    return "\n".join(lines)


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
