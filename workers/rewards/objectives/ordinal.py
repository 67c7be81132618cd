"""Losses of a distribution over the ratings: OPRM, and RgFT by masks over the rating matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..config import REGIONS
from ..scale import RATINGS, UNKNOWN, Partition
from .outcomes import BOTH_BAD, MAX_STRENGTH, TIE, at_least_fp32, log1mexp


def log_ratings(logits: torch.Tensor) -> torch.Tensor:
    """log p(s) from nine logits, in at least fp32. [..., 9] -> [..., 9]"""
    return F.log_softmax(at_least_fp32(logits), dim=-1)


def region_mask(
    partition: Partition, region: str, level_a: int, level_b: int, strength: int = 1
) -> torch.Tensor:
    """Cells (i, j) of the rating matrix in which a WIN of a over b may fall. [9, 9] bool, i rows (a), j columns (b)

    `flood`: lo(b) <= j < i <= hi(a); `intersect`: j < i within both levels; `rectangle`: both levels, whatever
    the order; `none`: j < i (RgFT, arXiv 2602.12660 Eq. 8; docs/methods.md says how it was read). UNKNOWN stands
    for all ratings. Strength m keeps i - j >= m, or the widest gap that the region still has. Levels too narrow
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
    """All masks: level of a, level of b (3 = unknown), strength - 1. [4, 4, 3, 9, 9] bool"""
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
    """log sum of p_a(i) p_b(j) over the mask's cells. [P, 9], [P, 9], [P, 9, 9] or [9, 9] bool -> [P]"""
    joint = log_a.unsqueeze(2) + log_b.unsqueeze(1)  # [P, 9, 9]
    return joint.masked_fill(~mask, -torch.inf).flatten(1).logsumexp(1)


def oprm_terms(
    log_a: torch.Tensor,
    log_b: torch.Tensor,
    outcome: torch.Tensor,
    win_mask: torch.Tensor,
    bad: torch.Tensor,
) -> torch.Tensor:
    """OPRM and, with region masks, RgFT (arXiv 2602.12660). log p [P, 9] x 2, outcome [P], mask [P, 9, 9] -> [P]

    WIN is -log of the mask's mass (W, or RgFT's region); TIE is -log T, T = sum_i p_a(i) p_b(i); BOTH_BAD is
    -log P(s_a bad) - log P(s_b bad), with `bad` the ratings of that level, [9] bool. Where people may say "both bad",
    log_not_both_bad belongs to their other verdicts.
    """
    diagonal = torch.eye(RATINGS, dtype=torch.bool, device=log_a.device)
    mask = torch.where((outcome == TIE).view(-1, 1, 1), diagonal, win_mask)
    both_bad = level_terms(log_a, bad) + level_terms(log_b, bad)
    return torch.where(outcome == BOTH_BAD, both_bad, -log_mass(log_a, log_b, mask))


def log_not_both_bad(log_a: torch.Tensor, log_b: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
    """log(1 - P(s_a bad) P(s_b bad)), beside its order what a verdict not "both bad" says. [P, 9] x 2, [9] -> [P]

    As in bt_terms, the person first sees whether both are bad and only otherwise compares. So P(both bad) and
    (1 - P(both bad)) times W, T and W' add up to one; without the factor nothing would ever speak against bad.
    """
    return log1mexp(-level_terms(log_a, bad) - level_terms(log_b, bad))


def roughness(log_p: torch.Tensor) -> torch.Tensor:
    """How uneven a distribution is over neighbouring ratings: the squared second differences of log p. [N, 9] -> [N]

    sum_k (log p(k+1) - 2 log p(k) + log p(k-1))^2, k = 2..8 (ours): 0 where p rises or falls by one factor throughout.
    Pairs and levels never say where inside a level the mass lies; without a penalty nine free logits learn a comb.
    """
    return log_p.diff(n=2, dim=1).square().sum(1)


def level_terms(log_p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A response with a level but no pair: -log sum_{k in level} p(k). [N, 9], [N, 9] bool -> [N]"""
    return -log_p.masked_fill(~mask, -torch.inf).logsumexp(1)
