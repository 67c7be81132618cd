"""What a judgement can say, and the numerics that the losses share.

One convention throughout: a judgement is a row (a, b, outcome). `a` is the preferred response of a WIN, so a verdict
"b" arrives with its sides swapped. In a TIE or BOTH_BAD the order carries nothing. Every loss is a pure function of
scores and returns one term per judgement, shape [P], never a mean: five annotators are five rows, and a 3:2 split
trains a soft preference. Scalar scores r are [P]; ordinal scores are log p(s), shape [P, 9]. Losses are computed in
fp32 log space (float64 stays float64).
"""

from __future__ import annotations

import torch

WIN, TIE, BOTH_BAD = 0, 1, 2
MAX_STRENGTH = 3


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
