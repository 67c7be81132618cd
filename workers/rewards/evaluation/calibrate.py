"""The calibration's parameters, fitted on the held-out pairs, since a model is surest on what it was trained on.

What is reported is cross-fitted: each held-out group is measured with parameters that were fitted on the others.
What is served was fitted on all of them. Numpy alone, like metrics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.calibration import METHODS, SMALLEST, Calibration, beta_cdf, log_tails
from ..models.preference import Floats, scalar_probabilities
from .metrics import LEVELS, RATINGS, Ints, Row, evaluate_run, pair_votes

FOLDS = 5
MIN_LABELS = 20  # pairs and level labels together; fewer say too little even for one parameter
# Gaussian prior around "as it is" on the logarithms of temperature, tie, a and b, and on c. It weighs as much as
# some ten pairs, so ten pairs cannot ruin a model and a thousand do as they like.
PRIOR_SD = 0.5

Flags = NDArray[np.bool_]
Terms = list[tuple[Floats, Floats, Floats]]


@dataclass(frozen=True)
class Sample:
    """What a calibration is fitted on: pairs with their votes, and for rating distributions labels of levels.

    first, second: rewards [P] or rating distributions [P, 9]; observed [P, C]: the shares of a pair's votes for
    (first, second), where a tie or both_bad counts half to each, or for (first, tie, second) where the rewards have a
    tie threshold (both_bad says nothing about it); groups [P, 2]: those of both sides; p [L, 9], level and
    level_group [L]: a row per label.
    """

    ordinal: bool
    first: Floats
    second: Floats
    observed: Floats
    groups: Ints
    p: Floats
    level: Ints
    level_group: Ints
    tie: float | None
    partition: tuple[int, int]

    def __len__(self) -> int:
        return len(self.first) + len(self.level)

    def of(self, pairs: Flags, labels: Flags) -> Sample:
        """The part in these pairs and labels."""
        return dataclasses.replace(
            self,
            first=self.first[pairs],
            second=self.second[pairs],
            observed=self.observed[pairs],
            groups=self.groups[pairs],
            p=self.p[labels],
            level=self.level[labels],
            level_group=self.level_group[labels],
        )

    def fit(self) -> Floats:
        """theta of least NLL under the prior.

        Scalar: log temperature, and where there are ties log(tie / the model's tie). Ordinal: a = b from pairs alone,
        which say next to nothing about where on the scale a pair lies; labels of levels give a / b and c as well.
        """
        if not self.ordinal:
            return _fisher_scoring(self._terms, 1 if self.tie is None else 2)
        return _fisher_scoring(self._terms, 3 if len(self.level) else 1)

    def calibration(self, theta: Floats) -> Calibration:
        """The calibration that theta stands for."""
        if self.ordinal:
            return Calibration("beta_cdf", dict(zip(METHODS["beta_cdf"], _shape(theta), strict=True)))
        parameters = {"temperature": math.exp(theta[0])}
        if self.tie is not None:
            parameters["tie"] = self.tie * math.exp(theta[1])
        return Calibration("temperature", parameters)

    def without_levels(self) -> Sample:
        """The pairs alone."""
        return self.of(np.ones(len(self.first), dtype=bool), np.zeros(len(self.level), dtype=bool))

    def nll(self, theta: Floats) -> Floats:
        """Summed over pairs, and over labels of levels (0 for scalar rewards). [2]"""
        costs = [_cost(p, observed) for p, _, observed in self._terms(theta)]
        return np.array([*costs, 0.0][:2])

    def _terms(self, theta: Floats) -> Terms:
        """Forecasts [N, C], their derivatives [N, C, K] by theta, and the observed shares [N, C]."""
        if not self.ordinal:
            return [_scalar_term(self.first - self.second, self.tie, theta, self.observed)]
        (f_first, d_first), (f_second, d_second) = (_reached(p, theta) for p in (self.first, self.second))
        # P(first preferred) = W + T/2 = sum_j p_second(j) (1 - (F_first(j-1) + F_first(j)) / 2)
        middle, d_middle = (f_first[:, :-1] + f_first[:, 1:]) / 2, (d_first[:, :-1] + d_first[:, 1:]) / 2
        mass, d_mass = np.diff(f_second, axis=1), np.diff(d_second, axis=1)
        preferred = np.sum(mass * (1.0 - middle), axis=1)
        slope = np.sum(d_mass * (1.0 - middle)[..., None] - mass[..., None] * d_middle, axis=1)
        pairs = (
            np.stack([preferred, 1.0 - preferred], axis=1),
            np.stack([slope, -slope], axis=1),
            self.observed,
        )
        reached, derivative = _reached(self.p, theta)
        edges = [0, *self.partition, RATINGS]
        levels = (
            np.diff(reached[:, edges], axis=1),
            np.diff(derivative[:, edges], axis=1),
            np.eye(len(LEVELS))[self.level],
        )
        return [pairs, levels]


def calibrate(
    *,
    responses: Sequence[Row],
    judgements: Sequence[Row],
    levels: Sequence[Row],
    scores: Mapping[str, float],
    probs: Mapping[str, Sequence[float]] | None,
    kind: str,
    tie: float | None,
    partition: tuple[int, int],
    seed: int,
    cuts: Sequence[float] | None = None,
) -> tuple[Calibration, dict[str, Any], dict[str, Calibration]]:
    """The calibration to serve, the "held_out" object of metrics.json with its "calibration", and each group's own.

    A group's own calibration was fitted on the other groups: what its rows are measured, and shown, with. Empty where
    nothing is calibrated.

    Takes what evaluate_run takes, uncalibrated. The metrics are those of what is served, cross-fitted: the groups are
    dealt to at most FOLDS folds, and each fold's rows are measured with parameters fitted on pairs and labels that
    touch none of its groups. For a rating distribution that includes the reward E[s], so also the accuracies.
    Too few labels, a single group, or parameters that do not lower the NLL of rows they were not fitted on, or raise
    that of the pairs or of the levels among them: nothing is calibrated, and "note" says why.
    """
    raw: dict[str, Any] = {"responses": responses, "judgements": judgements, "levels": levels}
    raw |= {"kind": kind, "partition": partition, "seed": seed, "cuts": cuts}
    before = evaluate_run(**raw, scores=scores, probs=probs, tie=tie, temperature=1.0)
    sample, names = _sample(
        responses, judgements, levels, scores, probs if kind == "ordinal" else None, tie, partition
    )
    folds, note = _folds(sample, len(names))
    after, served, levels_used = before, Calibration(), 0
    of_group: dict[str, Calibration] = {}
    if note is None:
        # Levels outnumber pairs in many projects and may pull the map where the pairs get worse; then pairs alone.
        for used in (
            (sample, sample.without_levels()) if len(sample.level) and len(sample.first) else (sample,)
        ):
            fitted = []
            uncalibrated, calibrated = np.zeros(2), np.zeros(2)  # NLL of left-out pairs and levels
            for fold in range(folds.max() + 1):
                touched, labelled = folds[sample.groups] == fold, folds[sample.level_group] == fold
                theta = used.of(~touched.any(axis=1), ~labelled[: len(used.level)]).fit()
                fitted.append(used.calibration(theta))
                # a pair of two groups is measured with the group whose name sorts first, as in evaluate_run
                left_out = sample.of(touched[:, 0], labelled)
                uncalibrated += left_out.nll(np.zeros_like(theta))
                calibrated += left_out.nll(theta)
            if calibrated.sum() < uncalibrated.sum() and np.all(calibrated <= uncalibrated):
                served, levels_used = used.calibration(used.fit()), len(used.level)
                of_group = {name: fitted[fold] for name, fold in zip(names, folds, strict=True)}
                after = _cross_fitted(raw, scores, probs, tie, of_group)
                break
        else:
            note = (
                "calibration did not help on groups it was not fitted on (NLL "
                f"{uncalibrated.sum() / len(sample):.4f} before, {calibrated.sum() / len(sample):.4f} after), "
                "so the model is served as it is"
            )
    described = {
        **served.to_json(),
        "fitted_on": len(sample.first) if served.method else 0,
        "fitted_on_levels": levels_used,
        "folds": int(folds.max()) + 1 if served.method else 0,
        "note": note,
        "before": _figures(before),
        "after": _figures(after),
    }
    return served, {**after, "calibration": described}, of_group


def _sample(
    responses: Sequence[Row],
    judgements: Sequence[Row],
    levels: Sequence[Row],
    scores: Mapping[str, float],
    probs: Mapping[str, Sequence[float]] | None,
    tie: float | None,
    partition: tuple[int, int],
) -> tuple[Sample, list[str]]:
    """The labels as arrays, and the names of the groups that they number."""
    group_of = {str(row["response_id"]): str(row["group"]) for row in responses}
    pairs = pair_votes(judgements)
    labelled = [str(row["response_id"]) for row in levels] if probs is not None else []
    names = sorted({group_of[name] for name in [*pairs.ids, *labelled]})
    number = {name: i for i, name in enumerate(names)}
    ends = np.stack([pairs.first, pairs.second], axis=1)  # [P, 2]
    groups = np.array([number[group_of[name]] for name in pairs.ids], dtype=np.int64)[ends]
    share = np.stack([pairs.share, 1.0 - pairs.share], axis=1)
    if probs is None:
        predicted = np.array([scores[name] for name in pairs.ids], dtype=np.float64)
        if tie is not None:
            verdict = np.array([row["verdict"] for row in judgements])
            outcomes = (pairs.vote == 1.0, verdict == "tie", pairs.vote == 0.0)
            counts = [np.bincount(pairs.pair_of, weights=each, minlength=len(share)) for each in outcomes]
            share = np.stack(counts, axis=1) / pairs.votes[:, None]
    else:
        predicted = np.array([probs[name] for name in pairs.ids], dtype=np.float64).reshape(-1, RATINGS)
    return (
        Sample(
            ordinal=probs is not None,
            first=predicted[pairs.first],
            second=predicted[pairs.second],
            observed=share,
            groups=np.sort(groups, axis=1),
            p=np.array([(probs or {})[name] for name in labelled], dtype=np.float64).reshape(-1, RATINGS),
            level=np.array([LEVELS.index(row["level"]) for row in levels][: len(labelled)], dtype=np.int64),
            level_group=np.array([number[group_of[name]] for name in labelled], dtype=np.int64),
            tie=tie if probs is None else None,
            partition=partition,
        ),
        names,
    )


def _folds(sample: Sample, groups: int) -> tuple[Ints, str | None]:
    """A fold for each group, the groups with most labels dealt first; or a note on why there are none."""
    finite = all(np.all(np.isfinite(values)) for values in (sample.first, sample.second, sample.p))
    folds = np.zeros(groups, dtype=np.int64)
    if not len(sample):
        return folds, "there is no held-out label to calibrate on"
    if groups < 2:
        return folds, "all held-out labels are of one group: calibration needs another one to be checked on"
    if len(sample) < MIN_LABELS:
        return folds, f"only {len(sample)} held-out pairs and levels: calibration needs {MIN_LABELS}"
    if not finite:
        return folds, "scores that are not finite cannot be calibrated"
    labels = np.bincount(sample.groups[:, 0], minlength=groups) + np.bincount(
        sample.level_group, minlength=groups
    )
    dealt = np.zeros(min(FOLDS, groups), dtype=np.int64)
    for group in np.argsort(-labels, kind="stable"):
        folds[group] = np.argmin(dealt)
        dealt[folds[group]] += max(labels[group], 1)
    return folds, None


def _cross_fitted(
    raw: dict[str, Any],
    scores: Mapping[str, float],
    probs: Mapping[str, Sequence[float]] | None,
    tie: float | None,
    of_group: Mapping[str, Calibration],
) -> dict[str, Any]:
    """The metrics with each group's own calibration."""
    if raw["kind"] == "scalar":
        return evaluate_run(
            **raw,
            scores=scores,
            probs=None,
            tie=None if tie is None else {name: one.tie(tie) or 0.0 for name, one in of_group.items()},
            temperature={name: one.temperature for name, one in of_group.items()},
        )
    assert probs is not None
    members: dict[str, list[str]] = {}
    for row in raw["responses"]:
        members.setdefault(str(row["group"]), []).append(str(row["response_id"]))
    calibrated: dict[str, Floats] = {}
    for group, one in of_group.items():
        ratings = one.ratings(np.array([probs[name] for name in members[group]], dtype=np.float64))
        calibrated |= dict(zip(members[group], ratings, strict=True))
    expected = {name: float(p @ np.arange(1, RATINGS + 1)) for name, p in calibrated.items()}
    return evaluate_run(**raw, scores=expected, probs=calibrated, tie=None, temperature=1.0)


def uncalibrated(held_out: dict[str, Any], note: str) -> dict[str, Any]:
    """evaluate_run's object with the "calibration" of a model whose probabilities are served as they are."""
    figures = _figures(held_out)
    described = {
        **Calibration().to_json(),
        "fitted_on": 0,
        "fitted_on_levels": 0,
        "folds": 0,
        "note": note,
        "before": figures,
        "after": figures,
    }
    return {**held_out, "calibration": described}


def _figures(held_out: Mapping[str, Any]) -> dict[str, Any]:
    """What calibration changes; None where there are no pairs or levels."""
    pairs = held_out["pairs"] or {}
    names = ("ece", "ece_equal_mass", "nll", "brier", "human_ties")
    return {**{name: pairs.get(name) for name in names}, "levels": held_out["levels"]}


# --- Formulas and their derivatives ---


def _shape(theta: Floats) -> tuple[float, float, float]:
    """a, b, c of the beta map; a = b and c = 0 where theta has one number."""
    turn, shift = (theta[1], theta[2]) if len(theta) == 3 else (0.0, 0.0)
    return math.exp(theta[0] + turn), math.exp(theta[0] - turn), float(shift)


def _reached(p: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """F'(k) for k = 0..9 and its derivatives by theta. [N, 10], [N, 10, K]"""
    a, b, c = _shape(theta)
    log_below, log_above = log_tails(p)
    reached = beta_cdf(log_below, log_above, a, b, c)
    by_parameter = [a * log_below - b * log_above, a * log_below + b * log_above, np.ones_like(log_below)]
    inner = reached[:, 1:-1]
    derivative = (inner * (1.0 - inner))[..., None] * np.stack(by_parameter[: len(theta)], axis=-1)
    return reached, np.pad(derivative, ((0, 0), (1, 1), (0, 0)))


def _scalar_term(
    difference: Floats, tie: float | None, theta: Floats, observed: Floats
) -> tuple[Floats, Floats, Floats]:
    """Bradley-Terry (first, second) or Rao-Kupper (first, tie, second) at theta = log temperature, log tie factor."""
    temperature = math.exp(theta[0])
    d = difference / temperature
    eta = None if tie is None else tie * math.exp(theta[1])
    first, second, tied = scalar_probabilities(difference, tie=eta, temperature=temperature)
    s_first, s_second = first * (1.0 - first), second * (1.0 - second)
    by_temperature = np.stack([-d * s_first, d * s_second], axis=1)
    if eta is None:
        return np.stack([first, second], axis=1), by_temperature[..., None], observed
    by_tie = np.stack([-eta * s_first, -eta * s_second], axis=1)
    wins = np.stack([by_temperature, by_tie], axis=2)  # [P, 2, 2]
    return (
        np.stack([first, tied, second], axis=1),
        np.stack([wins[:, 0], -wins.sum(axis=1), wins[:, 1]], axis=1),
        observed,
    )


def _cost(p: Floats, observed: Floats) -> float:
    return float(-np.sum(observed * np.log(np.maximum(p, SMALLEST))))


def _fisher_scoring(terms: Callable[[Floats], Terms], size: int) -> Floats:
    """theta [size] of least NLL plus |theta|^2 / (2 PRIOR_SD^2), from 0, by damped Fisher scoring.

    The information of a forecast p(theta) is sum dp dp^T / p: positive, and only first derivatives are needed.
    """

    def look(theta: Floats) -> tuple[float, Floats, Floats]:
        cost = float(theta @ theta) / 2 / PRIOR_SD**2
        gradient, information = theta / PRIOR_SD**2, np.eye(size) / PRIOR_SD**2
        for p, derivative, observed in terms(theta):
            p = np.maximum(p, SMALLEST)
            cost += _cost(p, observed)
            gradient = gradient - np.einsum("nc,nck->k", observed / p, derivative)
            weight = observed.sum(axis=1, keepdims=True) / p
            information = information + np.einsum("nc,nck,ncl->kl", weight, derivative, derivative)
        return cost, gradient, information

    theta, damping = np.zeros(size), 1e-3
    cost, gradient, information = look(theta)
    for _ in range(200):
        step = -np.linalg.solve(information + damping * np.diag(np.diag(information)), gradient)
        if np.max(np.abs(step)) < 1e-9 or damping > 1e12:
            break
        moved = look(theta + step)
        if moved[0] <= cost:
            theta, damping = theta + step, damping / 10
            cost, gradient, information = moved
        else:
            damping *= 10
    return theta
