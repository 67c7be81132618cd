"""Every loss as a pure function of scores, in fp32 log space (float64 stays float64).

One convention throughout: a judgement is a row (a, b, outcome).  `a` is the preferred response of a WIN, so a
verdict "b" arrives with its sides swapped; in a TIE or BOTH_BAD the order carries nothing.  Each function returns
one term per judgement, shape [P], never a mean: five annotators are five rows, and a 3:2 split trains a soft
preference.  Scalar scores r are [P]; ordinal scores are log p(s), shape [P, 9].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .config import REGIONS
from .scale import RATINGS, UNKNOWN, Partition

WIN, TIE, BOTH_BAD = 0, 1, 2
MAX_STRENGTH = 3


def log_ratings(logits: torch.Tensor) -> torch.Tensor:
    """log p(s) from nine logits, in at least fp32.  [..., 9] -> [..., 9]"""
    return F.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)



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
    tie: torch.Tensor | None = None,
    bad_threshold: torch.Tensor | None = None,
    centring: float = 0.0,
) -> torch.Tensor:
    """Bradley-Terry with margin, ties and "both bad"; scores, outcome and margin [P] -> terms [P].

    WIN is -logsigmoid(r_a - r_b - margin) (METHODS.md 2), TIE the Rao-Kupper tie.  `tie` and `bad_threshold` are
    scalars and needed only when such outcomes occur; without them this is plain Bradley-Terry.

    BOTH_BAD speaks of absolute quality, of which a difference knows nothing.  Decided: the person first sees
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


def clf_terms(score_a: torch.Tensor, score_b: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """Order-consistent classification (arXiv 2411.04991): BCE of each response alone.  [P] x 3 -> [P]

    Chosen 1, rejected 0; in a tie both 1/2, in "both bad" both 0.  P(order wrong) is bounded by the sum of the two
    misclassification probabilities, hence the sum of the two entropies.
    """
    score_a, score_b = at_least_fp32(score_a), at_least_fp32(score_b)
    half, zero = torch.full_like(score_a, 0.5), torch.zeros_like(score_a)
    target_a = torch.where(outcome == WIN, torch.ones_like(score_a), torch.where(outcome == TIE, half, zero))
    target_b = torch.where(outcome == TIE, half, zero)
    with_logits = F.binary_cross_entropy_with_logits
    return with_logits(score_a, target_a, reduction="none") + with_logits(score_b, target_b, reduction="none")



def region_mask(
    partition: Partition, region: str, level_a: int, level_b: int, strength: int = 1
) -> torch.Tensor:
    """Cells (i, j) of the rating matrix in which a WIN of a over b may fall.  [9, 9] bool, i rows (a), j columns (b)

    `flood`: lo(b) <= j < i <= hi(a); `intersect`: j < i within both levels; `rectangle`: both levels, whatever
    the order; `none`: j < i (RgFT, arXiv 2602.12660 Eq. 8; METHODS.md says which reading is open).  UNKNOWN stands
    for all ratings.  Strength m keeps i - j >= m, or the widest gap that the region still has.  Levels too narrow
    to hold any order (one rating each, both the same) say nothing about it, and the mask is that of `none`.
    """
    if region not in REGIONS:
        raise ValueError(f"unknown region {region!r}; choose one of {', '.join(REGIONS)}")
    i = torch.arange(1, RATINGS + 1).unsqueeze(1)  # [9, 1]
    j = torch.arange(1, RATINGS + 1).unsqueeze(0)  # [1, 9]
    low_a, high_a = partition.bounds(level_a)
    low_b, high_b = partition.bounds(level_b)
    in_levels = (i >= low_a) & (i <= high_a) & (j >= low_b) & (j <= high_b)
    below = j < i
    unlabelled = level_a == UNKNOWN and level_b == UNKNOWN
    if region == "none" or unlabelled:
        mask = below.expand(RATINGS, RATINGS)
    elif region == "flood":
        mask = below & (j >= low_b) & (i <= high_a)
    elif region == "intersect":
        mask = below & in_levels
    else:
        mask = in_levels
    if not mask.any():
        mask = below.expand(RATINGS, RATINGS)
    gap = min(strength, int((i - j).expand(RATINGS, RATINGS)[mask].max()))
    return mask & (i - j >= gap) if strength > 1 else mask.clone()


def region_table(partition: Partition, region: str) -> torch.Tensor:
    """All masks: level of a, level of b (3 = unknown), strength - 1.  [4, 4, 3, 9, 9] bool"""
    levels = range(UNKNOWN + 1)
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([region_mask(partition, region, a, b, m) for m in range(1, MAX_STRENGTH + 1)])
                    for b in levels
                ]
            )
            for a in levels
        ]
    )


