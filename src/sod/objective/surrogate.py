"""The loss: PPO's clipped surrogate over action tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class SurrogateTerms:
    """The micro-batch's part of the mini-batch's means over action tokens."""

    loss: Tensor  # differentiable
    clipped: float
    kl: float


def clipped_surrogate(
    logp_BT: Tensor,
    old_BT: Tensor,
    advantage_BT: Tensor,
    turn_BT: Tensor,
    loss_weight_BT: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> SurrogateTerms:
    """`-sum_t s_t min(r A, clip(r, 1 - low, 1 + high) A)` with `r = pi_theta / pi_old` (arXiv 1707.06347).

    `s_t` is `loss_weight_BT` (see `aggregation.loss_weights`), which adds up to 1 over the whole mini-batch, not over
    this micro-batch. The clip range is DAPO's decoupled one (arXiv 2503.14476). Context positions are masked before
    any arithmetic.
    """
    action_BT = turn_BT > 0
    log_ratio = logp_BT[action_BT] - old_BT[action_BT]
    advantage = advantage_BT[action_BT]
    loss_weight = loss_weight_BT[action_BT]
    ratio = log_ratio.exp()
    plain = ratio * advantage
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage
    loss = -(loss_weight * torch.minimum(plain, bounded)).sum()
    with torch.no_grad():
        clipped = float(loss_weight[bounded < plain].sum())
        # k3 estimator of KL(old || new) (Schulman, "Approximating KL divergence").
        kl = float((loss_weight * (ratio - 1.0 - log_ratio)).sum())
    return SurrogateTerms(loss, clipped, kl)
