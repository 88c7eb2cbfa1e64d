"""Advantages: the reward term (per trajectory) and how it joins the teacher's signal (per token)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantage(rewards_B: Tensor, group_B: Tensor, epsilon: float = 1e-6) -> Tensor:
    """GRPO's advantage (arXiv 2402.03300): `(r - mean_group) / (std_group + eps)`, unbiased std. Shape B.

    A group of one has no baseline and gives `A = r`; equal rewards in a group give exactly 0.
    `group_B` holds any integers; rows need not be sorted.
    """
    rewards_B = rewards_B.detach().double()
    _, slot_B, count_G = torch.unique(group_B, return_inverse=True, return_counts=True)
    mean_G = torch.zeros_like(count_G, dtype=torch.float64).scatter_add_(0, slot_B, rewards_B) / count_G
    centred_B = rewards_B - mean_G[slot_B]
    square_G = torch.zeros_like(mean_G).scatter_add_(0, slot_B, centred_B**2)
    std_G = (square_G / (count_G - 1).clamp(min=1)).sqrt()
    scaled_B = centred_B / (std_G[slot_B] + epsilon)
    highest_G = torch.full_like(mean_G, -torch.inf).scatter_reduce_(0, slot_B, rewards_B, "amax")
    lowest_G = torch.full_like(mean_G, torch.inf).scatter_reduce_(0, slot_B, rewards_B, "amin")
    # Rounding in the mean must not turn equal rewards into a signal.
    scaled_B = scaled_B.masked_fill((highest_G == lowest_G)[slot_B], 0.0)
    return torch.where(count_G[slot_B] == 1, rewards_B, scaled_B).float()


def combine(
    reward_advantage_B: Tensor | None,
    gap_BT: Tensor | None,
    weight_BT: Tensor | None,
    turn_BT: Tensor,
    kappa: float,
    rho: float,
) -> Tensor:
    """`A_t = kappa * w_k * delta_t + rho * A_grpo` at action tokens, 0 at context (SOD eq. for A_t). Shape B x T.

    A missing part (None) contributes nothing. Where the weight is 0 the gap is not read at all, so a
    gap of -inf there cannot make a NaN.
    """
    action_BT = turn_BT > 0
    total_BT = torch.zeros(turn_BT.shape, dtype=torch.float32)
    if gap_BT is not None and weight_BT is not None and kappa != 0.0:
        live_BT = action_BT & (weight_BT != 0)
        total_BT = total_BT + kappa * weight_BT * gap_BT.masked_fill(~live_BT, 0.0)
    if reward_advantage_B is not None:
        total_BT = total_BT + rho * reward_advantage_B[:, None]
    return total_BT.masked_fill(~action_BT, 0.0).detach()
