"""Training runs of a benchmark ("cells"). Each is done once and kept under its data, configuration and code.

A cell is an ordinary run folder, trained by workers.rewards.train.train and then reduced to what the tables need: its
metrics.json and the held-out pairs and labels as arrays. An interrupted benchmark goes on where it stopped, and
a run that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.datasets import Rows
from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.snapshot import write_snapshot
from workers.rewards.evaluation import metrics
from workers.rewards.evaluation.calibrate import calibrate
from workers.rewards.models import preference
from workers.rewards.models.calibration import Calibration
from workers.rewards.training.loop import train
from workers.rewards.training.starter import build_starter_lm

Floats = NDArray[np.float64]
FOLDS = 5  # of the held-out groups, for calibration
CUT_SHARES = (1.0, 0.2, 0.05)
STARTER = "starter"  # stands for a starter model built from the cell's own texts
LOADERS: dict[str, Callable[..., Rows]] = {
    "ukp_strict": datasets.load_ukp_strict,
    "ukp_votes": datasets.load_ukp_votes,
    "pl_humor": datasets.load_pl_humor,
    "qa_feedback": datasets.load_qa_feedback,
    "hh_rlhf": datasets.load_hh_rlhf,
    "mlqe": datasets.load_mlqe,
    "pandalm": datasets.load_pandalm,
    "autoj": datasets.load_autoj,
    "demonstration": datasets.load_demonstration,
}
CHANGES: dict[str, Callable[..., Rows]] = {
    "flip": datasets.flip_verdicts,
    "spammers": datasets.add_spammers,
    "votes": datasets.vote_inside,
    "levels": datasets.keep_levels,
    "pairs": datasets.keep_pairs,
    "both_bad": datasets.call_both_bad,
}


@dataclass(frozen=True)
class Cell:
    """One run: `data` is {"load": name, "change": {name: share, ...}, loader arguments...}, `config` that of the run.

    A change touches training groups alone; its draw depends on the run's seed.
    """

    data: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def key(self) -> str:
        described = json.dumps([self.data, self.config, code_digest()], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:24]

    @property
    def missing(self) -> list[str]:
        """Configuration keys that this version of workers.rewards does not know."""
        known = {field.name for field in dataclasses.fields(RunConfig)}
        return [name for name in self.config if name not in known]

    def rows(self) -> Rows:
        arguments = {name: value for name, value in self.data.items() if name not in ("load", "change")}
        rows = load(self.data["load"], **arguments)
        held_out = frozenset(self.config["held_out_groups"])
        for name, share in self.data.get("change", {}).items():
            rows = CHANGES[name](rows, held_out, share, seed=self.config["seed"])
        return rows


@cache
def load(name: str, **arguments: Any) -> Rows:
    """A data set, read once per process; nobody changes its rows in place."""
    return LOADERS[name](**arguments)


@cache
def code_digest() -> str:
    """What the reward models' code says, whatever its comments: results of other code are not reused."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted([*(root / "workers" / "rewards").rglob("*.py"), root / "benchmarks" / "datasets.py"]):
        digest.update(path.name.encode() + ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()


# --- What is kept of a run ---


@dataclass
class Measured:
    """A run's held-out pairs [P] and level labels [L].

    first, second: response ids. cluster: group. share: of the votes for `first`, a tie half. wins, losses, ties:
    votes. preferred, p_tie: P(first preferred) and P(tie), calibrated on the pairs of other groups. difference: of
    the rewards. longer: characters that `first` has more. level_*: label 0..2, its group, masses of the three levels
    [L, 3] by the model's own distribution or cut points (NaN without), and [S, L, 3] by cut points on the reward,
    fitted on the labels of each of CUT_SHARES of the levelled training responses. Rewards and masses are as trained:
    calibration on held-out levels would give labels away.
    """

    first: NDArray[np.str_]
    second: NDArray[np.str_]
    cluster: NDArray[np.str_]
    share: Floats
    wins: Floats
    losses: Floats
    ties: Floats
    preferred: Floats
    p_tie: Floats
    difference: Floats
    longer: Floats
    level: NDArray[np.int64]
    level_cluster: NDArray[np.str_]
    level_own: Floats
    level_cut: Floats
    metrics: dict[str, Any]

    @property
    def votes(self) -> Floats:
        """Decisive votes of each pair."""
        return self.wins + self.losses

    @property
    def right(self) -> Floats:
        """Decisive votes that the model orders as the person did; equal rewards count half."""
        return _ordered(self.wins, self.losses, self.difference)

    @property
    def right_by_length(self) -> Floats:
        return _ordered(self.wins, self.losses, self.longer)

    @property
    def near(self) -> NDArray[np.bool_]:
        return np.abs(self.longer) < metrics.NEAR_EQUAL_LENGTH

    @property
    def nll(self) -> Floats:
        p = np.clip(self.preferred, metrics.SMALLEST_P, 1 - metrics.SMALLEST_P)
        return -self.share * np.log(p) - (1 - self.share) * np.log1p(-p)

    @property
    def brier(self) -> Floats:
        return self.share * (1 - self.preferred) ** 2 + (1 - self.share) * self.preferred**2

    def rps(self, masses: Floats) -> Floats:
        """Ranked probability score of each label. [L, 3] -> [L]"""
        reached = (self.level[:, None] <= np.arange(2)).astype(np.float64)
        return np.sum((np.cumsum(masses, axis=1)[:, :2] - reached) ** 2, axis=1) / 2


def _ordered(wins: Floats, losses: Floats, difference: Floats) -> Floats:
    sign = np.sign(difference)
    return wins * (0.5 + 0.5 * sign) + losses * (0.5 - 0.5 * sign)


def measure(run_dir: Path, rows: Rows, held_out: frozenset[str], seed: int) -> dict[str, NDArray[Any]]:
    """The arrays of Measured from a finished run folder."""
    reward = json.loads((run_dir / "model" / "reward_config.json").read_text(encoding="utf-8"))
    table = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    score = {row["response_id"]: float(row["score"]) for row in table}
    ratings: dict[str, Floats] | None = None
    if reward["kind"] == "ordinal":
        served = Calibration.from_json(reward["calibration"])
        p = uncalibrated(np.array([row["p"] for row in table], dtype=np.float64), served)
        ratings = {row["response_id"]: one for row, one in zip(table, p, strict=True)}
        score = {name: float(one @ np.arange(1, metrics.RATINGS + 1)) for name, one in ratings.items()}
    responses = {row["response_id"]: row for row in rows.responses}
    outside = {name for name, row in responses.items() if row["group"] in held_out}
    judgements = [
        {"annotator": "", **row}
        for row in rows.judgements
        if row["response_a"] in outside and row["response_b"] in outside
    ]
    pairs = metrics.pair_votes(judgements)
    first = [pairs.ids[number] for number in pairs.first]
    second = [pairs.ids[number] for number in pairs.second]
    # a pair across two groups belongs to the one whose name sorts first, as in evaluate.py
    cluster = np.array(
        [min(responses[a]["group"], responses[b]["group"]) for a, b in zip(first, second, strict=True)],
        dtype=np.str_,
    )
    preferred, p_tie = _cross_fitted(
        [responses[name] for name in sorted(outside)],
        judgements,
        first,
        second,
        cluster,
        score,
        ratings,
        reward,
    )

    def votes(value: float) -> Floats:
        return np.bincount(pairs.pair_of[pairs.vote == value], minlength=len(first)).astype(np.float64)

    def gap(value: Callable[[str], float]) -> Floats:
        return np.array([value(a) - value(b) for a, b in zip(first, second, strict=True)], dtype=np.float64)

    held_levels = [row for row in rows.levels if row["response_id"] in outside]
    own = np.full((len(held_levels), 3), np.nan)
    cut = np.full((len(CUT_SHARES), len(held_levels), 3), np.nan)
    if held_levels:
        if ratings is not None:
            own = metrics.level_masses(
                [ratings[row["response_id"]] for row in held_levels], reward["partition"]
            )
        elif reward["level_cuts"] is not None:
            own = preference.cut_masses(
                [score[row["response_id"]] for row in held_levels], reward["level_cuts"]
            )
        held_scores = np.array([score[row["response_id"]] for row in held_levels])
        for place, share in enumerate(CUT_SHARES):
            kept = datasets.keep_levels(rows, held_out, share, seed=seed).levels
            labels = [row for row in kept if row["response_id"] not in outside]
            if labels:
                points = fit_cut_points(
                    np.array([score[row["response_id"]] for row in labels]),
                    np.array([metrics.LEVELS.index(row["level"]) for row in labels]),
                )
                cut[place] = cut_point_masses(held_scores, points)
    return {
        "first": np.array(first, dtype=np.str_),
        "second": np.array(second, dtype=np.str_),
        "cluster": cluster,
        "share": pairs.share,
        "wins": votes(1.0),
        "losses": votes(0.0),
        "ties": votes(0.5),
        "preferred": preferred,
        "p_tie": p_tie,
        "difference": gap(lambda name: score[name]),
        "longer": gap(lambda name: len(responses[name]["text"])),
        "level": np.array([metrics.LEVELS.index(row["level"]) for row in held_levels], dtype=np.int64),
        "level_cluster": np.array(
            [responses[row["response_id"]]["group"] for row in held_levels], dtype=np.str_
        ),
        "level_own": own,
        "level_cut": cut,
    }


def uncalibrated(p: Floats, calibration: Calibration) -> Floats:
    """The rating distributions that `calibration.ratings` turned into these: the beta map, undone by bisection."""
    if calibration.method != "beta_cdf":
        return p
    a, b, c = (calibration.parameters[name] for name in ("a", "b", "c"))
    # both tails are summed from their own end, where they keep their digits
    below = np.maximum(np.cumsum(p, axis=1)[:, :-1], 1e-300)
    above = np.maximum(np.cumsum(p[:, ::-1], axis=1)[:, ::-1][:, 1:], 1e-300)
    wanted = np.log(below) - np.log(above) - c  # = a log F - b log(1 - F), rising in logit F
    low, high = np.full_like(wanted, -200.0), np.full_like(wanted, 200.0)
    for _ in range(60):
        middle = (low + high) / 2
        rises = b * np.logaddexp(0.0, middle) - a * np.logaddexp(0.0, -middle) < wanted
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    reached = preference.sigmoid((low + high) / 2)
    return np.maximum(np.diff(reached, axis=1, prepend=0.0, append=1.0), 0.0)


def _cross_fitted(
    responses: Sequence[metrics.Row],
    judgements: Sequence[metrics.Row],
    first: Sequence[str],
    second: Sequence[str],
    cluster: NDArray[np.str_],
    score: dict[str, float],
    ratings: dict[str, Floats] | None,
    reward: dict[str, Any],
) -> tuple[Floats, Floats]:
    """P(first preferred) and P(tie) of held-out pairs, each calibrated on the pairs of other groups. 2 x [P]"""
    preferred, p_tie = np.zeros(len(first)), np.zeros(len(first))
    groups = sorted({row["group"] for row in responses})
    group_of = {row["response_id"]: row["group"] for row in responses}
    for fold in range(min(FOLDS, len(groups))):
        left_out = frozenset(groups[fold::FOLDS])
        members = np.isin(cluster, sorted(left_out))
        if not members.any():
            continue
        calibration, _, _ = calibrate(
            responses=[row for row in responses if row["group"] not in left_out],
            judgements=[
                row
                for row in judgements
                if not left_out & {group_of[row["response_a"]], group_of[row["response_b"]]}
            ],
            levels=[],
            scores=score,
            probs=None if ratings is None else {name: p.tolist() for name, p in ratings.items()},
            kind=reward["kind"],
            tie=reward["tie"],
            partition=tuple(reward["partition"]),
            seed=0,
        )
        chosen = np.flatnonzero(members).tolist()
        if ratings is None:
            wins, _, ties = preference.scalar_probabilities(
                np.array([score[first[n]] - score[second[n]] for n in chosen]),
                tie=calibration.tie(reward["tie"]),
                temperature=calibration.temperature,
            )
        else:
            wins, _, ties = preference.ordinal_probabilities(
                calibration.ratings([ratings[first[n]] for n in chosen]),
                calibration.ratings([ratings[second[n]] for n in chosen]),
            )
        preferred[members], p_tie[members] = wins + ties / 2, ties
    return preferred, p_tie


def fit_cut_points(reward: Floats, level: NDArray[np.int64]) -> tuple[float, float, float]:
    """Ordinal logistic regression (McCullagh 1980) of levels [L] on rewards [L]: P(level <= k) = sigmoid(c_k - w r).

    Returns c_0 <= c_1 and w of greatest likelihood, by Newton-like steps in float64; w is held within the reach of
    a reward that orders the labels perfectly.
    """
    centre, scale = reward.mean(), reward.std() or 1.0
    r = torch.tensor((reward - centre) / scale, dtype=torch.float64)
    labels = torch.tensor(level)
    below = [(float(np.mean(level <= k)) + 1e-3) / (1 + 2e-3) for k in range(2)]
    start = [float(np.log(share / (1 - share))) for share in below]
    raw = torch.tensor(
        [start[0], np.log(max(start[1] - start[0], 1e-3)), 1.0], dtype=torch.float64, requires_grad=True
    )
    optimizer = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        cuts = torch.stack([raw[0], raw[0] + raw[1].exp()])
        reached = torch.sigmoid(cuts - (raw[2] * r).unsqueeze(1))  # [L, 2]
        masses = torch.diff(reached, dim=1, prepend=torch.zeros(len(r), 1), append=torch.ones(len(r), 1))
        value = -masses.gather(1, labels.unsqueeze(1)).clamp_min(1e-12).log().mean() + 1e-6 * raw[2] ** 2
        value.backward()
        return value

    optimizer.step(loss)
    low, gap, slope = raw.detach().tolist()
    weight = slope / scale
    return low + weight * centre, low + float(np.exp(gap)) + weight * centre, weight


def cut_point_masses(reward: Floats, points: tuple[float, float, float]) -> Floats:
    """P(bad), P(normal), P(good) by cut points. [L] -> [L, 3]"""
    reached = preference.sigmoid(np.array(points[:2]) - points[2] * reward[:, None])  # [L, 2]
    return np.diff(reached, axis=1, prepend=0.0, append=1.0)


# --- Running ---


def run_cell(cell: Cell, folder: Path) -> float:
    """Train and reduce a cell unless that is done; returns the seconds spent now."""
    kept = folder / cell.key
    if (kept / "metrics.json").is_file():
        return 0.0
    started = time.monotonic()
    work = folder / f"{cell.key}.run"
    rows = cell.rows()
    if not (work / "config.json").is_file():
        write_snapshot(work / "snapshot", *rows)
        config = dict(cell.config)
        if config.get("base_model") == STARTER:
            config["base_model"] = str(starter(cell, folder))
        (work / "config.json").write_text(json.dumps(config), encoding="utf-8")
    metrics = train(work)
    arrays = measure(work, rows, frozenset(cell.config["held_out_groups"]), cell.config["seed"])
    kept.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(kept / "arrays.npz", allow_pickle=False, **arrays)
    (kept / "cell.json").write_text(json.dumps([cell.data, cell.config]), encoding="utf-8")
    (kept / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")  # last: says that all is there
    shutil.rmtree(work)
    return time.monotonic() - started


def starter(cell: Cell, folder: Path) -> Path:
    """A starter model of the cell's texts, built once.

    From all texts, held-out ones too, as in a project, where no label is looked at.
    """
    name = hashlib.sha256(json.dumps([cell.data["load"], code_digest()]).encode()).hexdigest()[:16]
    path = folder / f"starter-{name}"
    if not path.is_dir():
        beside = folder / f"starter-{name}.{os.getpid()}"
        # no cap in seconds: the model must not depend on how busy the machine is
        build_starter_lm(load(cell.data["load"]).responses, beside, seconds=1e9)
        try:
            beside.rename(path)
        except OSError:  # another process was faster, with the same model
            shutil.rmtree(beside)
    return path


def load_cell(cell: Cell, folder: Path) -> Measured:
    """A finished cell. Raises FileNotFoundError if it is not there."""
    kept = folder / cell.key
    metrics = json.loads((kept / "metrics.json").read_text(encoding="utf-8"))
    with np.load(kept / "arrays.npz", allow_pickle=False) as arrays:
        names = {field.name for field in dataclasses.fields(Measured)} - {"metrics"}
        return Measured(**{name: arrays[name] for name in names}, metrics=metrics)


def run_cells(cells: Iterable[Cell], folder: Path, processes: int) -> dict[str, str]:
    """Run what is not there yet, one thread per process; returns the reason of each cell that failed, by key.

    Two processes of one thread finish more small steps than one of two. Of frozen cells with the same texts one goes
    ahead, so that the embeddings are there for the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CALIPER_CACHE_DIR", str(folder / "embeddings"))
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    wanted = {cell.key: cell for cell in cells if not (folder / cell.key / "metrics.json").is_file()}
    ahead: dict[str, Cell] = {}
    for cell in wanted.values():
        arguments = {name: value for name, value in cell.data.items() if name != "change"}
        shared = cell.config.get("tuning") == "frozen" or cell.config.get("base_model") == STARTER
        ahead.setdefault(json.dumps(arguments, sort_keys=True) if shared else cell.key, cell)
    first = list(ahead.values())
    leading = {cell.key for cell in first}
    failed: dict[str, str] = {}
    done = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        for batch in (first, [cell for cell in wanted.values() if cell.key not in leading]):
            # the longest first, so that the end is not one process waiting for the other
            order = sorted(batch, key=lambda cell: cell.config.get("tuning") == "frozen")
            futures = {pool.submit(run_cell, cell, folder): cell for cell in order}
            for future in as_completed(futures):
                cell = futures[future]
                done += 1
                try:
                    said = f"{future.result():.0f} s"
                except (Refused, RuntimeError, ValueError) as error:
                    failed[cell.key] = said = f"{type(error).__name__}: {error}"
                short = {name: value for name, value in cell.config.items() if name != "held_out_groups"}
                print(f"[{done}/{len(wanted)}] {cell.data} {short}: {said}", file=sys.stderr, flush=True)
    return failed


def _one_thread() -> None:
    torch.set_num_threads(1)


# --- Estimates ---


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over clusters; low and high are None where there is but one cluster."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def ratio(numerator: Floats, denominator: Floats, cluster: Sequence[str] | NDArray[np.str_]) -> Estimate:
    """sum(numerator) / sum(denominator) with a percentile bootstrap that draws whole clusters. [N] x 3"""
    _, number = np.unique(np.asarray(cluster), return_inverse=True)
    top = np.bincount(number, weights=numerator)
    bottom = np.bincount(number, weights=denominator)
    total = float(denominator.sum())
    low = high = None
    if len(top) > 1:
        drawn = np.random.default_rng(0).integers(0, len(top), size=(2000, len(top)))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
        low, high = (float(edge) for edge in np.nanquantile(means, [0.025, 0.975]))
    return Estimate(float(numerator.sum()) / total if total else float("nan"), low, high, round(total))
