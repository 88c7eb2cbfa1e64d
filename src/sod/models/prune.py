"""A shallower model cut from a deeper one."""

from __future__ import annotations

from typing import Any

import torch

from sod.records import SodError


def kept_layers(total: int, keep: int) -> list[int]:
    """`keep` layer numbers spread evenly over `total`, the first and the last among them."""
    if not 1 <= keep <= total:
        raise SodError(f"--layers {keep}: the model has {total} layers; keep between 1 and {total}")
    if keep == 1:
        return [0]
    return [round(i * (total - 1) / (keep - 1)) for i in range(keep)]


def prune_layers(model: Any, keep: int) -> Any:
    """Drop all but `keep` decoder layers of `model`, in place, and return it.

    Raises SodError when `keep` does not fit the model.
    """
    decoder = model.get_decoder()
    chosen = kept_layers(len(decoder.layers), keep)
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in chosen)
    for number, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = number  # the key-value cache is addressed by it
    model.config.num_hidden_layers = keep
    layer_types = getattr(model.config, "layer_types", None)
    if layer_types:
        model.config.layer_types = [layer_types[i] for i in chosen]
    return model
