"""Whether the rows of a model can be cut over ranks (`sod.models.spread`).

Asked of its configuration before weights are read, and proven on the loaded model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sod.models.adapters import base_source
from sod.models.architecture import head_sizes, in_one_line, named, read_config, unusual_attention
from sod.models.attention import NAME
from sod.models.cut import own_columns
from sod.models.device import moved
from sod.models.forward import PROBED, packs, padded_hidden
from sod.models.length import Asked, Bound, refuse_longer, window_bounds
from sod.models.packed import PACKED, packed_rows
from sod.models.projection import apart, rounding
from sod.models.ranks import Ranks
from sod.models.spread import as_packed, as_padded, spread_hidden
from sod.models.team import Team, mark_team
from sod.records import SodError

KEY = "parallel.sequence"


def refuse_uncut(path: str, sequence: int, count: int, asked: Asked) -> None:
    """Raises SodError where rows of the model at `path` cannot be cut over `sequence` of `count` ranks.

    Its attention must be plain, its heads divisible, and a sliding window must hide nothing of rows as long as `asked`.
    """
    if sequence == 1:
        return
    config = read_config(base_source(path))
    reason = unusual_attention(config)
    if reason is not None:
        raise SodError(
            f"{KEY}={sequence}: {path}: {named(config)} has {reason}, whose rows cannot be cut over ranks; set {KEY}=1"
        )
    heads = head_sizes(config)[0]
    if heads % sequence:
        fit = ", ".join(map(str, common_divisors(heads, count)))
        raise SodError(
            f"{KEY}={sequence} does not divide the {heads} attention heads of {path}; set {KEY} to one of {fit}, which "
            f"divide them and the {count} ranks"
        )
    hidden = "its sliding window hides the first tokens, which rows that are cut over ranks do not know"
    refuse_longer(asked, [Bound(bound.tokens, hidden, f"{KEY}=1") for bound in window_bounds(config)], path)


def common_divisors(one: int, other: int) -> list[int]:
    """The numbers that divide both."""
    most = math.gcd(one, other)
    return [number for number in range(1, most + 1) if most % number == 0]


def cut_rows(model: Any, ranks: Ranks, where: str) -> None:
    """From now on the rows of forwards that score and train `model` are cut over this rank's team, where it has one.

    All ranks call it, while the model's weights are whole. It is proven on a few tokens that rows that are cut give
    what whole ones do: raises SodError, naming `where`, where they do not.
    """
    if ranks.team.size == 1:
        return
    said = ranks.complaint(_flaw(model, ranks.team))
    with ranks.in_common():
        if said is not None:
            raise SodError(f"{where}: {named(model.config)} {said}; set {KEY}=1")
    mark_team(model, ranks.team)


def _flaw(model: Any, team: Team) -> str | None:
    """Why the model's rows cannot be cut; None where they can. From then on its attention is `attention.attend`."""
    reason = unusual_attention(model.config)
    if reason is not None:
        return f"has {reason}, whose rows cannot be cut over ranks"
    try:
        with in_one_line(model.config, KEY, "cannot be cut"), torch.no_grad():
            off = _off(model, team)
    except SodError as error:
        return f"cannot be cut over ranks ({error})"
    return None if off <= rounding(model.dtype) else f"says something else of rows cut over ranks ({off:.1%} off)"


def _off(model: Any, team: Team) -> float:
    """How far what is said at this rank's tokens is from what is said of whole rows, in each way of laying them out."""
    length_B = torch.tensor(PROBED)
    number_BT = torch.arange(3, 3 + len(PROBED) * max(PROBED)).view(len(PROBED), -1)
    token_BT = number_BT * 7919 % int(model.config.vocab_size)
    real_BT = torch.arange(max(PROBED)) < length_B[:, None]
    expected_BTD = padded_hidden(model, token_BT)
    ways = [(as_padded(token_BT), expected_BTD)]
    if packs(model):
        packed = as_packed(packed_rows(token_BT, length_B), model.device)
        ways.append((packed, expected_BTD[moved(real_BT, model.device)][None]))
    elif model.config._attn_implementation != NAME:
        model.set_attn_implementation(PACKED)
    return max(_apart_at_own(spread_hidden(model, rows, team), whole, team) for rows, whole in ways)


def _apart_at_own(hidden_BsD: Tensor, whole_BSD: Tensor, team: Team) -> float:
    """`apart` at the tokens in this rank's columns, without those that only fill them up."""
    each = hidden_BsD.shape[1]
    real = max(0, min(each, whole_BSD.shape[1] - each * team.place))
    return apart(hidden_BsD[:, :real], own_columns(whole_BSD, team.size, team.place)[:, :real])
