"""Tokens that several rows begin with alike are run once.

Samples of one prompt share it, all prompts share what the chat template puts in front, and samples often begin alike
as well. A decoder says the same at the same token after the same tokens, so each is run for all rows that have it;
only attention sees whole rows. Gradients are those of the separate rows, added up.

Legend: B rows, T tokens (padded), S different tokens of all rows together, H query heads, G key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from sod.models.fused import causal_attention
from sod.objective.batch import TokenBatch

WORTHWHILE = 0.95  # of the real tokens: what is spread over the rows again costs time as well


@final
@dataclass(frozen=True)
class SharedRows:
    """Rows whose tokens are numbered anew: the same number for the same token after the same tokens.

    at_BT        int64: the number of each token; 0 at padding, which no real token sees
    first_S      int64: where in the flattened rows the token of each number first stands
    token_1S     int64
    position_1S  int64: the token's position in its rows
    """

    at_BT: Tensor
    first_S: Tensor
    token_1S: Tensor
    position_1S: Tensor

    def to(self, device: torch.device) -> SharedRows:
        """A copy on a device."""
        columns = (self.at_BT, self.first_S, self.token_1S, self.position_1S)
        return SharedRows(*(column.to(device) for column in columns))

    @property
    def tokens(self) -> int:
        """How many different tokens there are."""
        return len(self.first_S)

    def attend(self, query_1HSD: Tensor, key_1GSD: Tensor, value_1GSD: Tensor, scale: float) -> Tensor:
        """Causal attention within each row, from and to tokens by number. Shape 1 x S x H x D."""
        query_BHTD, key_BGTD, value_BGTD = map(self._in_rows, (query_1HSD, key_1GSD, value_1GSD))
        mixed_BHTD = causal_attention(query_BHTD, key_BGTD, value_BGTD, scale)
        return mixed_BHTD.transpose(1, 2).flatten(0, 1).index_select(0, self.first_S)[None]

    def _in_rows(self, x_1HSD: Tensor) -> Tensor:
        """What belongs to tokens by number, at every token of the rows. Shape B x H x T x D."""
        x_SHD = x_1HSD[0].transpose(0, 1)
        x_BTHD = x_SHD.index_select(0, self.at_BT.flatten()).view(*self.at_BT.shape, *x_SHD.shape[1:])
        return x_BTHD.transpose(1, 2)


def shared_rows(token_BT: Tensor, length_B: Tensor) -> SharedRows:
    """Number the tokens of right-padded rows."""
    rows, width = token_BT.shape
    real_BT = torch.arange(width) < length_B[:, None]
    texts = [row[:length] for row, length in zip(token_BT.tolist(), length_B.tolist(), strict=True)]
    # In alphabetical order a row shares most with the one before it.
    order_B = torch.tensor(sorted(range(rows), key=texts.__getitem__))
    token, real = token_BT[order_B], real_BT[order_B]
    same_BT = torch.zeros(rows, width, dtype=torch.bool)
    same_BT[1:] = ((token[1:] == token[:-1]) & real[1:] & real[:-1]).cumprod(dim=1) > 0
    new_BT = real & ~same_BT
    number_BT = torch.where(new_BT, new_BT.flatten().cumsum(0).view(rows, width) - 1, -1)
    at_BT = torch.zeros(rows, width, dtype=torch.int64)
    # A shared token has the latest number of its column: numbers grow from row to row.
    at_BT[order_B] = number_BT.cummax(dim=0).values.masked_fill(~real, 0)
    place_BT = order_B[:, None] * width + torch.arange(width)
    first_S = place_BT[new_BT]
    return SharedRows(at_BT, first_S, token_BT.flatten()[first_S][None], (first_S % width)[None])


def shared_hidden(model: Any, rows: SharedRows) -> Tensor:
    """What the decoder says at every token by number. Shape S x D, on the model's device; differentiable."""
    rows = rows.to(model.device)
    said = model.get_decoder()(
        input_ids=rows.token_1S,
        position_ids=rows.position_1S,
        attention_mask=rows.token_1S[:, None, None, :],  # four dimensions: taken as it is, and nobody reads it
        use_cache=False,
        shared=rows,
    )
    hidden_SD: Tensor = said.last_hidden_state[0]
    return hidden_SD


def shared_rows_of(model: Any, batch: TokenBatch) -> SharedRows | None:
    """The batch's tokens by number, where a model on a CPU saves time by them; else None."""
    if model.device.type != "cpu":
        return None
    rows = shared_rows(batch.token_BT, batch.length_B)
    return None if rows.tokens > WORTHWHILE * int(batch.length_B.sum()) else rows
