"""Attention of one new token of every row, in buffers that stay where they are: see `sod.models.attention.Window`.

Legend: L layers, B rows, G key heads, H query heads, D head size, S columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor


class LayerWindow(NamedTuple):
    """What one layer needs: plain tensors, so that compiled code takes them as they are for every layer alike."""

    keys_BGDS: Tensor
    values_BGSD: Tensor
    row_B: Tensor
    position_B: Tensor

    @property
    def columns(self) -> int:
        """All that a row may have."""
        return self.keys_BGDS.shape[-1]

    def attend(self, layer: int, query_BHND: Tensor, key_BGND: Tensor, value_BGND: Tensor, scale: float) -> Tensor:
        """Store the new key and value of every row, and attend to all up to them. Shape B x 1 x H x D."""
        keys, values = self.keys_BGDS, self.values_BGSD
        keys[self.row_B, :, :, self.position_B] = key_BGND[:, :, 0]
        values[self.row_B, :, self.position_B] = value_BGND[:, :, 0]
        rows, heads, _, dim = query_BHND.shape
        groups = keys.shape[1]
        folded = (query_BHND * scale).reshape(rows, groups, heads // groups, dim)
        scores = torch.matmul(folded, keys).float()
        later_BS = torch.arange(keys.shape[-1], device=keys.device) > self.position_B[:, None]
        weights = torch.softmax(scores.masked_fill(later_BS[:, None, None], -torch.inf), dim=-1).to(values.dtype)
        return torch.matmul(weights, values).reshape(rows, 1, heads, dim)


@final
@dataclass(frozen=True)
class StaticWindow:
    """The buffers of all layers."""

    keys_LBGDS: Tensor
    values_LBGSD: Tensor
    row_B: Tensor
    position_B: Tensor

    @property
    def columns(self) -> int:
        """All that a row may have."""
        return self.keys_LBGDS.shape[-1]

    def layer(self, layer: int) -> LayerWindow:
        """Those of one layer."""
        return LayerWindow(self.keys_LBGDS[layer], self.values_LBGSD[layer], self.row_B, self.position_B)

    def attend(self, layer: int, query_BHND: Tensor, key_BGND: Tensor, value_BGND: Tensor, scale: float) -> Tensor:
        """See `LayerWindow.attend`."""
        return self.layer(layer).attend(layer, query_BHND, key_BGND, value_BGND, scale)
