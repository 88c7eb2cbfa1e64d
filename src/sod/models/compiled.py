"""Fused small operations on CUDA: the decoder's layers and the projection's chunks through `torch.compile`.

Norms, rotary embeddings, gates, casts and the log-softmax are many small kernels whose launches and trips through
memory cost more than the products: compiled, an update of Qwen3-0.6B's shape took 150 instead of 361 ms
(docs/results/2026-11-26-gpu-probe.md). Only regions are compiled, never the whole model: one compilation serves all
layers, and shapes are symbolic, so that new lengths do not compile anew. torch keeps what was compiled in its own cache
on disk. On a CPU nothing is compiled: it costs more than a short run there saves.

What an engine runs through its cache is left as it is: the fast engine has its own way of being fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, final
from weakref import WeakSet

import torch
from torch import Tensor

from sod.models.recompute import CACHES, decoder_layers

WORTH_IT = 50_000_000  # weights; below it a start of 3 to 13 s buys little
VARIANTS = 64
"""Compilations of one layer's code: padded or packed, with or without gradients, student or teacher, in a decoding step
with and without fixed sizes. dynamo runs the ninth and all later ones uncompiled by itself."""
_FUSED_HEADS: WeakSet[Any] = WeakSet()
"""Output embeddings of the models whose projection is compiled."""


def wants_compiling(asked: bool | None, model: Any) -> bool:
    """What `optim.compile` means for this model: null is yes on CUDA from 50M weights."""
    if asked is not None:
        return asked
    on_cuda = bool(model.device.type == "cuda")
    return on_cuda and sum(weight.numel() for weight in model.parameters()) >= WORTH_IT


def why_not(device: torch.device) -> str | None:
    """What keeps `torch.compile` from working for this device, in one line; None where it works.

    It needs a C compiler (and Triton on CUDA), which a lean machine may lack.
    """
    try:
        torch.compile(_two_more)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a missing compiler, driver or package raises there
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return None


def _two_more(x: Tensor) -> Tensor:
    return x.sin() + 2.0


def compile_model(model: Any, backend: str = "inductor") -> None:
    """From now on whole-sequence forwards of `model` run compiled layers, and its scores a compiled projection.

    Call once per model, before `recompute_layers`. Names and values of the weights, hooks and the configuration stay as
    they are; copies of the model compile for themselves. Raises SodError for an architecture whose layers transformers
    does not mark.
    """
    for layer in decoder_layers(model, "optim.compile"):
        layer.forward = _Compiled(layer.forward, backend)
    _FUSED_HEADS.add(model.get_output_embeddings())


def fused(project: partial[Tensor], head: Any) -> Callable[..., Tensor]:
    """The projection of a chunk, compiled where the model of this output embedding is, else as it is."""
    if head not in _FUSED_HEADS:
        return project
    return partial(_compiled(project.func), *project.args, **project.keywords)


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=True)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        # A temperature is a constant: as a symbol it is computed with on the CPU, and a C++ compiler called for that.
        with torch._dynamo.config.patch(specialize_float=True, recompile_limit=VARIANTS):
            return compiled(*args, **kwargs)

    return run


@final
class _Compiled:
    """A layer's forward that is compiled when it is first called on a whole sequence.

    On the layer object, as a module around it would change the names of the weights.
    """

    def __init__(self, forward: Callable[..., Any], backend: str) -> None:
        self._plain = forward
        self._backend = backend
        self._fast = torch.compile(forward, dynamic=True, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(kwargs.get(name) is not None for name in CACHES):
            return self._plain(*args, **kwargs)
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            return self._fast(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Compiled:
        # The compiled function is bound to its layer: the layer's copy needs one of its own.
        return _Compiled(copy.deepcopy(self._plain, memo), self._backend)
