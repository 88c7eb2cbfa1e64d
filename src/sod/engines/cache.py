"""Keys and values of the rows that decode together, and of the episodes that wait for a tool.

Active rows sit side by side in one preallocated tensor, so that a decoding step reads views and copies nothing.
A row that leaves is offloaded: its columns are copied out, and back in when its episode goes on. The column of a
token is its position; what lies beyond a row's length is never visible and is written over later.

Keys are stored transposed: the product of a query with S keys then runs along memory, which made a decoding
step's attention about twice as fast as PyTorch's fused kernel on a CPU (docs/performance.md).

Legend: L layers, B rows, G key heads, H query heads, D head size, S columns, N new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sod.models.architecture import head_sizes

CONTIGUOUS = torch.contiguous_format
ROW_STEP, COLUMN_STEP = 16, 128  # rows and columns are added in these: more would be touched without use


@final
@dataclass(frozen=True)
class Shape:
    """What a model's cache holds per token."""

    layers: int
    key_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of a Hugging Face causal LM."""
        config = model.config
        _, key_heads, head_dim = head_sizes(config)
        return cls(config.num_hidden_layers, key_heads, head_dim, model.dtype, model.device)


@final
@dataclass(frozen=True)
class Offloaded:
    """The columns of one row, copied out of the cache, and the tokens that they stand for."""

    token_ids: tuple[int, ...]
    keys: Tensor  # L, G, D, S
    values: Tensor  # L, G, S, D

    @property
    def length(self) -> int:
        """Tokens held."""
        return len(self.token_ids)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return 2 * self.keys.numel() * self.keys.itemsize


class Storage(Protocol):
    """Memory for the keys and values of some rows of some columns."""

    @property
    def keys(self) -> Tensor:
        """Shape L x B x G x D x S."""
        ...

    @property
    def values(self) -> Tensor:
        """Shape L x B x G x S x D."""
        ...

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows of so many tokens; what is there stays."""
        ...

    def clear(self) -> None:
        """Forget what is there."""
        ...


@final
class GrowingStorage:
    """Grows with what is asked of it, and gives all of it back when it is cleared."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.rows = self.columns = 0
        self.keys = self.values = torch.empty(0)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows of so many tokens; what is there stays."""
        if rows <= self.rows and columns <= self.columns:
            return
        shape, (had, old) = self.shape, (self.rows, self.columns)
        self.rows = max(self.rows, -(-rows // ROW_STEP) * ROW_STEP)
        self.columns = max(self.columns, -(-columns // COLUMN_STEP) * COLUMN_STEP)
        lead = (shape.layers, self.rows, shape.key_heads)
        # Zeros: a column that no row has written yet is weighted with 0, and 0 times garbage may be NaN.
        keys = torch.zeros(*lead, shape.head_dim, self.columns, dtype=shape.dtype, device=shape.device)
        values = torch.zeros(*lead, self.columns, shape.head_dim, dtype=shape.dtype, device=shape.device)
        if had:
            keys[:, :had, :, :, :old] = self.keys
            values[:, :had, :, :old] = self.values
        self.keys, self.values = keys, values

    def clear(self) -> None:
        """Give the memory back."""
        self.rows = self.columns = 0
        self.keys = self.values = torch.empty(0)


@final
class SlotCache:
    """The rows of one batch, in a storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def clear(self) -> None:
        """Forget all rows."""
        self._storage.clear()

    def offload(self, row: int, token_ids: tuple[int, ...]) -> Offloaded:
        """A copy of a row's first columns, which hold these tokens."""
        length = len(token_ids)
        keys, values = self._storage.keys[:, row, :, :, :length], self._storage.values[:, row, :, :length]
        return Offloaded(token_ids, keys.clone(memory_format=CONTIGUOUS), values.clone(memory_format=CONTIGUOUS))

    def restore(self, row: int, offloaded: Offloaded, length: int) -> None:
        """Write the first `length` columns of what was offloaded into a row."""
        self._storage.reserve(row + 1, length)
        self._storage.keys[:, row, :, :, :length] = offloaded.keys[..., :length]
        self._storage.values[:, row, :, :length] = offloaded.values[:, :, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Write a row's first `length` columns into another row."""
        self._storage.reserve(target + 1, length)
        keys, values = self._storage.keys, self._storage.values
        keys[:, target, :, :, :length] = keys[:, source, :, :, :length]
        values[:, target, :, :length] = values[:, source, :, :length]

    def window(self, first: int, position_BN: Tensor) -> SlotWindow:
        """The forward of new tokens at these positions in the rows from `first` on."""
        columns = int(position_BN.max()) + 1
        self._storage.reserve(first + len(position_BN), columns)
        rows = slice(first, first + len(position_BN))
        at_B1 = torch.arange(len(position_BN), device=position_BN.device)[:, None]
        if position_BN.shape[1] > 1 and int(position_BN[:, 0].max()) == 0:
            mask_BNS = None  # nothing cached yet: plain causal attention among the new tokens
        else:
            later_BNS = torch.arange(columns, device=position_BN.device) > position_BN[:, :, None]
            mask_BNS = torch.zeros(later_BNS.shape, device=position_BN.device).masked_fill(later_BNS, -torch.inf)
        keys, values = self._storage.keys[:, rows], self._storage.values[:, rows]
        return SlotWindow(keys, values, at_B1, position_BN, columns, mask_BNS)


@final
@dataclass(frozen=True)
class SlotWindow:
    """One forward: see `models.attention.Window`. `mask_BNS` is added to the scores (float32); None: causal."""

    keys_LBGDS: Tensor
    values_LBGSD: Tensor
    at_B1: Tensor
    position_BN: Tensor
    columns: int
    mask_BNS: Tensor | None

    def attend(self, layer: int, query_BHND: Tensor, key_BGND: Tensor, value_BGND: Tensor, scale: float) -> Tensor:
        """Store the new keys and values, and attend to all that each row has. Shape B x N x H x D."""
        keys, values = self.keys_LBGDS[layer], self.values_LBGSD[layer]
        keys[self.at_B1, :, :, self.position_BN] = key_BGND.transpose(1, 2)
        values[self.at_B1, :, self.position_BN] = value_BGND.transpose(1, 2)
        if self.mask_BNS is None:
            mixed_BHND = scaled_dot_product_attention(
                query_BHND, key_BGND, value_BGND, is_causal=True, scale=scale, enable_gqa=True
            )
            return mixed_BHND.transpose(1, 2)
        (rows, heads, new, dim), groups = query_BHND.shape, key_BGND.shape[1]
        # Query heads that share a key head are more queries to the same keys: no key is read twice.
        folded = (query_BHND * scale).reshape(rows, groups, heads // groups * new, dim)
        scores = torch.matmul(folded, keys[..., : self.columns]).view(rows, groups, -1, new, self.columns)
        weights = torch.softmax(scores.float() + self.mask_BNS[:, None, None], dim=-1).to(value_BGND.dtype)
        mixed = torch.matmul(weights.view(rows, groups, -1, self.columns), values[:, :, : self.columns])
        return mixed.view(rows, heads, new, dim).transpose(1, 2)
