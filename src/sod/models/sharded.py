"""How the weights of a sharded model come together where we compute with them.

A sharded model has pieces of its weights in each process; torch puts them together as it enters a module's `forward`.
Ours runs the decoder and then the output embedding by itself (`sod.models.score`), so that what stands outside of the
layers must be put together around both: `within`. `sod.models.parallel` shards a model and says here how.

A model that is whole is run as it is, and nothing of `torch.distributed` is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, final
from weakref import WeakKeyDictionary

import torch

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Sharding:
    """How a sharded model runs work with its weights together, and the type that it computes in."""

    run: Callable[[Callable[[], Any]], Any]
    dtype: torch.dtype


_sharded: WeakKeyDictionary[Any, Sharding] = WeakKeyDictionary()


def mark_sharded(model: Any, sharding: Sharding) -> None:
    """From now on `within` runs work on `model` so."""
    _sharded[model] = sharding


def is_sharded(model: Any) -> bool:
    """Whether only a piece of each of the model's weights is in this process."""
    return model in _sharded


def within(model: Any, work: Callable[[], T]) -> T:
    """What `work` returns, a tensor or a tuple of them, run while the model's weights outside of its layers are whole.

    All ranks have to call it. Gradients flow through what is returned.
    """
    sharding = _sharded.get(model)
    if sharding is None:
        return work()
    value: T = sharding.run(work)
    return value


def computing_dtype(model: Any) -> torch.dtype:
    """The type that the model's layers compute in: that of its weights, unless it is sharded."""
    sharding = _sharded.get(model)
    dtype: torch.dtype = model.dtype if sharding is None else sharding.dtype
    return dtype


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a weight or a norm that may be in pieces over the ranks, which then all call it; else it itself."""
    together = getattr(tensor, "full_tensor", None)  # of torch's DTensor, which is not imported here
    return tensor if together is None else together()
