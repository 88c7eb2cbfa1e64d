"""Cards that are not there: devices beside the CPU, whose tensors are computed with on the CPU.

Inside `cards()` a tensor can be moved to `CARD` or `OTHER_CARD`, says that it is there, and cannot be computed with
together with tensors of another place, as on a real card. What PyTorch allows is allowed: numbers (0 dimensions) of the
CPU beside any tensor, `copy_` between devices, and of course `to`. Stricter than PyTorch is one thing: an index on the
CPU for a tensor on a card is refused, as the device would have to wait for it.

What is where is known by storage, so that views and tensors written in place are where they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, META = torch.device("cpu"), torch.device("meta")
# Of a type for which nothing captures graphs or asks a driver, and still no equals of `CPU`, which has no number.
CARD, OTHER_CARD = torch.device("cpu", 1), torch.device("cpu", 2)

BETWEEN_DEVICES = (torch.ops.aten.copy_.default,)
NO_NUMBERS = (torch.ops.aten.cat.default, torch.ops.aten.stack.default)
"""Operations that do not take a number of the CPU among tensors of a card."""


class MixedDevicesError(RuntimeError):
    """Tensors of different devices met in one operation."""


class Places(TorchDispatchMode):
    """Knows where every tensor is, and refuses operations over tensors of several places."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings = 0
        self.making: torch.device | None = None
        # With each place a reference that keeps the storage's address from being given to another one.
        self._known: dict[int, tuple[torch.device, StorageWeakRef]] = {}

    def of(self, tensor: Tensor) -> torch.device:
        """Where a tensor is."""
        if tensor.is_meta:
            return META
        known = self._known.get(tensor.untyped_storage()._cdata)
        return CPU if known is None else known[0]

    def put(self, tensor: Tensor, place: torch.device) -> Tensor:
        """From now on the tensor is there."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = (place, StorageWeakRef(storage))
        return tensor

    def crossed(self, tensor: Tensor, place: torch.device) -> Tensor:
        """A copy of the tensor at another place, differentiable."""
        self.crossings += 1
        return _Crossing.apply(tensor, self, place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not leaf.is_meta]
        place = self.making or self._meeting(func, given)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and not made.is_meta and made.untyped_storage()._cdata not in self._known:
                self.put(made, place)
        return result

    def _meeting(self, func: Any, given: Sequence[Tensor]) -> torch.device:
        places = {self.of(tensor) for tensor in given}
        if func in BETWEEN_DEVICES:
            return self.of(given[0])
        if len(places) > 1 and func not in NO_NUMBERS:
            places = {self.of(tensor) for tensor in given if tensor.dim() or self.of(tensor) != CPU}
        if len(places) > 1:
            met = ", ".join(f"{self.of(tensor)} {tuple(tensor.shape)}" for tensor in given)
            raise MixedDevicesError(f"{func}: tensors of several devices met: {met}")
        return places.pop() if places else CPU


class _Crossing(torch.autograd.Function):
    """A copy to another place, whose gradient crosses back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, places: Places, place: torch.device) -> Tensor:
        ctx.places, ctx.home = places, places.of(tensor)
        return places.put(tensor.clone(), place)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.places.put(grads[0].clone(), ctx.home), None, None


class Answers(TorchFunctionMode):
    """Lets tensors say where they are, and carries out what is asked to happen on a card."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        answer = self._asked(func, args)
        if answer is not None:
            return answer
        if func == Tensor.backward:
            # What is computed again in the backward pass asks, too, so that it has to run under this mode.
            with self, patch.object(torch.autograd, "has_torch_function", lambda given: False):
                return torch.autograd.backward(args[0])
        if func in (Tensor.to, Tensor.cpu):
            return self._to(func, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and self.places.of(args[0]) != CPU:
            raise MixedDevicesError("numpy cannot read a tensor of a card")
        place = kwargs.get("device")
        if place is None or torch.device(place) not in (CARD, OTHER_CARD):
            return func(*args, **kwargs)
        self.places.making = torch.device(place)
        try:
            return func(*args, **{**kwargs, "device": CPU})
        finally:
            self.places.making = None

    def _asked(self, func: Any, args: Sequence[Any]) -> Any:
        """What a tensor says of its device; None for everything else."""
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self.places.of(args[0])
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return self.places.of(args[0]) == CPU
        return None

    def _to(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        place, dtype = _target(func, args, kwargs)
        if isinstance(place, Tensor):
            place, dtype = self.places.of(place), place.dtype
        here = self.places.of(tensor)
        there = here if place is None else torch.device(place)
        if not {here, there} & {CARD, OTHER_CARD}:
            return func(tensor, *args, **kwargs)
        if dtype is not None:
            tensor = tensor.to(dtype)
        return tensor if here == there else self.places.crossed(tensor, there)


def _target(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, torch.dtype | None]:
    """The place (or a tensor that is there) and the dtype that `to` was asked for."""
    if func == Tensor.cpu:
        return CPU, None
    asked = [*args, kwargs.get("device"), kwargs.get("other"), kwargs.get("dtype")]
    places = [one for one in asked if isinstance(one, (str, torch.device, Tensor))]
    dtypes = [one for one in asked if isinstance(one, torch.dtype)]
    return (places[0] if places else None), (dtypes[0] if dtypes else None)


@contextmanager
def cards() -> Iterator[Places]:
    """Two cards beside the CPU."""
    places = Places()
    # Recomputation compares what it saved, devices among it, and asks for them once inside, once outside of the modes.
    checks = patch.dict(
        checkpoint._allowed_determinism_checks_to_fns, {"default": lambda saved: (saved.shape, saved.dtype)}
    )
    with checks, places, Answers(places):
        yield places
