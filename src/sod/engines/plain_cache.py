"""What the plain engine does with caches of transformers: rows are put together and taken out again.

Every family may have a cache of its own: keys and values, those of a window only, states of convolutions and
recurrences. So a cache is taken for what it is made of, tensors of which the first dimension counts rows, and proven
against plain forwards before it is used (`sod.engines.plain_proof`). Keys and values have a column for each token;
rows of different length are put together with empty columns on their left.

Legend: B rows, S columns, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedConfig

COLUMNS = frozenset({"keys", "values"})  # tensors that have a column for each token in their last dimension but one
LENGTH = "cumulative_length"  # of a layer with a window: how many tokens it has seen

OfTensors = Callable[[str, list[Tensor]], Tensor]


def merged(caches: Sequence[Any], length: int) -> Any:
    """A new cache of the rows of several, in order; the longest holds `length` tokens.

    Raises ValueError or RuntimeError for caches that do not fit together.
    """
    return _combined("", list(caches), _stacked, length)


def taken(cache: Any, rows: Sequence[int], length: int) -> Any:
    """A new cache of some rows of another; the longest of them holds `length` tokens."""

    def chosen(name: str, tensors: list[Tensor]) -> Tensor:
        part = tensors[0][list(rows)]  # a copy: states are written to in place
        return part[..., -length:, :].contiguous() if name in COLUMNS else part

    return _combined("", [cache], chosen, length)


def bytes_of(cache: Any) -> int:
    """The memory of its tensors."""
    sizes: list[int] = []

    def count(_name: str, tensors: list[Tensor]) -> Tensor:
        sizes.append(tensors[0].numel() * tensors[0].itemsize)
        return tensors[0]

    _combined("", [cache], count, 0)
    return sum(sizes)


def _stacked(name: str, tensors: list[Tensor]) -> Tensor:
    if name in COLUMNS:
        widest = max(tensor.shape[-2] for tensor in tensors)
        tensors = [pad(tensor, (0, 0, widest - tensor.shape[-2], 0)) for tensor in tensors]
    return torch.cat(tensors)


def _combined(name: str, parts: list[Any], of_tensors: OfTensors, length: int) -> Any:
    """Caches, or parts of them at the same place, as one: by `of_tensors` where they hold rows, else as they are."""
    first = parts[0]
    if name == LENGTH:
        return length
    if isinstance(first, Tensor):
        holds_rows = first.dim() > 0 and first.numel() > 0
        return of_tensors(name, parts) if holds_rows else first
    if isinstance(first, list | tuple):
        members = zip(*parts, strict=True)
        return type(first)([_combined(name, list(same), of_tensors, length) for same in members])
    if isinstance(first, dict):
        return {key: _combined(name, [part[key] for part in parts], of_tensors, length) for key in first}
    if _is_part_of_a_cache(first):
        whole = copy.copy(first)
        for key in vars(first):
            of_key = [vars(part)[key] for part in parts]
            setattr(whole, key, _combined(key, of_key, of_tensors, length))
        return whole
    if isinstance(first, int) and any(part != first for part in parts):
        raise ValueError(f"rows differ in {name}")
    return first


def _is_part_of_a_cache(value: Any) -> bool:
    """Whether this is an object of transformers' with contents of its own: a cache, or a layer of one."""
    known = type(value).__module__.partition(".")[0] == "transformers"
    return known and not isinstance(value, PreTrainedConfig | torch.nn.Module)
