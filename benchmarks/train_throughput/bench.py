"""The legs, each in a fresh process: speed in turns, or accuracy on held-out debates."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.datasets import Rows, load_ukp_strict
from benchmarks.train_throughput.case import MAX_LENGTH, Case, prepare
from benchmarks.train_throughput.report import compare, describe, table
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.evaluation.metrics import clustered_mean
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.training.starter import build_starter_lm

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = [(8, "random"), (16, "random"), (8, "grouped"), (16, "grouped")]


class Bench:
    """The legs of one run of this benchmark, all below one folder."""

    def __init__(
        self, folder: Path, trl_python: str, threads: int, seconds: float, extra: dict[str, Any]
    ) -> None:
        self.folder, self.trl_python, self.threads = folder, trl_python, threads
        self.seconds, self.extra, self.legs = seconds, extra, 0

    # --- Speed ---

    def speed(self, loaded: dict[str, Rows], chosen: list[tuple[str, str]], repeats: int) -> dict[str, Any]:
        """All cases; prints as it goes. Returns what --json writes."""
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

    # --- Accuracy ---

    def accuracy(self, pairs: int, epochs: int) -> dict[str, Any]:
        """Both trained on the same pairs of UKP, four debates (eight topics) held out. Prints and returns figures.

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
