"""Turn weights: how much of the teacher's signal each turn gets. Pure, detached, `stats -> weight_BK`.

Turns without tokens always get 0. Legend: B trajectories, K turns.

Deviations from the papers: `sage` takes its label from what can be observed, where the paper asks the teacher in words,
and its threshold is ours; `atod` counts an infinite turn gap as 1 and the finite ones beside it as 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sod.objective.stats import TurnStats

FLAT = 1e-8  # nats/token: a narrower range within a trajectory says nothing


def uniform(stats: TurnStats) -> Tensor:
    """Weight 1 for every turn that has tokens (plain OPD). Shape B x K."""
    return (stats.tokens_BK > 0).to(stats.turn_gap_BK.dtype)


def sod(stats: TurnStats, delta: float = 0.2, epsilon: float = 1e-6) -> Tensor:
    """SOD's turn weights (arXiv 2605.07725): less signal where the student has drifted from the teacher.

    `w_1 = 1`, `w_k = min(prod_{u<k} (d_u + eps) / (d_{u+1} + eps), 1 + delta)`. The running product is
    not clipped, only the weight, so it telescopes to `(d_1 + eps) / (d_k + eps)`. Turns without tokens
    are skipped by the product. `delta=inf` is the paper's "no clip" ablation. Shape B x K.
    """
    present_BK = stats.tokens_BK > 0
    first_B1 = present_BK.to(torch.int64).argmax(dim=1, keepdim=True)
    # In double precision: weights must not depend on how the tensor was padded or ordered.
    turn_gap_BK = stats.turn_gap_BK.double() + epsilon
    base_B1 = turn_gap_BK.gather(1, first_B1)
    ratio_BK = base_B1 / turn_gap_BK
    ratio_BK = torch.where(torch.isinf(base_B1) & torch.isinf(turn_gap_BK), 1.0, ratio_BK)
    weight_BK = ratio_BK.clamp(max=1.0 + delta).scatter(1, first_B1, 1.0)
    return weight_BK.masked_fill(~present_BK, 0.0).to(stats.turn_gap_BK.dtype)


def atod(stats: TurnStats) -> Tensor:
    """ATOD's turn weights (arXiv 2606.27814): *more* signal where the student is unsure or far from the teacher.

    `w_k = 1 - (1 - d~_k)(1 - h~_k)`, `d~` and `h~` min-max normalised within the trajectory; a range below 1e-8
    gives 0.5. Shape B x K.
    """
    present_BK = stats.tokens_BK > 0
    d_BK = _min_max(stats.turn_gap_BK, present_BK)
    h_BK = _min_max(stats.nll_BK, present_BK)
    weight_BK = 1.0 - (1.0 - d_BK) * (1.0 - h_BK)
    return weight_BK.masked_fill(~present_BK, 0.0).to(stats.turn_gap_BK.dtype)


def error_decay(stats: TurnStats, decay: float = 0.9) -> Tensor:
    """`decay^(k - k_err)` after the first turn whose tool call failed, 1 up to it (ablation in SOD). Shape B x K."""
    after_BK = _turns_since_error(stats)
    weight_BK = torch.where(after_BK > 0, decay ** after_BK.double(), 1.0)
    return weight_BK.masked_fill(stats.tokens_BK == 0, 0.0).to(stats.turn_gap_BK.dtype)


def error_mask(stats: TurnStats) -> Tensor:
    """0 after the first turn whose tool call failed, 1 up to it (ablation in SOD). Shape B x K."""
    weight_BK = (_turns_since_error(stats) == 0).to(stats.turn_gap_BK.dtype)
    return weight_BK.masked_fill(stats.tokens_BK == 0, 0.0)


def sage(stats: TurnStats, threshold: float = 0.1) -> Tensor:
    """SAGE-OPD's turn weights (arXiv 2606.19659): intervene where needed, as strongly as the teacher is sure.

    `w_k` is the intervention label times the teacher's mean top-1 probability over the turn, scaled so that
    `sum_k w_k n_k` over the batch is its number of action tokens. Deviation: the paper asks the teacher in words
    whether to intervene; here the label is 1 where the turn's tool call failed, 0.5 where `d_k > threshold`
    (nats/token), else 0. No intervention anywhere gives 0 everywhere. Shape B x K.
    Raises ValueError without the teacher's confidence.
    """
    if stats.confidence_BK is None:
        raise ValueError("SAGE needs the teacher's top-1 probabilities")
    label_BK = torch.where(stats.turn_gap_BK > threshold, 0.5, 0.0).masked_fill(stats.error_BK, 1.0)
    weight_BK = label_BK.double() * stats.confidence_BK.double()
    weight_BK = weight_BK.masked_fill(stats.tokens_BK == 0, 0.0)
    total = float((weight_BK * stats.tokens_BK).sum())
    if total > 0.0:
        weight_BK = weight_BK * (float(stats.tokens_BK.sum()) / total)
    return weight_BK.to(stats.turn_gap_BK.dtype)


def _min_max(value_BK: Tensor, present_BK: Tensor) -> Tensor:
    """`(x - min) / (max - min)` over the turns that are there; 0.5 where they hardly differ. Double precision."""
    value_BK = value_BK.double()
    low_B1 = value_BK.masked_fill(~present_BK, torch.inf).amin(dim=1, keepdim=True)
    high_B1 = value_BK.masked_fill(~present_BK, -torch.inf).amax(dim=1, keepdim=True)
    range_B1 = high_B1 - low_B1
    scaled_BK = (value_BK - low_B1) / range_B1
    # A turn at infinity is the highest there is, beside which all finite ones are the lowest.
    scaled_BK = torch.where(torch.isinf(high_B1), torch.isinf(value_BK).double(), scaled_BK)
    alike_B1 = (range_B1 < FLAT) | (torch.isinf(low_B1) & torch.isinf(high_B1))
    return torch.where(alike_B1, 0.5, scaled_BK)


def _turns_since_error(stats: TurnStats) -> Tensor:
    """`k - k_err` after the first failed call, 0 up to it and where none failed. Int64, B x K."""
    turns = stats.error_BK.shape[1]
    number_BK = torch.arange(turns).expand_as(stats.error_BK)
    first_B1 = torch.where(stats.error_BK, number_BK, turns).amin(dim=1, keepdim=True)
    return (number_BK - first_B1).clamp(min=0)
