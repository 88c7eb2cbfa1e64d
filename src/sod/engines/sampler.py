"""Drawing tokens by inverting the distribution function: one uniform number per token, one trip through memory.

Legend: B rows, V vocabulary, M blocks of the vocabulary, W tokens in a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from sod.engines.base import Sampling
from sod.records import SodError
from sod.seeds import uniforms

BLOCK = 256  # tokens whose mass is summed before any is looked at alone
CACHED_LOGITS = 2**19  # per pass: 2 MB of float32, which stay in a core's cache from one operation to the next


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


def draw_tokens(
    logits_BV: Tensor, sampling: Sampling, key_B: NDArray[np.uint64], position_B: NDArray[np.uint64]
) -> tuple[Tensor, Tensor]:
    """`(token_B, logp_B)`: one token per row, its noise a function of (key, position) alone.

    Greedy decoding (temperature 0) is a point mass: its log-probability is 0. Where a row's logits are not finite
    its log-probability is not either.
    """
    if sampling.temperature == 0.0:
        highest_B, token_B = logits_BV.max(dim=-1)
        return token_B, highest_B.float() * 0.0
    noise_B = torch.from_numpy(uniforms(key_B, position_B)).to(logits_BV.device)
    # A CPU keeps a few rows in its cache; elsewhere each pass costs its launches, so there is one.
    rows = max(1, CACHED_LOGITS // logits_BV.shape[1]) if logits_BV.is_cpu else len(logits_BV)
    drawn = [
        invert(scores(part, sampling), noise, torch.arange(len(part), device=part.device))
        for part, noise in zip(logits_BV.split(rows), noise_B.split(rows), strict=True)
    ]
    return torch.cat([token_B for token_B, _ in drawn]), torch.cat([logp_B for _, logp_B in drawn])


def scores(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Float32 log-probabilities up to a number that a row has in common; -inf where truncated away."""
    if sampling.top_k > 0 or sampling.top_p < 1.0:
        return log_probs(logits_BV, sampling)
    return logits_BV.float() if sampling.temperature == 1.0 else logits_BV.float() / sampling.temperature


def invert(score_BV: Tensor, noise_B: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the distribution function in two stages: the block of tokens, then the token in it.

    `row_B` counts the rows from 0. Nothing here comes from the host or is read by it, so that a CUDA graph can hold it.
    """
    highest_B1 = score_BV.amax(dim=-1, keepdim=True)
    mass_BV = (score_BV - highest_B1).exp_()
    rows, vocabulary = mass_BV.shape
    padded_BV = pad(mass_BV, (0, -vocabulary % BLOCK)) if vocabulary % BLOCK else mass_BV
    blocks_BMW = padded_BV.view(rows, -1, BLOCK)
    sum_BM = blocks_BMW.sum(dim=-1).double()
    upto_BM = sum_BM.cumsum(dim=-1)
    total_B = upto_BM[:, -1]
    # Scaled by the row's own total, so that rounding in the sum can neither leave a gap nor overshoot.
    goal_B = torch.minimum(noise_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    # right=True finds the first block, and the first token in it, whose cumulative mass exceeds the goal.
    block_B = torch.searchsorted(upto_BM, goal_B[:, None], right=True).squeeze(1).clamp(max=upto_BM.shape[1] - 1)
    before_B = (upto_BM - sum_BM).gather(1, block_B[:, None]).squeeze(1)
    inside_BW = blocks_BMW[row_B, block_B].double().cumsum(dim=-1)
    rest_B = (goal_B - before_B).clamp(min=0.0)
    rest_B = torch.minimum(rest_B, torch.nextafter(inside_BW[:, -1], torch.zeros_like(total_B)))
    token_B = block_B * BLOCK + torch.searchsorted(inside_BW, rest_B[:, None], right=True).squeeze(1)
    token_B = token_B.clamp(max=vocabulary - 1)  # beyond it only where a logit is NaN, and so the log-probability
    logp_B = (score_BV - highest_B1).gather(1, token_B[:, None]).squeeze(1) - total_B.log()
    return token_B, logp_B.float()


def refuse_not_finite(logps: Sequence[float]) -> None:
    """Raises SodError where a drawn token's log-probability shows that the model's logits were not finite."""
    if not all(map(math.isfinite, logps)):
        raise SodError("sampling: the model's logits are not finite (NaN or infinite weights?)")
