"""Attention for every model of ours: PyTorch's own where whole sequences are scored or trained, the cache's where
an engine decodes.

Transformers executor unknown keyword arguments of a decoder call down to its attention function. That is how an
engine's cache gets there: `decoder(..., window=...)`, no cache object of transformers in between.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sod.records import SodError

NAME = "sod"


class Window(Protocol):
    """One forward of an engine: new tokens of some rows, and the cached tokens that they see."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store keys and values (B, key heads, N, D), attend with the queries (B, heads, N, D): B, N, heads, D."""
        ...


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    window: Window | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers wants it. Raises SodError for what a window does not know."""
    if window is not None:
        if extra := [name for name in ("softcap", "s_aux", "sliding_window") if kwargs.get(name) is not None]:
            raise SodError(f"student: attention with {', '.join(extra)} is not supported by the torch engine")
        return window.attend(module.layer_idx, query, key, value, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
