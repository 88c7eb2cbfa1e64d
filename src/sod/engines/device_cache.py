"""A cache of a fixed size for decoding on a device: allocated once, never moved, laid out anew as rows grow.

Every row has as many columns as the longest one needs, rounded up. The memory of a layer is laid out for that number
of columns without gaps, so that attention, which reads all of them, reads no more than it must; when the longest row
outgrows it, the rows move within the same memory. CUDA graphs that were captured for a number of rows and columns
therefore stay good for as long as the storage lives.

Legend: L layers, B rows, G key heads, D head size, S columns.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import final

import torch
from torch import Tensor

from sod.engines.cache import Shape

FINE, COARSE = 128, 256  # columns are added in steps of these: up to `FINE_UP_TO`, and beyond
FINE_UP_TO = 1024
WAITING = 4  # a quarter of the memory is for episodes between two turns
SHRINK = 0.75  # columns are given up when the rows need at most this share of them
ROW_SIZES = (2, 4, 8)  # not 1, which compiled code treats as another kind of tensor; then in steps of ROW_STEP
ROW_STEP = 16


def row_bucket(rows: int) -> int:
    """The number of rows that a decoding step for so many is made for."""
    if rows <= ROW_SIZES[-1]:
        return ROW_SIZES[bisect_left(ROW_SIZES, rows)]
    return -(-rows // ROW_STEP) * ROW_STEP


def column_bucket(columns: int) -> int:
    """The number of columns that a decoding step for so many is made for."""
    step = FINE if columns <= FINE_UP_TO else COARSE
    return max(FINE, -(-columns // step) * step)


def most_tokens(rows: int, longest: int) -> int:
    """What so many rows of so many tokens take at most, with what rounding up adds."""
    return row_bucket(rows) * column_bucket(longest)


@final
class FixedStorage:
    """Room for rows x columns tokens, whatever their proportion; see `sod.engines.cache.Storage`."""

    def __init__(self, shape: Shape, tokens: int) -> None:
        self.shape, self.tokens = shape, tokens
        self.rows = self.columns = self._needed = 0  # `_needed`: columns, of those that there are
        size = (shape.layers, tokens * shape.key_heads * shape.head_dim)
        # Not inference tensors, wherever the engine is made: compiled code and graphs write to them.
        with torch.inference_mode(False):
            # Zeros: a column that no row has written yet is weighted with 0, and 0 times garbage may be NaN.
            self._keys = torch.zeros(size, dtype=shape.dtype, device=shape.device)
            self._values = torch.zeros(size, dtype=shape.dtype, device=shape.device)

    @classmethod
    def of_bytes(cls, shape: Shape, size: int, most: int | None = None) -> FixedStorage:
        """As large as so many bytes allow, for `most` tokens at most."""
        tokens = size // token_bytes(shape)
        return cls(shape, tokens if most is None else min(tokens, most))

    @property
    def keys(self) -> Tensor:
        """All rows that there is room for. Shape L x B x G x D x S."""
        rows, shape = self.room, self.shape
        used = rows * self.columns * shape.key_heads * shape.head_dim
        return self._keys[:, :used].view(shape.layers, rows, shape.key_heads, shape.head_dim, self.columns)

    @property
    def values(self) -> Tensor:
        """All rows that there is room for. Shape L x B x G x S x D."""
        rows, shape = self.room, self.shape
        used = rows * self.columns * shape.key_heads * shape.head_dim
        return self._values[:, :used].view(shape.layers, rows, shape.key_heads, self.columns, shape.head_dim)

    @property
    def room(self) -> int:
        """Rows that there is room for, with the columns of now."""
        return self.tokens // self.columns if self.columns else 0

    def fits(self, rows: int, columns: int) -> bool:
        """Whether so many rows of so many tokens fit, with what rounding up adds."""
        return row_bucket(rows) * column_bucket(columns) <= self.tokens

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows of so many tokens; what is there stays. Raises ValueError where there is none."""
        rows, needed = max(self.rows, rows), max(self._needed, column_bucket(columns))
        if rows * needed > self.tokens:
            raise ValueError(f"{rows} rows of {needed} columns in a cache of {self.tokens} tokens")
        if needed > self.columns or rows > self.room:
            self._lay_out(needed)
        self.rows, self._needed = rows, needed

    def settle(self, rows: int, columns: int) -> None:
        """Only the first rows are left, and of these at most so many tokens are needed: read no more than that."""
        self.rows, self._needed = rows, column_bucket(columns)
        narrow, crowded = self._needed <= SHRINK * self.columns, row_bucket(rows) > self.room
        if self._needed > self.columns or narrow or crowded:
            self._lay_out(self._needed)

    def clear(self) -> None:
        """Forget what is there. The memory stays: graphs are bound to it."""
        self.rows = self.columns = self._needed = 0

    def _lay_out(self, columns: int) -> None:
        if columns == self.columns:
            return
        shape, rows, kept = self.shape, self.rows, min(columns, self.columns)
        if not rows or not kept:
            self.columns = columns
            return
        old_keys, old_values = self.keys[:, :rows, :, :, :kept], self.values[:, :rows, :, :kept]
        self.columns = columns
        new_keys, new_values = self.keys[:, :rows, :, :, :kept], self.values[:, :rows, :, :kept]
        for layer in range(shape.layers):
            # Through a copy, as both layouts are in the same memory.
            new_keys[layer] = old_keys[layer].clone()
            new_values[layer] = old_values[layer].clone()


def token_bytes(shape: Shape) -> int:
    """What a token's keys and values take."""
    return 2 * shape.layers * shape.key_heads * shape.head_dim * shape.dtype.itemsize


def shares_of_memory(device: torch.device, share: float) -> tuple[int, int]:
    """So much of a CUDA device's memory, in bytes: for the rows that decode, and for episodes that wait.

    Of all its memory, not of what is free, so that a repeated run has the same.
    """
    size = int(torch.cuda.get_device_properties(device).total_memory * share)
    return size - size // WAITING, size // WAITING
