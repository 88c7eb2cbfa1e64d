"""Recomputation of activations: of each decoder layer only its input is kept for the backward pass.

Transformers has the same, but only for models in training mode, and ours stay in eval mode, where dropout is off for
sampling, scoring and training alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.records import SodError

CACHES = (
    "past_key_values",
    "cache_params",
    "window",
)  # keyword arguments that a layer writes to: it must not run twice


def recompute_layers(model: Any) -> None:
    """From now on the layers of `model`'s decoder run a second time in the backward pass. Call once per model.

    Their activations are then not kept. Nothing else changes: neither forwards without gradients or with a cache, nor
    the names and values of the weights, nor the configuration. Copies of the model recompute, too. Raises SodError
    for an architecture whose layers transformers does not mark as fit for this.
    """
    for layer in decoder_layers(model, "optim.recompute"):
        # On the object, as a module around it would change the names of the weights; around `forward`, not `__call__`,
        # so that hooks run once; a partial, as `deepcopy` would leave a closure with the layers of the original.
        layer.forward = partial(_recomputed, layer.forward)


def decoder_layers(model: Any, key: str) -> list[Any]:
    """The layers of the decoder, in order. Raises SodError, naming the key that asked, where none are marked."""
    layers = [m for m in model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise SodError(f"{key}: architecture {model.config.model_type!r} has no layers that are known; set {key}=false")
    return layers


def _recomputed(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or any(kwargs.get(name) is not None for name in CACHES):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
