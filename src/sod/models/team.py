"""Ranks that share rows, a team, and what passes between them in a forward and its backward pass.

A rank of a team has some columns of each row, and works on its share of the action tokens (`sod.models.cut`). Models
whose forwards are a team's are marked here; for others, and in one process, everything is what it was given.

All ranks of a team must call the same functions in the same order, forwards and backward passes among them.

Legend: N action tokens of all rows, C values of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sod.models.cut import share, tokens_of_rank


@final
@dataclass(frozen=True)
class Team:
    """The ranks that share rows: how many they are, the number of this one among them, and torch's group of them."""

    size: int = 1
    place: int = 0
    link: Any = None

    def share(self, count: int) -> tuple[int, int]:
        """This rank's part of `count` things in a row. See `cut.share`."""
        return share(count, self.size, self.place)


SOLO = Team()
_teams: WeakKeyDictionary[Any, Team] = WeakKeyDictionary()


def mark_team(model: Any, team: Team) -> None:
    """From now on the forwards of `model` that score and train are this team's. Copies of the model have none."""
    _teams[model] = team


def team_of(model: Any) -> Team:
    """Whose the forwards of a model are that score and train."""
    return _teams.get(model, SOLO)


def own_share(model: Any, x_N: Tensor) -> Tensor:
    """Of columns with a row for each action token those rows that this rank works on."""
    first, last = team_of(model).share(len(x_N))
    return x_N[first:last]


def exchange(x: Tensor, sent: Sequence[int], received: Sequence[int], team: Team) -> Tensor:
    """Rows of `x`, the first `sent[0]` of them to the team's first rank and so on; what came, in the ranks' order.

    Differentiable: gradients go back the same way.
    """
    passed: Tensor = _Exchange.apply(x, list(sent), list(received), team.link)  # type: ignore[no-untyped-call]
    return passed


@final
class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], link: Any) -> Tensor:
        ctx.given = sent, received, link
        return _exchanged(x, sent, received, link)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        sent, received, link = ctx.given
        return _exchanged(gradients[0], received, sent, link), None, None, None


def _exchanged(x: Tensor, sent: list[int], received: list[int], link: Any) -> Tensor:
    from torch import distributed

    arrived = x.new_empty(sum(received), *x.shape[1:])
    distributed.all_to_all_single(arrived, x.contiguous(), received, sent, group=link)
    return arrived


def to_all(x_n: Tensor, count: int, team: Team) -> Tensor:
    """The rows of all ranks, on each of them: of `count` rows each rank has its share. Shape N x ...

    Differentiable: a row's gradient is the sum of those that the ranks have, who each do something else with it.
    """
    if team.size == 1:
        return x_n
    shares = [share(count, team.size, rank) for rank in range(team.size)]
    received = [last - first for first, last in shares]
    return exchange(x_n.repeat(team.size, *[1] * (x_n.dim() - 1)), [len(x_n)] * team.size, received, team)


def known_to_all(value_Cn: Tensor, count: int, team: Team) -> Tensor:
    """The values of all ranks, on each of them: of `count` columns each rank has its share. On the CPU. Shape C x N.

    Differentiable in this rank's own columns. That is a rank's part of the gradient of a loss which all ranks of the
    team make alike of the values.
    """
    if team.size == 1:
        return value_Cn
    from torch import distributed

    first, last = team.share(count)
    sent_Cn = value_Cn.new_zeros(len(value_Cn), tokens_of_rank(count, team.size))
    sent_Cn[:, : last - first] = value_Cn.detach()
    parts = [torch.empty_like(sent_Cn) for _ in range(team.size)]
    distributed.all_gather(parts, sent_Cn, group=team.link)
    for rank in range(team.size):
        start, stop = share(count, team.size, rank)
        parts[rank] = value_Cn if rank == team.place else parts[rank][:, : stop - start]
    return torch.cat(parts, dim=1)
