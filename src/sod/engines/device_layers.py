"""Decoder layers as a decoding step runs them: compiled code in their place, for the time of the step alone.

The model is the trainer's, so nothing of it is changed for longer: its layers get another `forward` while a step runs
or is captured, and theirs back after it. What is compiled is the forward of the layers' class: what a trainer put on
its objects (recomputation, a compiled call of its own) has no part in decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.engines.device_window import StaticWindow
from sod.models.compiled import VARIANTS

Run = Callable[..., Any]
"""Runs a layer: the layer, then what its forward takes."""

OVERRIDES = ("forward", "_compiled_call_impl")  # what may sit on a layer's object in place of its class's own


@final
@dataclass(frozen=True)
class Layer:
    """A decoder layer, and which keys and values are its own."""

    module: Any
    index: int


def decoder_layers(model: Any) -> list[Layer]:
    """The layers of a model that can be run one by one; none where it is not plain which cache is whose."""
    layers = [m for m in model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]
    indices = [_indices(layer) for layer in layers]
    if any(len(found) != 1 for found in indices):
        return []
    return [Layer(layer, found.pop()) for layer, found in zip(layers, indices, strict=True)]


def _indices(layer: Any) -> set[int]:
    found = {getattr(part, "layer_idx", None) for part in layer.modules()}
    return {index for index in found if isinstance(index, int)}


def run_layer(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward of a layer's class. A function of its own, so that no other code counts against its variants."""
    return type(module).forward(module, *args, **kwargs)


def compiled_layers(backend: str = "inductor") -> Run:
    """`run_layer`, compiled: once with the sizes at hand, then for any number of rows and columns."""
    return torch.compile(run_layer, fullgraph=True, backend=backend)


@contextmanager
def running(layers: Sequence[Layer], run: Run) -> Iterator[None]:
    """Inside, calls of these layers with a `StaticWindow` go through `run`, which sees the layer's own buffers."""
    kept = [{name: layer.module.__dict__.get(name) for name in OVERRIDES} for layer in layers]
    try:
        for layer in layers:
            layer.module.__dict__.pop("_compiled_call_impl", None)
            layer.module.forward = partial(_with_own_buffers, run, layer)
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            yield
    finally:
        for layer, had in zip(layers, kept, strict=True):
            layer.module.__dict__.pop("forward")
            layer.module.__dict__.update({name: value for name, value in had.items() if value is not None})


def _with_own_buffers(run: Run, layer: Layer, *args: Any, window: StaticWindow, **kwargs: Any) -> Tensor:
    result: Tensor = run(layer.module, *args, window=window.layer(layer.index), **kwargs)
    return result
