"""Records whose columns are tensors with declared axes: checked when they are made, cut to rows together.

A column's axes are letters, one for each dimension. A letter stands for the same size in every column of a record,
and for these things wherever it is used here: B trajectories, T tokens (padded on the right), N action tokens of all
trajectories in row-major order. Other letters (turns, choices) belong to their record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, final, get_type_hints

import torch
from torch import Tensor

Record = TypeVar("Record")


@final
@dataclass(frozen=True)
class Axes:
    """Declares a dataclass field as a column: `token_BT: Annotated[Tensor, Axes("BT")]`, a letter per dimension."""

    letters: str


def check_axes(record: Any) -> None:
    """Raises ValueError where a column has another number of dimensions than axes, or another size than its letter."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes, tensor in _columns(record):
        if tensor.dim() != len(axes):
            raise ValueError(f"{name} has {tensor.dim()} dimensions, not the {len(axes)} of {axes}")
        for axis, size in zip(axes, tensor.shape, strict=True):
            wanted, where = sizes.setdefault(axis, (size, name))
            if size != wanted:
                raise ValueError(f"{name} has {size} at axis {axis}, {where} has {wanted}")


def cut(record: Record, at_B: Tensor, width: int, kept_N: Tensor) -> Record:
    """The rows `at_B` (int64) of every column, tokens cut to the first `width`, action tokens to those of `kept_N`.

    Columns that are records themselves are cut likewise; tuples count as columns of axis B, mappings go by row.
    """
    declared = _axes(record)
    changed: dict[str, Any] = {}
    for known in fields(record):  # type: ignore[arg-type]
        value = getattr(record, known.name)
        axes = declared.get(known.name, "")
        if value is None:
            continue
        if axes[:1] == "B":
            rows = value[at_B]
            changed[known.name] = rows[:, :width] if axes[1:2] == "T" else rows
        elif axes[:1] == "N":
            changed[known.name] = value[kept_N]
        elif isinstance(value, tuple):
            changed[known.name] = tuple(value[row] for row in at_B.tolist()) if value else value
        elif isinstance(value, Mapping):
            changed[known.name] = {new: value[old] for new, old in enumerate(at_B.tolist()) if old in value}
        elif _axes(value):
            changed[known.name] = cut(value, at_B, width, kept_N)
    return replace(record, **changed)  # type: ignore[type-var]


def action_numbers(action_BT: Tensor) -> Tensor:
    """The number of each action token in row-major order, -1 at context. Int64, B x T."""
    number_BT = torch.full(action_BT.shape, -1, dtype=torch.int64)
    return number_BT.masked_scatter(action_BT, torch.arange(int(action_BT.sum())))


def _columns(record: Any) -> Iterator[tuple[str, str, Tensor]]:
    """Name, axes and tensor of every column that is set."""
    for name, axes in _axes(record).items():
        tensor = getattr(record, name)
        if tensor is not None:
            yield name, axes, tensor


def _axes(record: Any) -> Mapping[str, str]:
    """The declared axes by column; nothing for what is no record of columns."""
    kind = type(record)
    if kind not in _declared:
        found: dict[str, str] = {}
        for name, hint in get_type_hints(kind, include_extras=True).items():
            for extra in getattr(hint, "__metadata__", ()):
                if isinstance(extra, Axes):
                    found[name] = extra.letters
        _declared[kind] = found
    return _declared[kind]


_declared: dict[type, Mapping[str, str]] = {}  # type hints are read once for each kind of record
