"""Ulysses sequence parallelism (arXiv 2309.14509): each rank of a team has some of the tokens of every row.

Everything in a decoder but attention works token by token. Before attention the ranks exchange tokens for heads: each
has all tokens of its part of the heads, attends as one process would, and gives the tokens back. Of activations each
rank keeps its part, in attention too.

Where there are fewer key heads than a team has ranks, or their number cannot be divided, they are repeated until it
can, as other trainers do. Query heads must be divisible (`sod.models.sequence`).

Legend: B rows, S tokens of a row, s those of one rank, N action tokens, n those of one rank, H query heads, G key
heads, D head size or hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from sod.models.cut import in_columns, in_heads, own_columns, passing, whole_heads, whole_rows
from sod.models.device import moved
from sod.models.fused import causal_attention, repeated_heads
from sod.models.packed import PackedRows, attend_packed
from sod.models.team import Team, exchange, team_of

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From queries (B x H x S x D), keys and values (B x G x S x D) and a scale to B x S x H x D."""


@final
class Spread:
    """One forward of rows whose tokens are spread over a team; `attention` is that of whole rows of `tokens` tokens.

    No dataclass: what compiled layers pass on should not be looked into, as each field would be a reason to compile
    anew.
    """

    def __init__(self, team: Team, tokens: int, attention: Attention) -> None:
        self._team = team
        self._tokens = tokens
        self._attention = attention

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, query_BHsD: Tensor, key_BGsD: Tensor, value_BGsD: Tensor, scale: float) -> Tensor:
        """Attention of this rank's tokens to all before them. Shape B x s x H x D."""
        size = self._team.size
        key_BGsD, value_BGsD = (repeated_heads(x_BGsD, size) for x_BGsD in (key_BGsD, value_BGsD))
        parts = [in_heads(x, size) for x in (query_BHsD, key_BGsD, value_BGsD)]
        arrived = whole_rows(self._exchanged(torch.cat(parts, dim=2)), self._tokens)
        query, key, value = arrived.split([part.shape[2] for part in parts], dim=1)
        mixed_BShD = self._attention(query, key, value, scale)
        return whole_heads(self._exchanged(in_columns(mixed_BShD, size)))

    def _exchanged(self, x: Tensor) -> Tensor:
        """A part to each rank, and one from each."""
        even = [1] * self._team.size
        return exchange(x, even, even, self._team)


@final
@dataclass(frozen=True)
class Rows:
    """Whole rows of tokens, before they are cut, the position of each token, and how they attend."""

    token_BS: Tensor
    position_BS: Tensor
    attention: Attention


def as_padded(token_BT: Tensor) -> Rows:
    """Right-padded rows as they are."""
    return Rows(token_BT, torch.arange(token_BT.shape[1]).expand_as(token_BT), _attend_padded)


def as_packed(rows: PackedRows, device: torch.device) -> Rows:
    """Packed rows; `device` is where they attend."""
    attention = partial(attend_packed, cu_seq=moved(rows.cu_seq, device), longest=rows.longest)
    return Rows(rows.token_1S, rows.position_1S, attention)


def _attend_padded(query_BHSD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor, scale: float) -> Tensor:
    return causal_attention(query_BHSD, key_BGSD, value_BGSD, scale).transpose(1, 2)


def spread_hidden(model: Any, rows: Rows, team: Team) -> Tensor:
    """What the decoder says at this rank's tokens. Shape B x s x D, on the model's device; differentiable."""
    token_Bs, position_Bs = (
        moved(own_columns(x_BS, team.size, team.place), model.device) for x_BS in (rows.token_BS, rows.position_BS)
    )
    said = model.get_decoder()(
        input_ids=token_Bs,
        position_ids=position_Bs,
        attention_mask=token_Bs[:, None, None, :],  # four dimensions: taken as it is, and nobody reads it
        use_cache=False,
        spread=Spread(team, rows.token_BS.shape[1], rows.attention),
    )
    hidden_BsD: Tensor = said.last_hidden_state
    return hidden_BsD


def hidden_of_share(model: Any, rows: Rows, row_N: Tensor, column_N: Tensor) -> Tensor:
    """What the decoder says at this rank's share of N places in the rows (`cut.share`). Shape n x D; differentiable.

    All ranks of the model's team call it with the same rows and places.
    """
    team = team_of(model)
    hidden_BsD = spread_hidden(model, rows, team)
    passed = passing(row_N, column_N, rows.token_BS.shape[1], team.size, team.place)
    taken_nD = hidden_BsD.flatten(0, 1).index_select(0, moved(passed.taken_n, model.device))
    arrived_nD = exchange(taken_nD, passed.sent, passed.received, team)
    return arrived_nD.index_select(0, moved(passed.order_n, model.device))
