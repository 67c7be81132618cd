"""Off-the-shelf classifiers as reward models: the order-consistent objective (clf) without our heads.

    python -m benchmarks.classifiers [--seeds 0 1 2] [--noise 0 0.1 0.2 0.3 0.4]

arXiv 2411.04991 says that any classifier that tells preferred from rejected responses also ranks them: its logit is the
reward. This tries scikit-learn's logistic regression and histogram gradient boosting on MiniLM's frozen embeddings
of UKPConvArg1 strict. Debates are held out as a whole; folds and flipped verdicts are those of
`benchmarks.quality --only noise`. Beside them stand Bradley-Terry on the same embeddings (logistic regression of
differences) and "the longer one wins". The output is accuracy over held-out pairs with 95 % intervals over debates, and
each classifier less Bradley-Terry, pair by pair.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.cells import Estimate, Floats, ratio
from benchmarks.datasets import Rows, flip_verdicts, load_ukp_strict
from benchmarks.quality.figures import Plan
from benchmarks.quality.methods import NOISE
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.embeddings import embed_cached
from workers.rewards.models.encode import MICRO_BATCH_TOKENS, ResponseEncoder
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Template

FOLDS = 3
# features [N, H], chosen and rejected [P] -> rewards [N]
Fit = Callable[[Floats, NDArray[np.int64], NDArray[np.int64], int], Floats]


def bradley_terry(
    features: Floats, chosen: NDArray[np.int64], rejected: NDArray[np.int64], seed: int
) -> Floats:
    """Logistic regression of differences, both ways round and without intercept: BT with a linear reward."""
    gaps = features[chosen] - features[rejected]
    model = LogisticRegression(C=0.01, fit_intercept=False, solver="newton-cholesky")
    model.fit(np.concatenate([gaps, -gaps]), np.repeat([1, 0], len(gaps)))
    rewards: Floats = model.decision_function(features)
    return rewards


def classified(make: Callable[[int], LogisticRegression | HistGradientBoostingClassifier]) -> Fit:
    """A classifier of single responses: once as chosen and once as rejected, weighted by how often each was."""

    def fit(features: Floats, chosen: NDArray[np.int64], rejected: NDArray[np.int64], seed: int) -> Floats:
        counts = np.stack([np.bincount(side, minlength=len(features)) for side in (rejected, chosen)], axis=1)
        label, response = (counts.T > 0).nonzero()
        model = make(seed)
        model.fit(features[response], label, sample_weight=counts[response, label])
        rewards: Floats = model.decision_function(features)
        return rewards

    return fit


METHODS: dict[str, Fit] = {
    "bt, linear": bradley_terry,
    "clf, logistic regression": classified(lambda seed: LogisticRegression(C=0.01, solver="newton-cholesky")),
    "clf, gradient boosting": classified(
        lambda seed: HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.05, max_leaf_nodes=15, max_bins=32, random_state=seed
        )
    ),
}


def embedded(rows: Rows) -> Floats:
    """MiniLM's mean-pooled embeddings, standardised. [N, 384]"""
    path = resolve_base_model(PACKAGED)
    model = RewardModel(load_backbone(PACKAGED, path, "encoder"), architecture="encoder", kind="scalar")
    template = Template(load_tokenizer(PACKAGED, path), architecture="encoder", ordinal=False, max_length=256)
    cpu = torch.device("cpu")
    encoder = ResponseEncoder(model, cpu, MICRO_BATCH_TOKENS["cpu"], longest=template.max_length)
    encoded = template.encode([{"messages": [], **row} for row in rows.responses])
    features: Floats = StandardScaler().fit_transform(
        embed_cached(encoder, encoded, lambda done, total: None).double().numpy()
    )
    return features


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", type=float, default=list(NOISE))
    options = parser.parse_args()
    try:
        rows = load_ukp_strict()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    place = {row["response_id"]: number for number, row in enumerate(rows.responses)}
    group = np.array([row["group"] for row in rows.responses])
    length = np.array([len(row["text"]) for row in rows.responses], dtype=np.float64)
    features = embedded(rows)
    print(f"UKPConvArg1 strict, {len(rows.judgements)} pairs, {FOLDS} folds of whole debates, frozen MiniLM")
    folds = Plan(options.seeds, quick=False).folds(rows.groups, FOLDS)
    for noise in options.noise:
        right: dict[str, list[Floats]] = {name: [] for name in (*METHODS, "the longer one wins")}
        clusters: list[NDArray[np.str_]] = []
        for number, held_out in enumerate(folds):
            seed = options.seeds[number % len(options.seeds)]
            flipped = flip_verdicts(rows, frozenset(held_out), noise, seed=seed)
            sides = [[place[row["response_a"]], place[row["response_b"]]] for row in flipped.judgements]
            verdicts = [row["verdict"] for row in flipped.judgements]
            pairs = np.array(
                [
                    ends if verdict == "a" else ends[::-1]
                    for ends, verdict in zip(sides, verdicts, strict=True)
                ]
            )  # [P, 2]: chosen, rejected
            outside = np.isin(group[pairs[:, 0]], held_out)
            clusters.append(group[pairs[outside, 0]])
            rewards = {
                name: fit(features, pairs[~outside, 0], pairs[~outside, 1], seed)
                for name, fit in METHODS.items()
            }
            for name, reward in {**rewards, "the longer one wins": length}.items():
                gap = reward[pairs[outside, 0]] - reward[pairs[outside, 1]]
                right[name].append(0.5 + 0.5 * np.sign(gap))
        joined = {name: np.concatenate(parts) for name, parts in right.items()}
        cluster = np.concatenate(clusters)
        print(f"{noise:.0%} of the training verdicts flipped")
        for name, values in joined.items():
            line = f"  {name:26} {_interval(ratio(values, np.ones(len(values)), cluster), '.3f')}"
            if name in METHODS and name != "bt, linear":
                less = ratio(values - joined["bt, linear"], np.ones(len(values)), cluster)
                line += f", less bt {_interval(less, '+.3f')}"
            print(line, flush=True)
    return 0


def _interval(estimate: Estimate, style: str) -> str:
    return f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]"


if __name__ == "__main__":
    sys.exit(main())