def log_mass(log_a: torch.Tensor, log_b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log sum of p_a(i) p_b(j) over the mask's cells.  [P, 9], [P, 9], [P, 9, 9] or [9, 9] bool -> [P]"""
    joint = log_a.unsqueeze(2) + log_b.unsqueeze(1)  # [P, 9, 9]
    return joint.masked_fill(~mask, -torch.inf).flatten(1).logsumexp(1)


def oprm_terms(
    log_a: torch.Tensor,
    log_b: torch.Tensor,
    outcome: torch.Tensor,
    win_mask: torch.Tensor,
    bad: torch.Tensor,
) -> torch.Tensor:
    """OPRM and, with region masks, RgFT (arXiv 2602.12660).  log p [P, 9] x 2, outcome [P], mask [P, 9, 9] -> [P]

    WIN is -log of the mask's mass (W, or RgFT's region); TIE is -log T, T = sum_i p_a(i) p_b(i); BOTH_BAD is
    -log P(s_a bad) - log P(s_b bad), with `bad` the ratings of that level, [9] bool.  Where people may say "both bad",
    log_not_both_bad belongs to their other verdicts.
    """
    diagonal = torch.eye(RATINGS, dtype=torch.bool, device=log_a.device)
    mask = torch.where((outcome == TIE).view(-1, 1, 1), diagonal, win_mask)
    both_bad = level_terms(log_a, bad) + level_terms(log_b, bad)
    return torch.where(outcome == BOTH_BAD, both_bad, -log_mass(log_a, log_b, mask))


def log_not_both_bad(log_a: torch.Tensor, log_b: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
    """log(1 - P(s_a bad) P(s_b bad)), beside its order what a verdict not "both bad" says.  [P, 9] x 2, [9] -> [P]

    As in bt_terms, the person first sees whether both are bad and only otherwise compares.  So P(both bad) and
    (1 - P(both bad)) times W, T and W' add up to one; without the factor nothing would ever speak against bad.
    """
    return log1mexp(-level_terms(log_a, bad) - level_terms(log_b, bad))


def level_terms(log_p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A response with a level but no pair: -log sum_{k in level} p(k).  [N, 9], [N, 9] bool -> [N]"""
    return -log_p.masked_fill(~mask, -torch.inf).logsumexp(1)



def dpo_terms(
    log_pi_a: torch.Tensor,
    log_pi_b: torch.Tensor,
    log_ref_a: torch.Tensor,
    log_ref_b: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """-logsigmoid(beta h), h = (log_pi_a - log_pi_b) - (log_ref_a - log_ref_b); a chosen.  [P] x 4 -> [P]

    DPO on the language model's own head, the policy term of HaF-RM (arXiv 2407.04185 Eq. 6).  Every input is a sum over
    the response's tokens: log_pi under the weights of now, log_ref under the starting weights.
    """
    a, b = at_least_fp32(log_pi_a) - log_ref_a, at_least_fp32(log_pi_b) - log_ref_b
    return -F.logsigmoid(beta * (a - b))


def at_least_fp32(scores: torch.Tensor) -> torch.Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) for x < 0, exact at both ends (Maechler 2012)."""
    x = x.clamp_max(-1e-7)  # q_a q_b = 1 would forbid every comparison; the gradient must stay finite
    near = x > -0.6931471805599453
    # both branches are evaluated, so each gets arguments that keep its gradient finite
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, x.new_tensor(-0.5)))),
        torch.log1p(-torch.exp(torch.where(near, x.new_tensor(-1.0), x))),
    )
