"""The loss: PPO's clipped surrogate over action tokens."""

from __future__ import annotations

import math
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
    dual_clipped: float


def clipped_surrogate(
    logp_BT: Tensor,
    old_BT: Tensor,
    advantage_BT: Tensor,
    turn_BT: Tensor,
    loss_weight_BT: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    importance_BT: Tensor | None = None,
) -> SurrogateTerms:
    """`-sum_t s_t min(r A, clip(r, 1 - low, 1 + high) A)` with `r = pi_theta / pi_old` (arXiv 1707.06347).

    With `dual_clip` c > 1 (arXiv 1912.09729) a token of negative advantage counts `c A` at least, so that a ratio above
    c makes the loss no larger and moves nothing.

    `importance_BT` are factors of the tokens, detached, for what other weights have sampled (`objective.importance`);
    the figures beside the loss are without them.

    `s_t` is `loss_weight_BT` (see `aggregation.loss_weights`), which adds up to 1 over the whole mini-batch, not over
    this micro-batch. The clip range is DAPO's decoupled one (arXiv 2503.14476). Context positions are masked before
    any arithmetic.
    """
    action_BT = turn_BT > 0
    log_ratio = logp_BT[action_BT] - old_BT[action_BT]
    advantage = advantage_BT[action_BT]
    loss_weight = loss_weight_BT[action_BT]
    struck = torch.zeros_like(advantage, dtype=torch.bool)
    bounded_log_ratio = log_ratio
    if dual_clip is not None:
        struck = (advantage < 0.0) & (log_ratio > math.log(dual_clip))
        # Before the exponential, so that a ratio that overflows has the gradient 0 and not 0 * inf.
        bounded_log_ratio = log_ratio.masked_fill(struck, math.log(dual_clip))
    ratio = bounded_log_ratio.exp()
    plain = ratio * advantage
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage
    counted = loss_weight if importance_BT is None else loss_weight * importance_BT[action_BT]
    loss = -(counted * torch.minimum(plain, bounded)).sum()
    with torch.no_grad():
        clipped = float(loss_weight[bounded < plain].sum())
        # k3 estimator of KL(old || new) (Schulman, "Approximating KL divergence").
        kl = float((loss_weight * (log_ratio.exp() - 1.0 - log_ratio)).sum())
    return SurrogateTerms(loss, clipped, kl, float(loss_weight[struck].sum()))
