"""Steps of a forward and its gradient in fewer passes through memory; each is kept for its measured gain, and what was
tried and dropped is in docs/results/2026-11-27-cpu-speed.md.

Legend: B rows, T tokens, H query heads, G key heads, Q query heads of a key head, D head size, X rows times key heads,
N action tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sod.models.packed import HALF

# Plain products beat PyTorch's own attention on rows up to so long, and may hold so many scores of one layer at once.
MOST_TOKENS, MOST_SCORES = 512, 2**24


def causal_attention(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, scale: float) -> Tensor:
    """Causal attention of whole rows. Shape B x H x T x D; differentiable."""
    if _products_are_faster(query_BHTD):
        mixed_BHTD: Tensor = ProductAttention.apply(  # type: ignore[no-untyped-call]
            query_BHTD, key_BGTD, value_BGTD, scale
        )
        return mixed_BHTD
    key_BGTD, value_BGTD = fit_for_kernel(query_BHTD, key_BGTD, value_BGTD)
    grouped = query_BHTD.shape[1] != key_BGTD.shape[1]
    return scaled_dot_product_attention(
        query_BHTD, key_BGTD, value_BGTD, is_causal=True, scale=scale, enable_gqa=grouped
    )


def fit_for_kernel(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values as a fast kernel of PyTorch takes them: as they are, on CUDA in float32 with a head for each of
    the queries'.

    There only the memory-efficient kernel computes in float32, and it knows of no shared key heads: PyTorch would hold
    the scores of all pairs of tokens, for the backward pass of every layer. Repeated heads are the same numbers.
    """
    heads = query_BHTD.shape[1]
    if not query_BHTD.is_cuda or query_BHTD.dtype in HALF or key_BGTD.shape[1] == heads:
        return key_BGTD, value_BGTD
    return repeated_heads(key_BGTD, heads), repeated_heads(value_BGTD, heads)


def repeated_heads(x_BGTD: Tensor, size: int) -> Tensor:
    """Each key head as often as makes their number one that `size` divides."""
    heads = x_BGTD.shape[1]
    times = math.lcm(heads, size) // heads
    return x_BGTD if times == 1 else x_BGTD.repeat_interleave(times, dim=1)


def _products_are_faster(query_BHTD: Tensor) -> bool:
    """Where gradients in bfloat16 are wanted of a CPU that multiplies bfloat16 without AMX: 2 to 4 times as fast."""
    if query_BHTD.device.type != "cpu" or query_BHTD.dtype != torch.bfloat16 or not query_BHTD.requires_grad:
        return False
    rows, heads, tokens, _ = query_BHTD.shape
    fits = tokens <= MOST_TOKENS and rows * heads * tokens * tokens <= MOST_SCORES
    return fits and torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


@final
class ProductAttention(torch.autograd.Function):
    """Causal attention by plain matrix products; its weights are not kept for the backward pass but made again."""

    @staticmethod
    def forward(ctx: Any, query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query_BHTD, key_BGTD, value_BGTD)
        ctx.scale = scale
        weight_XQTT = _weights(_folded(query_BHTD, key_BGTD, scale), key_BGTD.flatten(0, 1))
        return torch.bmm(weight_XQTT.flatten(1, 2), value_BGTD.flatten(0, 1)).view(query_BHTD.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query_BHTD, key_BGTD, value_BGTD = ctx.saved_tensors
        query, key, value = _folded(query_BHTD, key_BGTD, ctx.scale), key_BGTD.flatten(0, 1), value_BGTD.flatten(0, 1)
        mixed = _folded(gradients[0], key_BGTD, 1.0)
        weight_XQTT = _weights(query, key)
        weight = weight_XQTT.flatten(1, 2)
        of_value = torch.bmm(weight.transpose(1, 2), mixed)
        of_weight = torch.bmm(mixed, value.transpose(1, 2)).view_as(weight_XQTT)
        of_score = torch._softmax_backward_data(of_weight, weight_XQTT, -1, weight.dtype).flatten(1, 2)
        of_query = torch.bmm(of_score, key).mul_(ctx.scale).view(query_BHTD.shape)
        of_key = torch.bmm(of_score.transpose(1, 2), query)
        return of_query, of_key.view(key_BGTD.shape), of_value.view(value_BGTD.shape), None


def _folded(x_BHTD: Tensor, key_BGTD: Tensor, scale: float) -> Tensor:
    """Heads that share a key head as more tokens of one, times `scale`. Shape X x QT x D."""
    rows, groups = key_BGTD.shape[:2]
    scaled_BHTD = x_BHTD if scale == 1.0 else x_BHTD * scale
    return scaled_BHTD.reshape(rows * groups, -1, x_BHTD.shape[-1])


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """Of folded queries (X x QT x D) to keys (X x T x D). Shape X x Q x T x T."""
    tokens = key.shape[1]
    score_XQTT = torch.bmm(query, key.transpose(1, 2)).view(len(key), -1, tokens, tokens)
    later_TT = score_XQTT.new_ones(tokens, tokens, dtype=torch.bool).triu(1)
    return score_XQTT.masked_fill_(later_TT, -torch.inf).softmax(dim=-1)


def logp_of_targets(logits_NV: Tensor, target_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (float32) of one target for each row, of logits in any type. Shape N; differentiable.

    The gradient is made in place of one copy of the logits.
    """
    logp_N: Tensor = _LogpOfTargets.apply(logits_NV, target_N, temperature)  # type: ignore[no-untyped-call]
    return logp_N


@final
class _LogpOfTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, temperature: float) -> Tensor:
        scaled_NV = _scaled(logits_NV, temperature)
        sum_N1 = scaled_NV.logsumexp(1, keepdim=True)
        ctx.save_for_backward(logits_NV, target_N, sum_N1)
        ctx.temperature = temperature
        return (scaled_NV.gather(1, target_N[:, None]) - sum_N1).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, sum_N1 = ctx.saved_tensors
        gradient_N1 = gradients[0][:, None] / ctx.temperature
        scaled_NV = _scaled(logits_NV, ctx.temperature)
        fresh_NV = scaled_NV.clone() if scaled_NV is logits_NV else scaled_NV
        of_logits_NV = fresh_NV.sub_(sum_N1).exp_().mul_(-gradient_N1)
        of_logits_NV.scatter_add_(1, target_N[:, None], gradient_N1)
        return of_logits_NV.to(logits_NV.dtype), None, None


def _scaled(logits_NV: Tensor, temperature: float) -> Tensor:
    """In float32, divided by the temperature; the tensor itself where that changes nothing."""
    whole_NV = logits_NV.float()
    return whole_NV if temperature == 1.0 else whole_NV / temperature
