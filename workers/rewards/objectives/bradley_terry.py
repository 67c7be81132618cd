"""Losses of a scalar reward: Bradley-Terry with ties, strength and "both bad", the classifier, and levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .outcomes import BOTH_BAD, TIE, WIN, at_least_fp32, log1mexp


def rao_kupper(
    difference: torch.Tensor, tie: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log P(a), log P(tie), log P(b) at d = r_a - r_b under Rao & Kupper (1967) with threshold tie = eta >= 0.

    P(a) = sigmoid(d - eta), P(b) = sigmoid(-d - eta), P(tie) = (e^{2 eta} - 1) P(a) P(b); they add up to one.
    At eta = 0 this is Bradley-Terry and log P(tie) = -inf.
    """
    log_a = F.logsigmoid(difference - tie)
    log_b = F.logsigmoid(-difference - tie)
    # log(e^{2 eta} - 1) written so that neither a small nor a large eta overflows
    log_tie = 2 * tie + torch.log(-torch.expm1(-2 * tie)) + log_a + log_b
    return log_a, log_tie, log_b


def bt_terms(
    score_a: torch.Tensor,
    score_b: torch.Tensor,
    outcome: torch.Tensor,
    *,
    margin: torch.Tensor | None = None,
    strength: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
    tie: torch.Tensor | None = None,
    bad_threshold: torch.Tensor | None = None,
    centring: float = 0.0,
) -> torch.Tensor:
    """Bradley-Terry with strength, ties and "both bad"; scores, outcome, margin and strength [P] -> terms [P].

    WIN is -logsigmoid(r_a - r_b - margin), TIE the Rao-Kupper tie. `tie` and `bad_threshold` are
    scalars and needed only when such outcomes occur; without them this is plain Bradley-Terry.

    `steps` [M - 1], rising from above 0, are learned in the margin's place: cumulative ordinal regression on the
    difference d (arXiv 2603.02232). With t_m = eta + steps_m and t_0 = eta (`tie`, or 0), the innermost threshold,
        P(a wins by m + 1 or more) = sigmoid(d - t_m),
    so the strengths of a's wins, the tie and those of b's wins are one distribution. Strength 0 is one that nobody
    said: the order alone.

    BOTH_BAD speaks of absolute quality, of which a difference knows nothing. Decided: the person first sees
    whether both are bad, each with P(bad | r) = sigmoid(bad_threshold - r), and only otherwise compares:
        P(both bad) = q_a q_b,  P(v) = (1 - q_a q_b) RaoKupper(v)  for a, b, tie.
    So the four outcomes stay one distribution, and the threshold cannot run away, since each comparison is a
    witness against it.
    """
    score_a, score_b = at_least_fp32(score_a), at_least_fp32(score_b)
    difference = score_a - score_b
    shifted = difference if margin is None else difference - margin
    eta = difference.new_zeros(()) if tie is None else tie.to(difference)
    terms = -F.logsigmoid(shifted - eta)
    if steps is not None and strength is not None:
        terms = -_log_strengths(difference, eta, steps)[torch.arange(len(strength)), strength]
    if tie is not None:
        terms = torch.where(outcome == TIE, -rao_kupper(difference, eta)[1], terms)
    elif bool((outcome == TIE).any()):
        raise ValueError("ties need the Rao-Kupper threshold")
    if bad_threshold is not None:
        threshold = bad_threshold.to(difference)
        log_both_bad = F.logsigmoid(threshold - score_a) + F.logsigmoid(threshold - score_b)
        terms = torch.where(outcome == BOTH_BAD, -log_both_bad, terms - log1mexp(log_both_bad))
    elif bool((outcome == BOTH_BAD).any()):
        raise ValueError('"both bad" needs a threshold')
    if centring:
        terms = terms + centring * (score_a + score_b) ** 2
    return terms


def _log_strengths(difference: torch.Tensor, eta: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """log P(a wins), and of a's wins by each strength 1..M, at d = r_a - r_b. [P], [], [M - 1] -> [P, M + 1]"""
    inner = eta + torch.cat([steps.new_zeros(1), steps]).to(difference)  # t_0 .. t_{M-1}
    reached = F.logsigmoid(difference.unsqueeze(1) - inner)  # [P, M]
    within = (
        reached[:, :-1] + F.logsigmoid(inner[1:] - difference.unsqueeze(1)) + log1mexp(inner[:-1] - inner[1:])
    )
    return torch.cat([reached[:, :1], within, reached[:, -1:]], dim=1)


def log_levels(score: torch.Tensor, cuts: torch.Tensor) -> torch.Tensor:
    """log P(bad), P(normal), P(good) of a reward by two cut points c1 < c2. [N], [2] -> [N, 3]

    Cumulative logit (McCullagh 1980): P(bad) = sigmoid(c1 - r), P(bad or normal) = sigmoid(c2 - r). The difference of
    two sigmoids is a product, so that no logarithm is taken of a difference that rounding made 0:
    sigmoid(x) - sigmoid(y) = sigmoid(x) sigmoid(-y) (1 - e^(y - x)).
    """
    score = at_least_fp32(score)
    low, high = cuts.to(score)
    normal = F.logsigmoid(high - score) + F.logsigmoid(score - low) + log1mexp(low - high)
    return torch.stack([F.logsigmoid(low - score), normal, F.logsigmoid(score - high)], dim=1)


def clf_terms(score_a: torch.Tensor, score_b: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """Order-consistent classification (arXiv 2411.04991): BCE of each response alone. [P] x 3 -> [P]

    Chosen 1, rejected 0; in a tie both 1/2, in "both bad" both 0. P(order wrong) is bounded by the sum of the two
    misclassification probabilities, hence the sum of the two entropies.
    """
    score_a, score_b = at_least_fp32(score_a), at_least_fp32(score_b)
    half, zero = torch.full_like(score_a, 0.5), torch.zeros_like(score_a)
    target_a = torch.where(outcome == WIN, torch.ones_like(score_a), torch.where(outcome == TIE, half, zero))
    target_b = torch.where(outcome == TIE, half, zero)
    with_logits = F.binary_cross_entropy_with_logits
    return with_logits(score_a, target_a, reduction="none") + with_logits(score_b, target_b, reduction="none")
