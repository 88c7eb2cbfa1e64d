"""Turn weights: how much of the teacher's signal each turn gets. Pure, detached, `stats -> weight_BK`."""

from __future__ import annotations

import torch
from torch import Tensor

from sod.objective.stats import TurnStats


def uniform(stats: TurnStats) -> Tensor:
    """Weight 1 for every turn that has tokens (plain OPD). Shape B x K."""
    return (stats.tokens_BK > 0).to(stats.divergence_BK.dtype)


def sod(stats: TurnStats, delta: float = 0.2, epsilon: float = 1e-6) -> Tensor:
    """SOD's turn weights (arXiv 2605.07725): less signal where the student has drifted from the teacher.

    `w_1 = 1`, `w_k = min(prod_{u<k} (d_u + eps) / (d_{u+1} + eps), 1 + delta)`. The running product is
    not clipped, only the weight, so it telescopes to `(d_1 + eps) / (d_k + eps)`. Turns without tokens
    get 0 and are skipped by the product. `delta=inf` is the paper's "no clip" ablation. Shape B x K.
    """
    present_BK = stats.tokens_BK > 0
    first_B1 = present_BK.to(torch.int64).argmax(dim=1, keepdim=True)
    # In double precision: weights must not depend on how the tensor was padded or ordered.
    divergence_BK = stats.divergence_BK.double() + epsilon
    base_B1 = divergence_BK.gather(1, first_B1)
    ratio_BK = base_B1 / divergence_BK
    ratio_BK = torch.where(torch.isinf(base_B1) & torch.isinf(divergence_BK), 1.0, ratio_BK)
    weight_BK = ratio_BK.clamp(max=1.0 + delta).scatter(1, first_B1, 1.0)
    return weight_BK.masked_fill(~present_BK, 0.0).to(stats.divergence_BK.dtype)
