"""Drawing the tokens of all rows in one pass, from noise that is on the device already.

The same numbers as `sod.engines.sampler`, which goes through a CPU's caches in small passes. Nothing here comes from
the host or is read by it, so that a CUDA graph can hold it.

Legend: B rows, V vocabulary, M blocks of the vocabulary, W tokens in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sod.engines.base import Sampling
from sod.engines.sampler import BLOCK, log_probs


def draw(logits_BV: Tensor, noise_B: Tensor, row_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """`(token_B, logp_B)` by uniform numbers (float64); `row_B` counts the rows from 0.

    Greedy decoding is a point mass: its log-probability is 0. Where a row's logits are not finite its
    log-probability is not either.
    """
    if sampling.temperature == 0.0:
        highest_B, token_B = logits_BV.max(dim=-1)
        return token_B, highest_B.float() * 0.0
    if sampling.top_k > 0 or sampling.top_p < 1.0:
        score_BV = log_probs(logits_BV, sampling)
    elif sampling.temperature == 1.0:
        score_BV = logits_BV.float()
    else:
        score_BV = logits_BV.float() / sampling.temperature
    return invert(score_BV, noise_B, row_B)


def invert(score_BV: Tensor, noise_B: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the distribution function in two stages: the block of tokens, then the token in it."""
    highest_B1 = score_BV.amax(dim=-1, keepdim=True)
    mass_BV = (score_BV - highest_B1).exp()
    rows, vocabulary = mass_BV.shape
    blocks_BMW = pad(mass_BV, (0, -vocabulary % BLOCK)).view(rows, -1, BLOCK)
    sum_BM = blocks_BMW.sum(dim=-1).double()
    upto_BM = sum_BM.cumsum(dim=-1)
    total_B = upto_BM[:, -1]
    # Scaled by the row's own total, so that rounding in the sum can neither leave a gap nor overshoot.
    goal_B = torch.minimum(noise_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    block_B = torch.searchsorted(upto_BM, goal_B[:, None], right=True).squeeze(1).clamp(max=upto_BM.shape[1] - 1)
    before_B = (upto_BM - sum_BM).gather(1, block_B[:, None]).squeeze(1)
    inside_BW = blocks_BMW[row_B, block_B].double().cumsum(dim=-1)
    rest_B = (goal_B - before_B).clamp(min=0.0)
    rest_B = torch.minimum(rest_B, torch.nextafter(inside_BW[:, -1], torch.zeros_like(total_B)))
    token_B = block_B * BLOCK + torch.searchsorted(inside_BW, rest_B[:, None], right=True).squeeze(1)
    token_B = token_B.clamp(max=vocabulary - 1)  # beyond it only where a logit is NaN, and so the log-probability
    logp_B = (score_BV - highest_B1).gather(1, token_B[:, None]).squeeze(1) - total_B.log()
    return token_B, logp_B.float()
