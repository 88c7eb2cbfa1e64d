"""A rehearsal: the run's own forward and backward over tensors that have shapes and no contents, every byte counted.

What autograd keeps, what a backward pass holds for a moment, what a chunk of the projection takes: all of it is in the
code that trains, so that code is run, not described a second time. PyTorch's fake tensors know how every operation
shapes its result, and take neither memory nor arithmetic. Weights and what follows from them are fake; the batch, token
ids and turn ids, is real, as the code looks into it.

Two layers and three stand for all: the layers of a decoder are alike.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from sod.models.architecture import in_one_line, unusual_attention
from sod.models.attention import NAME as ATTENTION
from sod.models.forward import take_as_proven
from sod.models.lora import new_adapter
from sod.models.recompute import recompute_layers
from sod.recipe import LoraSpec

FEW, MORE = 2, 3  # layers


@final
class Tally(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and still alive: now, and at most since `lap`.

    A view of what was there before, as of a weight that a product takes transposed, is nothing new.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._sizes: dict[int, int] = {}

    def lap(self) -> int:
        """The most since the last lap; from now on counted anew."""
        most, self.most = self.most, self.now
        return most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _as_numbers(args[1]))
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), new=True)
        return result

    def _count(self, storage: Any, new: bool) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes() if new else 0
            self.now += self._sizes[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _as_numbers(indices: Any) -> list[Tensor | None]:
    """Masks as the places that they mark: how many these are, a fake tensor could not tell from a mask."""
    found: list[Tensor | None] = []
    for index in indices:
        found += index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool else [index]
    return found


@final
@dataclass(frozen=True)
class Sizes:
    """Bytes and counts of a whole model's rehearsal.

    `kept` is what autograd holds when the loss is known, `most` all that a forward and backward take at their peak,
    beside weights and gradients that were there before.
    """

    kept: int
    most: int


@final
@dataclass(frozen=True)
class Counts:
    """Parameters of a model: all, those of its largest matrix, and those that are trained."""

    all: int
    largest: int
    trained: int


def fake_model(
    config: Any, dtype: torch.dtype, layers: int, where: str, recompute: bool = False, lora: LoraSpec | None = None
) -> Any:
    """A model of the configuration with so many layers, in eval mode, its weights fake; with an adapter to be trained.

    Raises SodError naming `where` for an architecture that cannot be made this way.
    """
    with in_one_line(config, where, "cannot be planned"):
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(_cut(config, layers), dtype=dtype)
        model.eval()
        if unusual_attention(config) is None:
            model.set_attn_implementation(ATTENTION)
        if lora is not None:
            with torch.device("meta"):
                new_adapter(model, lora, 0, where)
        made: dict[int, Any] = {}  # tied weights stay one
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, value in kind.items():
                    if value is not None:
                        kind[name] = made.setdefault(id(value), _fake(value))
    take_as_proven(model)
    if recompute:
        recompute_layers(model)
    return model


@cache
def _faking() -> FakeTensorMode:
    """One for all models: tensors of two do not mix."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _fake(value: Tensor) -> Tensor:
    with _faking():
        blank = torch.empty(value.shape, dtype=value.dtype, device="cpu")
    return torch.nn.Parameter(blank, value.requires_grad) if isinstance(value, torch.nn.Parameter) else blank


def _cut(config: Any, layers: int) -> Any:
    """The configuration with so many layers, fewer as a rule; what it lists layer by layer is as long."""
    short, whole = copy.deepcopy(config), config.num_hidden_layers
    for name, value in vars(short).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(short, name, [value[layer % whole] for layer in range(layers)])
    short.num_hidden_layers = layers
    return short


def counted(make: Callable[[int], Any], layers: int) -> Counts:
    """The parameters of a model of so many layers; `make` gives one of fewer."""
    few, more = (_counts(make(number)) for number in (FEW, MORE))
    grown = {name: few[name] + (layers - FEW) * (more[name] - few[name]) for name in ("all", "trained")}
    return Counts(largest=more["largest"], **grown)


def _counts(model: Any) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "all": sum(p.numel() for p in parameters),
        "largest": max(p.numel() for p in parameters if p.requires_grad),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


@final
@dataclass(frozen=True)
class Laps:
    """A whole model's forward and backward in stretches, each with the most that it takes; bytes as in `Sizes`.

    kept   what autograd holds when the loss is known
    head   most of it until the gradient has come down to the decoder: what makes logits
    last   from there until it has left the decoder's last layer
    below  from there to the end
    left   what there is as it leaves the last layer
    layer  what one layer more adds to `kept`
    """

    kept: int
    head: int
    last: int
    below: int
    left: int
    layer: int

    @property
    def sizes(self) -> Sizes:
        """Of a model whose weights and gradients stay where they are.

        A backward pass is at its peak where its last layer's begins (activations of all) or where its first one's ends
        (gradients of all).
        """
        return Sizes(self.kept, max(self.head, self.last, self.below))


def update_sizes(make: Callable[[int], Any], layers: int, loss: Callable[[Any], Tensor], accumulated: bool) -> Sizes:
    """What a forward and backward of `loss(model)` take. `accumulated`: gradients of a micro-batch before are there."""
    return update_laps(make, layers, loss, accumulated).sizes


def update_laps(make: Callable[[int], Any], layers: int, loss: Callable[[Any], Tensor], accumulated: bool) -> Laps:
    """As `update_sizes`, by stretches, each of which is followed over the number of layers by itself."""
    few, more = (_update(make(number), loss, accumulated) for number in (FEW, MORE))
    whole = {name: value + (layers - FEW) * (more[name] - value) for name, value in few.items()}
    return Laps(**whole, layer=more["kept"] - few["kept"])


def _update(model: Any, loss: Callable[[Any], Tensor], accumulated: bool) -> Mapping[str, int]:
    there = accumulated and model.dtype == torch.float32
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight) if there and weight.requires_grad else None
    laps: list[tuple[int, int]] = []
    with Tally() as tally:
        with _at_last_layer(model, lambda: laps.append((tally.lap(), tally.now))):
            value = loss(model)
            kept = tally.now
            value.backward()
        below = tally.lap()
    (head, _), (last, left) = laps
    return {"kept": kept, "head": head, "last": last, "below": below, "left": left}


@contextmanager
def _at_last_layer(model: Any, call: Callable[[], object]) -> Iterator[None]:
    """Calls when the backward pass comes to the last layer of the decoder, and when it has left it."""

    def watch_input(_module: Any, args: Any, kwargs: Any) -> None:
        hidden_BTD = args[0] if args else kwargs["hidden_states"]
        if hidden_BTD.requires_grad:
            hidden_BTD.register_hook(lambda _grad: call())

    def watch_output(_module: Any, _args: Any, output: Any) -> None:
        hidden_BTD = output[0] if isinstance(output, tuple) else output
        if hidden_BTD.requires_grad:
            hidden_BTD.register_hook(lambda _grad: call())

    layer = model.get_decoder().layers[-1]
    handles = [
        layer.register_forward_pre_hook(watch_input, with_kwargs=True),
        layer.register_forward_hook(watch_output),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward_size(model: Any, forward: Callable[[Any], object]) -> int:
    """What `forward(model)` takes at its peak without gradients: as much with one layer as with many."""
    with Tally() as tally, torch.no_grad():
        forward(model)
    return int(tally.lap())
