"""The policy term of HaF-RM."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .outcomes import at_least_fp32


def dpo_terms(
    log_pi_a: torch.Tensor,
    log_pi_b: torch.Tensor,
    log_ref_a: torch.Tensor,
    log_ref_b: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """-logsigmoid(beta h), h = (log_pi_a - log_pi_b) - (log_ref_a - log_ref_b); a chosen. [P] x 4 -> [P]

    DPO on the language model's own head, the policy term of HaF-RM (arXiv 2407.04185 Eq. 6). Every input is a sum over
    the response's tokens: log_pi under the weights of now, log_ref under the starting weights.
    """
    a, b = at_least_fp32(log_pi_a) - log_ref_a, at_least_fp32(log_pi_b) - log_ref_b
    return -F.logsigmoid(beta * (a - b))
