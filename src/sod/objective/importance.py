"""Importance weights: what a token counts that was sampled by other weights than those that learn from it.

A batch may be sampled by the version of the weights before (`rollout.max_staleness`), or by an engine that rounds in
another way. The expectation is then over another distribution; `pi_old / pi_sampled` corrects it, cut at 2 so that no
token is worth more than two (truncated importance sampling, Ionides 2008; in language models Yao et al. 2025).

Legend: B trajectories, T tokens, N action tokens.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sod.objective.batch import TokenBatch

CUT = 2.0
ImportanceLevel = Literal["token", "sequence"]


def importance_weights(old_BT: Tensor, batch: TokenBatch, level: ImportanceLevel) -> Tensor:
    """`min(pi_old / pi_sampled, 2)` at action tokens, 1 at context. Detached. Shape B x T.

    `token`: each token's own ratio. `sequence`: the ratio of the whole trajectory, the product of those of its tokens,
    at each of them: unbiased but for the cut, and of a high variance where trajectories are long.
    """
    ratio_BT = log_ratios(old_BT, batch)
    if level == "sequence":
        ratio_BT = ratio_BT.sum(dim=1, keepdim=True).expand_as(ratio_BT)
    # Cut before the exponential, which would overflow.
    weight_BT = ratio_BT.clamp(max=math.log(CUT)).exp()
    return torch.where(batch.turn_BT > 0, weight_BT, 1.0)


def importance_figures(old_BT: Tensor, batch: TokenBatch, level: ImportanceLevel) -> dict[str, float]:
    """Of the action tokens the mean weight, and the share whose weight was cut.

    And the mismatch, their mean absolute log-ratio (nats/token).
    """
    action_BT = batch.turn_BT > 0
    ratio_BT, weight_BT = log_ratios(old_BT, batch), importance_weights(old_BT, batch, level)
    over_BT = ratio_BT if level == "token" else ratio_BT.sum(dim=1, keepdim=True).expand_as(ratio_BT)
    return {
        "mismatch": float(ratio_BT[action_BT].abs().mean()),
        "importance_weight": float(weight_BT[action_BT].mean()),
        "importance_truncated": float((over_BT > math.log(CUT))[action_BT].float().mean()),
    }


def log_ratios(old_BT: Tensor, batch: TokenBatch) -> Tensor:
    """`log pi_old - log pi_sampled` at action tokens, 0 at context. Detached. Shape B x T."""
    away_BT = old_BT.detach() - batch.sampled_BT
    return torch.where(batch.turn_BT > 0, away_BT, 0.0)
