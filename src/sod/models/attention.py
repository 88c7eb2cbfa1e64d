"""Attention for every model of ours: PyTorch's own where whole sequences are scored or trained, the cache's where
an engine decodes, and within rows where they are packed behind one another.

Transformers passes unknown keyword arguments of a decoder call down to its attention function. That is how an
engine's cache gets there, and where packed rows begin: `decoder(..., window=...)`, no cache object of transformers in
between; `decoder(..., cu_seq=..., longest=...)`. So do the ranks that rows are cut over (`sod.models.spread`).

Legend: B rows, H query heads, G key heads, N new tokens, D head size.
"""

from __future__ import annotations

from typing import Any, Protocol, final

from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sod.models.architecture import UnknownArchitectureError
from sod.models.fused import fit_for_kernel
from sod.models.packed import PACKED, attend_packed

NAME = "sod"
UNKNOWN = {"softcap": "soft caps", "s_aux": "attention sinks"}
"""Arguments of attention functions that nothing here knows, and what they stand for."""


class Window(Protocol):
    """One forward of an engine: new tokens of some rows, and the cached tokens that they see."""

    @property
    def columns(self) -> int:
        """Tokens of the longest row, the new ones included."""
        ...

    def attend(self, layer: int, query_BHND: Tensor, key_BGND: Tensor, value_BGND: Tensor, scale: float) -> Tensor:
        """Store the new keys and values, and attend with the queries to all that each row has. Shape B x N x H x D."""
        ...


class Shared(Protocol):
    """One forward of rows that share tokens: see `sod.models.shared`."""

    def attend(self, query_1HSD: Tensor, key_1GSD: Tensor, value_1GSD: Tensor, scale: float) -> Tensor:
        """Attend within the rows. Shape 1 x S x H x D."""
        ...


class Cut(Protocol):
    """One forward of rows whose tokens are spread over ranks: see `sod.models.spread`."""

    def attend(self, query_BHND: Tensor, key_BGND: Tensor, value_BGND: Tensor, scale: float) -> Tensor:
        """Attend within the whole rows. Shape B x N x H x D, of this rank's tokens."""
        ...


@final
class _Repeated:
    """What transformers reads of an attention module whose key heads have been repeated: nothing of shared ones."""

    is_causal = True


_REPEATED = _Repeated()


def attend(
    module: Any,
    query_BHND: Tensor,
    key_BGND: Tensor,
    value_BGND: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    window: Window | None = None,
    cu_seq: Tensor | None = None,
    longest: int = 0,
    shared: Shared | None = None,
    spread: Cut | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers wants it: the engine's with a `window`, that of `shared` tokens or of
    rows `spread` over ranks, else PyTorch's. Shape B x N x H x D.

    With `cu_seq` the one row holds several behind one another, the longest of `longest` tokens (`sod.models.packed`).
    Raises SodError for what none of these knows: soft caps, sinks, and with a `window` a sliding window that hides
    tokens.
    """
    unknown = [what for name, what in UNKNOWN.items() if kwargs.get(name) is not None]
    sliding = kwargs.get("sliding_window")
    if window is not None and sliding is not None and window.columns > sliding:
        unknown.append(f"a sliding window of {sliding} tokens")
    if unknown:
        raise UnknownArchitectureError("student", f"{type(module).__name__} has {', '.join(unknown)}")
    if window is not None:
        return window.attend(module.layer_idx, query_BHND, key_BGND, value_BGND, scaling), None
    if cu_seq is not None:
        return attend_packed(query_BHND, key_BGND, value_BGND, scaling, cu_seq, longest), None
    if shared is not None:
        return shared.attend(query_BHND, key_BGND, value_BGND, scaling), None
    if spread is not None:
        return spread.attend(query_BHND, key_BGND, value_BGND, scaling), None
    if attention_mask is None and query_BHND.shape[2] > 1 and getattr(module, "is_causal", True):
        groups = key_BGND.shape[1]
        key_BGND, value_BGND = fit_for_kernel(query_BHND, key_BGND, value_BGND)
        if key_BGND.shape[1] != groups:
            module = _REPEATED
    return sdpa_attention_forward(module, query_BHND, key_BGND, value_BGND, attention_mask, scaling=scaling, **kwargs)


for name in (NAME, PACKED):
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
