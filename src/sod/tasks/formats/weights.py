"""How much a message counts in the loss of SFT, under the names that other trainers read it by."""

from __future__ import annotations

import math
from typing import Any

from sod.tasks.formats.base import BadRowError, Row

WEIGHTS = ("weight", "loss_weight", "loss_scale", "loss", "loss_mask", "train", "training", "trainable")
"""OpenAI, LLaMA-Factory, ms-swift, AgentTuning, verl, Axolotl, tinker: more counts more, 0 or false is context."""
MASK = "mask"
"""The one name with two meanings: a number is a loss mask (1 is trained), true is masked out (SWE-agent's sets)."""
DETAILS = ("train_detail", "training_detail")


def weight_of(item: Row, role: str) -> float | None:
    """The loss weight that a message declares, None where it declares none.

    Raises BadRowError for what is no weight, for several that differ, and for a positive one of a message that is not
    the assistant's: only assistant turns can be trained on.
    """
    if any(item.get(name) for name in DETAILS):
        raise BadRowError(f"{role} message of which parts are trained ({DETAILS[0]}): only whole messages can be")
    given = {name: _weight(item[name], name) for name in (*WEIGHTS, MASK) if item.get(name) is not None}
    if len(set(given.values())) > 1:
        raise BadRowError(f"{role} message with different weights: {', '.join(map(_shown, given.items()))}")
    for name, weight in given.items():
        if weight > 0 and role != "assistant" and name != MASK:
            raise BadRowError(f"{role} message with {name} {weight:g}: only assistant messages can be trained on")
    return next(iter(given.values()), None)


def _weight(value: Any, name: str) -> float:
    if isinstance(value, bool):
        return float(value is not (name == MASK))
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    raise BadRowError(f"{name} {value!r} is no weight of a message: use a number from 0, true or false")


def _shown(given: tuple[str, float]) -> str:
    return f"{given[0]} {given[1]:g}"
