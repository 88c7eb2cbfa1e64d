"""A state dict of peft's wrapped model, as verl's LoRA runs save it, with the adapter added to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sod.models.adapters import CONFIG
from sod.models.source import read_object
from sod.records import SodError

META = "lora_train_meta.json"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_BASE = ".base_layer."


def without_wrapping(name: str) -> str:
    """The name that a weight has in the model without the adapter."""
    return name.removeprefix(_PREFIX).replace(_BASE, ".")


def has_wrapping(names: Mapping[str, Any]) -> bool:
    """Whether these are names of a model with an adapter."""
    return any(".lora_" in name for name in names)


def adapter_scale(directory: Path) -> float:
    """What the product of the two factors is multiplied by: alpha / rank, alpha / sqrt(rank) with rslora.

    Raises SodError where no file in the directory says so.
    """
    for path in (directory / "lora_adapter" / CONFIG, directory / META):
        if path.is_file():
            return _scale(read_object(path, str(path)), path)
    raise SodError(
        f"{directory}: shards with a LoRA adapter, and no {META} that says how it is scaled; write one there, "
        'e.g. {"r": 32, "lora_alpha": 64}, with the values that it was trained with'
    )


def added(state: dict[str, Tensor], scale: float, asked: str) -> dict[str, Tensor]:
    """The weights of the plain model; the sum is made in float32 and rounded once to the precision of the weight.

    `state` is used up. Raises SodError naming `asked` for anything beside the two factors of linear layers.
    """
    for first in [name for name in state if name.endswith(_A)]:
        layer = first.removesuffix(_A)
        lower, upper, base = state.pop(first), state.pop(f"{layer}{_B}", None), state.get(f"{layer}{_BASE}weight")
        if upper is None or base is None or upper.shape[0] != base.shape[0] or lower.shape[1:] != base.shape[1:]:
            raise SodError(f"{asked}: {layer} has an adapter that is not one of a linear layer; merge it with peft")
        base.copy_(base.float() + scale * (upper.float() @ lower.float()))
    strange = [name for name in state if ".lora_" in name or ".modules_to_save." in name]
    if strange:
        raise SodError(f"{asked}: {strange[0]} is more than a plain low-rank adapter; merge it with peft")
    return {without_wrapping(name): weight for name, weight in state.items()}


def _scale(settings: Mapping[str, Any], path: Path) -> float:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not alpha:
        raise SodError(f"{path}: r and lora_alpha are not both numbers above 0; correct them")
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
