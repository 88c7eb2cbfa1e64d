"""Drawing tokens by inverting the distribution function: one uniform number and one pass per token.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sod.engines.base import Sampling
from sod.seeds import uniforms


def log_probs(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Float32 log-probabilities of the distribution to sample from; -inf where truncated away."""
    logits_BV = logits_BV.float()
    if sampling.temperature not in (0.0, 1.0):
        logits_BV = logits_BV / sampling.temperature
    logp_BV = logits_BV.log_softmax(dim=-1)
    if sampling.top_k > 0:
        kth_B1 = logp_BV.topk(min(sampling.top_k, logp_BV.shape[-1]), dim=-1).values[:, -1:]
        logp_BV = logp_BV.masked_fill(logp_BV < kth_B1, -torch.inf).log_softmax(dim=-1)
    if sampling.top_p < 1.0:
        sorted_BV, order_BV = logp_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.exp().cumsum(dim=-1) - sorted_BV.exp()
        # A token stays when the mass before it is below top_p, so the first always stays.
        sorted_BV = sorted_BV.masked_fill(before_BV >= sampling.top_p, -torch.inf)
        logp_BV = torch.empty_like(logp_BV).scatter_(1, order_BV, sorted_BV).log_softmax(dim=-1)
    return logp_BV


def draw(
    logits_BV: Tensor, sampling: Sampling, key_B: NDArray[np.uint64], position_B: NDArray[np.uint64]
) -> tuple[Tensor, Tensor]:
    """`(token_B, logp_B)`: one token per row, its noise a function of (key, position) alone.

    Greedy decoding (temperature 0) is a point mass: its log-probability is 0.
    """
    if sampling.temperature == 0.0:
        token_B = logits_BV.argmax(dim=-1)
        return token_B, torch.zeros(len(token_B))
    logp_BV = log_probs(logits_BV, sampling)
    mass_BV = logp_BV.exp().cumsum(dim=-1)
    # Scaled by the row's own total, so that rounding in the sum can neither leave a gap nor overshoot.
    noise_B = torch.from_numpy(uniforms(key_B, position_B)).float()
    total_B = mass_BV[:, -1]
    goal_B = torch.minimum(noise_B * total_B, torch.nextafter(total_B, torch.zeros(())))
    # right=True finds the first token whose cumulative mass exceeds the goal: one of non-zero probability.
    token_B = torch.searchsorted(mass_BV, goal_B[:, None], right=True).squeeze(1)
    return token_B, logp_BV.gather(1, token_B[:, None]).squeeze(1)
