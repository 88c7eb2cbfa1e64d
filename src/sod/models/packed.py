"""Rows behind one another in a single row of tokens, so that nothing is computed for padding.

Everything in a decoder but attention works token by token. Positions begin anew with each row, and attention is told
where rows begin (`cu_seq`, as variable-length kernels want it): transformers passes both down to `attention.attend`.

Legend: B rows, T tokens (padded), S tokens of all rows together, H query heads, G key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]

_KNOWN = frozenset() if varlen_attn is None else frozenset(signature(varlen_attn).parameters)
VARLEN = "window_size" in _KNOWN  # from torch 2.11 on
_GROUPS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _KNOWN else {}
"""What the kernel wants to hear of fewer key heads than query heads: torch 2.11 took them without a word."""
PACKED = "sod-packed"
"""`attention.attend` under another name: that of models which have proven to pack, and nothing else."""
HALF = (torch.bfloat16, torch.float16)  # what the variable-length kernel computes in
LEAST_PADDING = 0.05
"""On a CPU, the share of padding from which packing pays: without any it cost up to 5% in bfloat16, and else it took as
much less as there was padding (docs/results/2026-11-27-training-forward.md)."""
PAIRS_OF_A_TOKEN = 4_000
"""On CUDA, how many (query, key) pairs cost the variable-length kernel as much more than `sdpa` as one token of padding
costs in all other operations. Measured on an H200 with compiled layers of Qwen3-0.6B's shape
(docs/results/2026-11-26-gpu-probe.md): about 1.4 ns a pair (150 to 163 ms on 16 x 1,024 tokens, 190 to 230 on
4 x 4,096) and 5.3 us a token (154 to 120 ms on ragged rows). Rows of 1,024 are packed from 11% padding on, of 4,096
from 34% on, long ones hardly ever."""


@final
@dataclass(frozen=True)
class PackedRows:
    """The real tokens of a batch's rows.

    token_1S     int64
    position_1S  int64: from 0 in each row
    cu_seq       int32: where each row begins, and where the last one ends
    longest      tokens of the longest row
    """

    token_1S: Tensor
    position_1S: Tensor
    cu_seq: Tensor
    longest: int


def packed_rows(token_BT: Tensor, length_B: Tensor) -> PackedRows:
    """The rows of `token_BT`, each of its own length, behind one another."""
    position_BT = torch.arange(token_BT.shape[1]).expand_as(token_BT)
    real_BT = position_BT < length_B[:, None]
    cu_seq = torch.nn.functional.pad(length_B.cumsum(0), (1, 0)).to(torch.int32)
    return PackedRows(token_BT[real_BT][None], position_BT[real_BT][None], cu_seq, int(length_B.max()))


def worth_packing(length_B: Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether rows of these lengths take less time packed than padded."""
    tokens = int(length_B.sum())
    padding = len(length_B) * int(length_B.max()) - tokens
    if device.type != "cuda":
        return padding > LEAST_PADDING * (tokens + padding)
    pairs = int((length_B * (length_B + 1) // 2).sum())
    return VARLEN and dtype in HALF and padding * PAIRS_OF_A_TOKEN > pairs


def attend_packed(
    query_BHSD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor, scale: float, cu_seq: Tensor, longest: int
) -> Tensor:
    """Causal attention within each of the packed rows; B is 1. Shape B x S x H x D."""
    grouped = query_BHSD.shape[1] != key_BGSD.shape[1]
    if query_BHSD.is_cuda:
        query, key, value = (x_BHSD[0].transpose(0, 1) for x_BHSD in (query_BHSD, key_BGSD, value_BGSD))
        groups = _GROUPS if grouped else {}
        # Everything before a token in its row and nothing after it.
        mixed_SHD: Any = varlen_attn(
            query, key, value, cu_seq, cu_seq, longest, longest, scale=scale, window_size=(-1, 0), **groups
        )
        return cast(Tensor, mixed_SHD)[None]
    # `split`, not slices: the gradient of a split is one concatenation.
    lengths = cu_seq.diff().tolist()
    parts = (x_BHSD.split(lengths, dim=2) for x_BHSD in (query_BHSD, key_BGSD, value_BGSD))
    mixed_BHSD = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(mixed_BHSD, dim=2).transpose(1, 2)
