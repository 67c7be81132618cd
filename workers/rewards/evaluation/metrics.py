"""How well a reward model agrees with people on responses it was not trained on.

Everything here is a sum over examples, so nothing depends on how rows were batched or ordered:

- a *judgement* is the example of the accuracies (one person's verdict on one pair),
- a *pair* (two responses, whatever side they stood on) is the example of the probability scores, because its
  judgements together say how often people prefer the first: its vote share,
- a *level label* is the example of the ordinal metrics.

Values that the data cannot give (no decisive judgement, a single cluster, a diverged model) are None, never 0
and never NaN, so the result can be written as strict JSON.

Plain numpy: no torch, so that a metric can be recomputed wherever predictions.parquet can be read.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..models.preference import Floats, cut_masses, normalised, ordinal_probabilities, scalar_probabilities
from ..scale import LEVELS, RATINGS

Ints = NDArray[np.int64]
Row = Mapping[str, Any]
T = TypeVar("T")
Together = Mapping[tuple[str, str], tuple[float, float]]

CALIBRATION_BINS = 10
NEAR_EQUAL_LENGTH = 60  # characters: the cut below which "longer wins" says next to nothing
CENTRAL_MASS = 0.8
REPLICATES = 2000
# A forecast of exactly 0 or 1 that turns out wrong would cost infinitely many nats; it costs 27.6 instead.
SMALLEST_P = 1e-12

# What a verdict is worth to response a: the share of one vote.
_VOTE_FOR_A = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


# --- Votes on pairs ---


@dataclass(frozen=True)
class PairVotes:
    """The judgements of N rows gathered into P pairs.

    A pair is the same pair whichever response stood first: `first` is the response whose id sorts first, so
    the outcome depends on neither row order nor side. Pairs are in ascending order of (first, second).
    """

    ids: list[str]  # [R] response ids, ascending
    first: Ints  # [P] index into ids
    second: Ints  # [P]
    votes: Ints  # [P] number of judgements
    share: Floats  # [P] share of the votes, by weight, for `first`; tie and both_bad count half
    pair_of: Ints  # [N] the pair of each judgement
    vote: Floats  # [N] 1 for `first`, 0 for `second`, 0.5 for neither


def pair_votes(judgements: Sequence[Row]) -> PairVotes:
    """Gather judgements (response_a, response_b, verdict, weight) by pair; ValueError for an unknown verdict."""
    ids = sorted({str(row[side]) for row in judgements for side in ("response_a", "response_b")})
    index = {response: i for i, response in enumerate(ids)}
    a = np.array([index[str(row["response_a"])] for row in judgements], dtype=np.int64)
    b = np.array([index[str(row["response_b"])] for row in judgements], dtype=np.int64)
    for row in judgements:
        if row["verdict"] not in _VOTE_FOR_A:
            raise ValueError(f"verdict must be one of {', '.join(_VOTE_FOR_A)}, not {row['verdict']!r}")
    for_a = np.array([_VOTE_FOR_A[row["verdict"]] for row in judgements], dtype=np.float64)

    vote = np.where(a <= b, for_a, 1.0 - for_a)
    keys, pair_of = np.unique(np.minimum(a, b) * len(ids) + np.maximum(a, b), return_inverse=True)
    first, second = np.divmod(keys, max(len(ids), 1))
    votes = np.bincount(pair_of, minlength=len(keys))
    weight = np.array([row.get("weight") or 1.0 for row in judgements], dtype=np.float64)
    total = np.bincount(pair_of, weights=weight, minlength=len(keys))
    share = np.bincount(pair_of, weights=weight * vote, minlength=len(keys)) / total
    return PairVotes(ids, first, second, votes, share, pair_of.astype(np.int64), vote)


def human_ceiling(judgements: Sequence[Row], pairs: PairVotes | None = None) -> dict[str, Any] | None:
    """How well people predict one another: {"value", "n"}, or None where no pair has two people.

    Every decisive judgement (a or b) is predicted by the majority of the other annotators of its pair, and
    scored as a model is: right 1, wrong 0, and 0.5 where the others have no majority (their ties and both_bad
    count for neither). n counts the decisive judgements on whose pair somebody else judged too.
    """
    pairs = pair_votes(judgements) if pairs is None else pairs
    names = {name: i for i, name in enumerate(sorted({str(row["annotator"]) for row in judgements}))}
    annotator = np.array([names[str(row["annotator"])] for row in judgements], dtype=np.int64)
    # One's own votes are taken away as a whole, should one person have judged a pair twice.
    _, own = np.unique(pairs.pair_of * max(len(names), 1) + annotator, return_inverse=True)
    lean = 2.0 * pairs.vote - 1.0
    other_lean = np.bincount(pairs.pair_of, weights=lean)[pairs.pair_of] - np.bincount(own, weights=lean)[own]
    other_votes = np.bincount(pairs.pair_of)[pairs.pair_of] - np.bincount(own)[own]
    scored = (lean != 0) & (other_votes > 0)
    if not np.any(scored):
        return None
    agreed = 0.5 + 0.5 * np.sign(other_lean[scored]) * lean[scored]
    return {"value": float(np.mean(agreed)), "n": int(np.sum(scored))}


# --- Scores ---


def clustered_mean(
    values: Floats, clusters: Ints, *, seed: int, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Mean of `values` [N] with a 95 % interval over clusters: {"value", "low", "high", "n"}.

    Percentile bootstrap that draws whole clusters (`clusters` [N]: numbers, equal within a cluster) with
    replacement, because rows of a topic share texts. Only the sums of each cluster are drawn, so the cost
    does not grow with N. The same seed draws the same clusters: intervals of two predictors on the same rows
    are comparable. One cluster says nothing about the spread between clusters: low and high are None.
    """
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    _, number = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(number)
    totals = np.bincount(number, weights=values)
    low = high = None
    if len(sizes) > 1:
        rng = np.random.default_rng(seed)
        rows_at_once = max(1, 2_000_000 // len(sizes))  # keeps the drawn indices within 16 MB
        means = []
        for start in range(0, replicates, rows_at_once):
            rows = min(rows_at_once, replicates - start)
            drawn = rng.integers(0, len(sizes), size=(rows, len(sizes)))
            means.append(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
        low, high = (_finite(x) for x in np.quantile(np.concatenate(means), [0.025, 0.975]))
    return {"value": _finite(totals.sum() / len(values)), "low": low, "high": high, "n": len(values)}


def both_sides(predicted: Floats, observed: Floats) -> tuple[Floats, Floats]:
    """Every pair from the side of each of its responses, p and 1 - p: two arrays [2P] from two [P].

    A calibration error over one side would depend on which response the pair is named after: ids often tell who
    wrote what, and an error that favours one writer then looks like one of calibration.
    """
    turned = predicted < 0.5
    # from the likelier side first, so that rounding puts a pair and the same pair turned round into the same bins
    p = np.where(turned, 1.0 - predicted, predicted)
    q = np.where(turned, 1.0 - observed, observed)
    return np.concatenate([p, 1.0 - p]), np.concatenate([q, 1.0 - q])


def expected_calibration_error(
    predicted: Floats, observed: Floats, *, bins: int = CALIBRATION_BINS
) -> dict[str, Any]:
    """Equal-width ECE: {"value", "n", "bins": [{"low", "high", "n", "predicted", "observed"}]}.

    `predicted` [N] probabilities; `observed` [N] vote shares in 0..1. A bin holds low <= p < high, the last
    one 1.0 too; predicted and observed are means over the bin, None in an empty one.
    """
    edges = np.arange(bins + 1) / bins
    known = np.isfinite(predicted)
    bin_of = np.clip(np.searchsorted(edges, predicted[known], side="right") - 1, 0, bins - 1)
    return _reliability(predicted, observed, bin_of, list(itertools.pairwise(edges)))


def equal_mass_calibration_error(
    predicted: Floats, observed: Floats, *, bins: int = CALIBRATION_BINS
) -> dict[str, Any]:
    """The same over bins that hold equally many examples; low and high are a bin's least and greatest p.

    Equal predictions share a bin, so nothing depends on the order of rows; bins that stay empty are left out.
    """
    known = predicted[np.isfinite(predicted)]
    lower = np.searchsorted(np.sort(known), known, side="left")  # how many are smaller
    _, bin_of = np.unique(lower * bins // max(len(known), 1), return_inverse=True)
    members = [known[bin_of == k] for k in range(bin_of.max(initial=-1) + 1)]
    return _reliability(predicted, observed, bin_of, [(p.min(), p.max()) for p in members])


def _reliability(
    predicted: Floats, observed: Floats, bin_of: Ints, edges: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """ECE over the bins [k] given by `edges`; `bin_of` numbers those of the predictions that are finite."""
    known = np.isfinite(predicted)
    counts = np.bincount(bin_of, minlength=len(edges))
    predicted_sums = np.bincount(bin_of, weights=predicted[known], minlength=len(edges))
    observed_sums = np.bincount(bin_of, weights=observed[known], minlength=len(edges))
    n = len(predicted)
    computable = n > 0 and bool(np.all(known))
    return {
        "value": float(np.abs(predicted_sums - observed_sums).sum() / n) if computable else None,
        "n": n,
        "bins": [
            {
                "low": float(low),
                "high": float(high),
                "n": int(counts[k]),
                "predicted": float(predicted_sums[k] / counts[k]) if counts[k] else None,
                "observed": float(observed_sums[k] / counts[k]) if counts[k] else None,
            }
            for k, (low, high) in enumerate(edges)
        ],
    }


def auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Probability that a positive example scores above a negative one, equal scores counting half.

    `scores` [N], `positive` [N] bool. None where one class is empty or a score is NaN.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative or np.any(np.isnan(scores)):
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # average rank of equal scores, from 1
    above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def level_scores(mass: ArrayLike, level: ArrayLike) -> dict[str, Any]:
    """Ordinal metrics of the levels' probabilities against level labels.

    `mass` [N, 3] of bad, normal, good (`level_masses`, or models.preference.cut_masses); `level` [N] of 0, 1, 2.
    Returns:

    - n: labels,
    - accuracy: share of labels that are the level with the most mass (the lower one of equals),
    - quadratic_kappa: Cohen's kappa with quadratic weights of that level against the label; None where chance
      alone would agree (one level throughout),
    - rps: ranked probability score over the three levels, sum of squared differences of the cumulative
      distributions divided by 2: 0 is perfect, 1 is all mass at the wrong end,
    - coverage: share of labels within the central 80 % interval, from the level that holds the 10 % quantile
      to the one that holds the 90 % quantile. Levels are coarse, so a calibrated model covers
      80 % or more.
    """
    level = np.asarray(level, dtype=np.int64)
    mass = np.asarray(mass, dtype=np.float64).reshape(len(level), len(LEVELS))
    if not len(level) or not np.all(np.isfinite(mass)):
        return {"n": len(level), "accuracy": None, "quadratic_kappa": None, "rps": None, "coverage": None}
    predicted = np.argmax(mass, axis=1)
    cumulative = np.cumsum(mass, axis=1)[:, :2]  # [N, 2]; the third is 1 for both
    tail = (1.0 - CENTRAL_MASS) / 2
    slack = 1e-9  # ten masses of 0.1 must reach a quantile of 0.9
    lowest = np.sum(cumulative < tail - slack, axis=1)
    highest = np.sum(cumulative < 1.0 - tail - slack, axis=1)
    return {
        "n": len(level),
        "accuracy": float(np.mean(predicted == level)),
        "quadratic_kappa": _quadratic_kappa(predicted, level),
        "rps": float(np.mean(_ranked_error(mass, level))),
        "coverage": float(np.mean((lowest <= level) & (level <= highest))),
    }


def level_masses(p: ArrayLike, partition: tuple[int, int]) -> Floats:
    """P(bad), P(normal), P(good): [N, 3] from rating distributions [N, 9]; ValueError for a bad partition."""
    bad, normal = partition
    if not 1 <= bad < normal < RATINGS:
        raise ValueError(f"partition must be two ratings with 1 <= bad < normal < {RATINGS}, not {partition}")
    return np.add.reduceat(normalised(p), [0, bad, normal], axis=1)


# --- A run's held-out rows ---


def evaluate_run(
    *,
    responses: Sequence[Row],
    judgements: Sequence[Row],
    levels: Sequence[Row],
    scores: Mapping[str, float],
    probs: Mapping[str, ArrayLike] | None,
    kind: str,
    tie: float | Mapping[str, float] | None,
    temperature: float | Mapping[str, float],
    partition: tuple[int, int],
    seed: int,
    cuts: Sequence[float] | None = None,
    together: Together | None = None,
) -> dict[str, Any]:
    """The "held_out" object of metrics.json.

    The rows are those of the snapshot tables, held-out ones only. `scores` is the reward for ranking (r or
    E[s]) and `probs` the rating distribution, by response id. `kind` is "scalar" or "ordinal"; `tie` and
    `temperature` belong to scalar rewards, one number or one for each group (cross-fitted calibration), and so do
    `cuts`, the levels' cut points; an ordinal distribution is taken as it is. `together`: what was said of pairs as
    such, P(first) and P(tie) by their ids in ascending order. It comes before the product of the two distributions, and
    decides between equal scores.

    - Accuracies are over decisive judgements (a or b); equal scores, or lengths, count 0.5; model_ties and
      model_tie_share say how often. over_length is accuracy minus length_baseline, judgement by judgement.
      Intervals are clustered by group. Ties of people are scored apart, by the model's mean
      P(tie); both_bad says nothing about the order and enters the vote shares alone.
    - nll, brier and ece are over pairs, against the share q of votes for one response (tie and both_bad half
      to each): -q log p - (1-q) log(1-p), and q (1-p)^2 + (1-q) p^2. Their floor is what p = q would get: the
      humans' own spread (0 where every pair has one judgement). ece counts each pair from both of its sides,
      so a bin's n are sides, and whichever response stands first changes nothing.
    - levels needs rating distributions or cut points, and is None for a reward without them. `constant` is what it
      is to be held against: always the level that most of these labels are ("value" its accuracy). over_constant is
      accuracy minus the constant guess's, rps_gain the constant guess's RPS minus the model's, label by label.

    Raises ValueError where kind is unknown, a row names a response without text, group or prediction, or a
    verdict or level is unknown.
    """
    if kind not in ("scalar", "ordinal"):
        raise ValueError(f"kind must be scalar or ordinal, not {kind!r}")
    if kind == "ordinal" and probs is None:
        raise ValueError("an ordinal model is evaluated on its rating distributions: probs is None")
    by_id = {str(row["response_id"]): row for row in responses}
    ratings = probs if kind == "ordinal" else None
    return {
        "pairs": _evaluate_pairs(by_id, judgements, scores, ratings, tie, temperature, seed, together or {})
        if judgements
        else None,
        "levels": _evaluate_levels(by_id, levels, scores, ratings, partition, cuts, seed)
        if levels and (ratings is not None or cuts is not None)
        else None,
        "auroc_good_bad": _evaluate_extremes(levels, scores),
    }


def score_spread(predictions: Sequence[Row]) -> dict[str, Any]:
    """How far apart a model's scores lie: {"value": their standard deviation, "n", "ratings", "peaks"}.

    `predictions`: rows with `score` and `p`. `ratings` counts the ratings that are the most probable one of some
    response, `peaks` is {"value": the mean number of peaks of a distribution, "n"} (both None for scalar rewards). A
    collapsed model has a spread of about 0, or one rating for all.
    """
    scores = np.array([row["score"] for row in predictions], dtype=np.float64)
    p = [row["p"] for row in predictions if row["p"] is not None]
    return {
        "value": _finite(scores.std()) if len(scores) else None,
        "n": len(scores),
        "ratings": len(set(np.argmax(p, axis=1))) if p else None,
        "peaks": {"value": float(np.mean(peaks(p))), "n": len(p)} if p else None,
    }


def peaks(p: ArrayLike) -> Ints:
    """Local maxima of each distribution, a run of equal values counting once; a uniform one has 1. [N, 9] -> [N]"""
    signs = np.sign(np.diff(np.asarray(p, dtype=np.float64), axis=1))  # [N, 8]
    return np.array([1 + np.sum(np.diff(row[row != 0]) > 0) for row in signs], dtype=np.int64)


def first_and_last(losses: Sequence[float]) -> dict[str, float] | None:
    """The mean loss of the first and of the last tenth of the steps (one step at least); None below two steps."""
    if len(losses) < 2:
        return None
    tenth = max(1, len(losses) // 10)
    return {"first": float(np.mean(losses[:tenth])), "last": float(np.mean(losses[-tenth:]))}


def _evaluate_pairs(
    by_id: Mapping[str, Row],
    judgements: Sequence[Row],
    scores: Mapping[str, float],
    ratings: Mapping[str, ArrayLike] | None,
    tie: float | Mapping[str, float] | None,
    temperature: float | Mapping[str, float],
    seed: int,
    together: Together,
) -> dict[str, Any]:
    pairs = pair_votes(judgements)
    rows = [_known(by_id, name, "row in responses") for name in pairs.ids]
    reward = np.array([_known(scores, name, "score") for name in pairs.ids], dtype=np.float64)
    length = np.array([len(row["text"]) for row in rows], dtype=np.float64)
    # A pair across two groups belongs to the one whose name sorts first: it must not depend on the side.
    names, group = np.unique([str(row["group"]) for row in rows], return_inverse=True)
    cluster = np.minimum(group[pairs.first], group[pairs.second])  # [P]
    with np.errstate(invalid="ignore"):  # inf - inf: a diverged model, reported as None
        difference = reward[pairs.first] - reward[pairs.second]  # [P]
    longer = length[pairs.first] - length[pairs.second]  # [P], characters

    if ratings is not None:
        p = np.array([_known(ratings, name, "rating distribution") for name in pairs.ids], dtype=np.float64)
        p_first, _, p_tie = ordinal_probabilities(p[pairs.first], p[pairs.second])
    else:
        p_first, _, p_tie = scalar_probabilities(
            difference,
            tie=None if tie is None else _by_group(tie, names.tolist())[cluster],
            temperature=_by_group(temperature, names.tolist())[cluster],
        )
    for place, (one, other) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        if (said := together.get((pairs.ids[one], pairs.ids[other]))) is not None:
            p_first[place], p_tie[place] = said
            if difference[place] == 0:
                difference[place] = 2 * p_first[place] + p_tie[place] - 1  # P(first) - P(second)
    preferred = p_first + p_tie / 2  # [P]

    decisive = pairs.vote != 0.5
    pair_of, sign = pairs.pair_of[decisive], 2.0 * pairs.vote[decisive] - 1.0  # [D], +1 where `first` won
    right = 0.5 + 0.5 * sign * np.sign(difference[pair_of])
    right_by_length = 0.5 + 0.5 * sign * np.sign(longer[pair_of])
    near = np.abs(longer[pair_of]) < NEAR_EQUAL_LENGTH
    human_tie = np.array([row["verdict"] == "tie" for row in judgements])
    knows_ties = ratings is not None or tie is not None

    def accuracy(values: Floats, chosen: NDArray[np.bool_] | slice = slice(None)) -> dict[str, Any]:
        return clustered_mean(values[chosen], cluster[pair_of][chosen], seed=seed)

    q = pairs.share
    sides = both_sides(preferred, q)
    return {
        "n": len(q),
        "groups": len(np.unique(cluster)),
        "accuracy": accuracy(right),
        "model_ties": int(np.sum(difference[pair_of] == 0)),
        "model_tie_share": {"value": _mean((difference[pair_of] == 0).astype(np.float64)), "n": len(pair_of)},
        "length_baseline": accuracy(right_by_length),
        "over_length": accuracy(right - right_by_length),
        "near_equal_length": {**accuracy(right, near), "max_difference": NEAR_EQUAL_LENGTH}
        if near.any()
        else None,
        "human_ties": {
            "n": int(human_tie.sum()),
            "mean_p_tie": _mean(p_tie[pairs.pair_of[human_tie]]) if knows_ties else None,
        },
        "human_ceiling": human_ceiling(judgements, pairs),
        "nll": {
            "value": _mean(cross_entropy(preferred, q)),
            "floor": _mean(cross_entropy(q, q)),
            "n": len(q),
        },
        "brier": {
            "value": _mean(q * (1 - preferred) ** 2 + (1 - q) * preferred**2),
            "floor": _mean(q * (1 - q)),
            "n": len(q),
        },
        "ece": {**expected_calibration_error(*sides), "n": len(q)},
        "ece_equal_mass": {**equal_mass_calibration_error(*sides), "n": len(q)},
    }


def _evaluate_levels(
    by_id: Mapping[str, Row],
    levels: Sequence[Row],
    scores: Mapping[str, float],
    ratings: Mapping[str, ArrayLike] | None,
    partition: tuple[int, int],
    cuts: Sequence[float] | None,
    seed: int,
) -> dict[str, Any]:
    names = [str(row["response_id"]) for row in levels]
    level = np.array([_level_number(row) for row in levels], dtype=np.int64)
    if ratings is not None:
        p = np.array([_known(ratings, name, "rating distribution") for name in names], dtype=np.float64)
        mass = level_masses(p, partition)
    else:
        mass = cut_masses([_known(scores, name, "score") for name in names], cuts or ())
    common = int(np.argmax(np.bincount(level, minlength=len(LEVELS))))
    constant = np.broadcast_to(np.eye(len(LEVELS))[common], mass.shape)
    _, group = np.unique(
        [str(_known(by_id, name, "row in responses")["group"]) for name in names], return_inverse=True
    )
    guessed = (level == common).astype(np.float64)
    right = np.where(
        np.isfinite(mass).all(axis=1), np.argmax(mass, axis=1) == level, np.nan
    )  # NaN: it diverged
    return {
        **level_scores(mass, level),
        "constant": {
            "level": LEVELS[common],
            "value": float(np.mean(guessed)),
            "rps": float(np.mean(_ranked_error(constant, level))),
        },
        "over_constant": clustered_mean(right - guessed, group, seed=seed),
        "rps_gain": clustered_mean(
            _ranked_error(constant, level) - _ranked_error(mass, level), group, seed=seed
        ),
    }


def _ranked_error(mass: Floats, level: Ints) -> Floats:
    """Ranked probability score of each label. [N, 3], [N] -> [N]"""
    reached = level[:, None] <= np.arange(len(LEVELS) - 1)
    error: Floats = np.sum((np.cumsum(mass, axis=1)[:, :-1] - reached) ** 2, axis=1) / 2
    return error


def _evaluate_extremes(levels: Sequence[Row], scores: Mapping[str, float]) -> dict[str, Any] | None:
    numbers = [_level_number(row) for row in levels]
    extreme = [
        (row, number) for row, number in zip(levels, numbers, strict=True) if LEVELS[number] != "normal"
    ]
    reward = [_known(scores, str(row["response_id"]), "score") for row, _ in extreme]
    good = [LEVELS[number] == "good" for _, number in extreme]
    if all(good) or not any(good):
        return None
    return {"value": auroc(reward, good), "n": len(extreme)}


def _level_number(row: Row) -> int:
    if row["level"] not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {row['level']!r}")
    return LEVELS.index(row["level"])


def _by_group(value: float | Mapping[str, float], names: Iterable[str]) -> Floats:
    """One value for each group. [G]"""
    each = [value[name] if isinstance(value, Mapping) else value for name in names]
    return np.array(each, dtype=np.float64)


def _known(table: Mapping[str, T], name: str, what: str) -> T:
    try:
        return table[name]
    except KeyError:
        raise ValueError(f"response {name!r} has no {what}") from None


def cross_entropy(p: Floats, q: Floats) -> Floats:
    """-q log p - (1-q) log(1-p), elementwise in nats; a side nobody chose costs nothing."""
    p = np.clip(p, SMALLEST_P, 1.0 - SMALLEST_P)
    result: Floats = -q * np.log(p) - (1.0 - q) * np.log1p(-p)
    return result


def _quadratic_kappa(first: Ints, second: Ints) -> float | None:
    """Cohen's kappa with quadratic weights of level arrays [N]: 1 - observed / expected squared distance."""
    expected = np.mean(first**2) + np.mean(second**2) - 2 * np.mean(first) * np.mean(second)
    if expected <= 0:
        return None
    return float(1.0 - np.mean((first - second) ** 2) / expected)


def _mean(values: Floats) -> float | None:
    return _finite(values.mean()) if len(values) else None


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
