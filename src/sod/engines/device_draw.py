"""Drawing the tokens of all rows in one pass, from noise that is on the device already.

The same numbers as `sod.engines.sampler`, which goes through a CPU's caches in small passes. Nothing here comes from
the host or is read by it, so that a CUDA graph can hold it.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from sod.engines.base import Sampling
from sod.engines.sampler import invert, scores


def draw(logits_BV: Tensor, noise_B: Tensor, row_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """`(token_B, logp_B)` by uniform numbers (float64); `row_B` counts the rows from 0.

    Greedy decoding is a point mass: its log-probability is 0. Where a row's logits are not finite its
    log-probability is not either.
    """
    if sampling.temperature == 0.0:
        highest_B, token_B = logits_BV.max(dim=-1)
        return token_B, highest_B.float() * 0.0
    return invert(scores(logits_BV, sampling), noise_B, row_B)
