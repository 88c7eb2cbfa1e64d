"""Rows of tokens cut over the ranks of a team, and how what is said at their tokens is dealt out again.

Every rank gets as many consecutive columns of the rows, padded on the right where their number cannot be divided. What
comes after the decoder, the projection, is for action tokens alone, and those may all be in the columns of one rank: so
each works on an equal part of the action tokens, by their number, and what the decoder says before them is passed on.

Targets are never cut: the action token at `t` of the whole row is predicted by what is said at `t - 1` of it, whichever
rank has that.

Legend: B rows, S columns of whole rows, s columns of one rank, N action tokens of all rows, n those of one rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


def tokens_of_rank(tokens: int, size: int) -> int:
    """How many of a row's `tokens` one rank of a team of `size` holds, padding counted.

    What is kept of a row for the backward pass, and what its forward takes, is that of so many tokens.
    """
    return -(-tokens // size)


def own_columns(x_BS: Tensor, size: int, place: int) -> Tensor:
    """The columns that are those of rank `place` of a team, 0 where there are no more. Shape B x s.

    Further dimensions stay as they are.
    """
    each = tokens_of_rank(x_BS.shape[1], size)
    lacking = each * size - x_BS.shape[1]
    padded: Tensor = torch.nn.functional.pad(x_BS, (*[0, 0] * (x_BS.dim() - 2), 0, lacking))
    return padded[:, each * place : each * (place + 1)]


def share(count: int, size: int, place: int) -> tuple[int, int]:
    """The first of `count` things in a row that is that of rank `place` of a team, and the first that no longer is."""
    return count * place // size, count * (place + 1) // size


@final
@dataclass(frozen=True)
class Passing:
    """What a rank sends, and what it makes of what it gets.

    taken_n   int64: which of the tokens in its columns, row by row, it sends, by the rank that gets them
    sent      how many of them go to each rank
    received  how many come from each rank
    order_n   int64: which of those that came, in the order of the ranks, is the first of its part, the second, ...
    """

    taken_n: Tensor
    sent: list[int]
    received: list[int]
    order_n: Tensor


def passing(row_N: Tensor, column_N: Tensor, columns: int, size: int, place: int) -> Passing:
    """How rank `place` of a team comes by what is said at the N places (row and column) of rows of so many columns.

    Each rank gets what is said at its `share` of the places, in their order.
    """
    each = tokens_of_rank(columns, size)
    owner_N = column_N // each
    edges = torch.tensor([share(len(row_N), size, rank)[1] for rank in range(size)])
    worker_N = torch.bucketize(torch.arange(len(row_N)), edges, right=True)
    held_N, wanted_N = owner_N == place, worker_N == place
    local_N = row_N * each + column_N % each
    arrived_n = torch.argsort(owner_N[wanted_N], stable=True)
    order_n = torch.empty_like(arrived_n)
    order_n[arrived_n] = torch.arange(len(arrived_n))
    return Passing(
        taken_n=local_N[held_N],
        sent=torch.bincount(worker_N[held_N], minlength=size).tolist(),
        received=torch.bincount(owner_N[wanted_N], minlength=size).tolist(),
        order_n=order_n,
    )


def in_heads(x_BHsD: Tensor, size: int) -> Tensor:
    """Heads in as many parts as a team has ranks, to be exchanged for columns. Shape size x B x H/size x s x D."""
    parts_BRhsD: Tensor = x_BHsD.unflatten(1, (size, -1))
    return parts_BRhsD.transpose(0, 1)


def whole_rows(x_RBhsD: Tensor, tokens: int) -> Tensor:
    """Columns of all ranks, one part from each, as rows of so many tokens. Shape B x h x tokens x D."""
    return x_RBhsD.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :tokens]


def in_columns(x_BShD: Tensor, size: int) -> Tensor:
    """Columns in as many parts as a team has ranks, to be exchanged for heads. Shape size x B x s x h x D."""
    return torch.stack([own_columns(x_BShD, size, place) for place in range(size)])


def whole_heads(x_RBshD: Tensor) -> Tensor:
    """Heads of all ranks, one part from each, side by side. Shape B x s x H x D."""
    return x_RBshD.permute(1, 2, 0, 3, 4).flatten(2, 3)
