"""A state dict of peft's wrapped model, as verl's LoRA runs save it, with the adapter added to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from sod.models.adapters import CONFIG
from sod.models.source import read_object
from sod.records import SodError

META = "lora_train_meta.json"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_BASE = ".base_layer."
_NOT_ALIKE = ("alpha_pattern", "rank_pattern", "fan_in_fan_out", "use_dora")
"""Settings under which the sum is not the same for all layers, or another."""


def without_wrapping(name: str) -> str:
    """The name that a weight has in the model without the adapter."""
    return name.removeprefix(_PREFIX).replace(_BASE, ".")


def has_wrapping(names: Mapping[str, Any]) -> bool:
    """Whether these are names of a model with an adapter."""
    return any(".lora_" in name for name in names)


@final
@dataclass(frozen=True)
class Scale:
    """How the adapter in shards is scaled, by the file `path`: its `rank`, and the `factor` of the two's product."""

    rank: int
    factor: float
    path: Path


def adapter_scale(directory: Path) -> Scale:
    """What the product of the two factors is multiplied by: alpha / rank, alpha / sqrt(rank) with rslora.

    Raises SodError where no file in the directory, or beside it, says so, or not for all layers alike.
    """
    own = (directory / "lora_adapter" / CONFIG, directory / META, directory / CONFIG)
    for path in (*own, directory.resolve().parent / CONFIG):
        if path.is_file():
            return _scale(read_object(path, str(path)), path)
    raise SodError(
        f"{directory}: shards with a LoRA adapter, and no {META} that says how it is scaled, nor {CONFIG}; write one "
        'there, e.g. {"r": 32, "lora_alpha": 64}, with the values that it was trained with'
    )


def added(state: dict[str, Tensor], scale: Scale, asked: str) -> dict[str, Tensor]:
    """The weights of the plain model; the sum is made in float32 and rounded once to the precision of the weight.

    `state` is used up. Raises SodError naming `asked` for anything beside the two factors of linear layers, and for
    factors of another rank than their scale is of.
    """
    for first in [name for name in state if name.endswith(_A)]:
        layer = first.removesuffix(_A)
        lower, upper, base = state.pop(first), state.pop(f"{layer}{_B}", None), state.get(f"{layer}{_BASE}weight")
        if upper is None or base is None or upper.shape[0] != base.shape[0] or lower.shape[1:] != base.shape[1:]:
            raise SodError(f"{asked}: {layer} has an adapter that is not one of a linear layer; merge it with peft")
        if lower.shape[0] != scale.rank:
            raise SodError(
                f"{scale.path}: says r {scale.rank}, and {layer} has an adapter of rank {lower.shape[0]}; write the "
                "r and lora_alpha there that it was trained with"
            )
        base.copy_(base.float() + scale.factor * (upper.float() @ lower.float()))
    strange = [name for name in state if ".lora_" in name or ".modules_to_save." in name]
    if strange:
        raise SodError(f"{asked}: {strange[0]} is more than a plain low-rank adapter; merge it with peft")
    return {without_wrapping(name): weight for name, weight in state.items()}


def _scale(settings: Mapping[str, Any], path: Path) -> Scale:
    for key in _NOT_ALIKE:
        if settings.get(key):
            raise SodError(f"{path}: {key} makes it more than a plain low-rank adapter; merge it with peft")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float) or not alpha:
        raise SodError(f"{path}: r and lora_alpha are not both numbers above 0; correct them")
    return Scale(rank, float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank), path)
