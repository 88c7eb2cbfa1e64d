"""What to change where a run does not fit: keys, each with the largest value that fits, tried on the estimate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, final

from sod.preflight.estimate import estimated
from sod.preflight.parts import Estimate
from sod.recipe import Recipe, parse_recipe, resolved

Free = Mapping[str, int]
"""Bytes by device."""


@final
@dataclass(frozen=True)
class Change:
    """A key and the values to try, the least change first; `price` is what it costs beside memory."""

    key: str
    values: tuple[Any, ...]
    price: str


@final
@dataclass(frozen=True)
class Advice:
    """Settings that make a run fit: the bytes by which it is still beyond, 0 where it fits, and the price."""

    settings: Mapping[str, Any]
    beyond: int
    price: str


def beyond(estimate: Estimate, free: Free) -> int:
    """Bytes by which a run is beyond what is free, on the device where that is most; 0 where it fits."""
    return max(0, *(estimate.peak(device).bytes - free[device] for device in estimate.devices))


def advised(recipe: Recipe, sft: bool, free: Free) -> list[Advice]:
    """What makes a `readable` recipe fit: single keys that do, or else several together; [] where nothing does.

    A key that does not help is not named.
    """
    changes = _changes(recipe, sft)
    alone = [_tried(recipe, change, sft, free) for change in changes]
    enough = [advice for advice in alone if advice is not None and advice.beyond == 0]
    return enough or _together(recipe, changes, sft, free)


def _together(recipe: Recipe, changes: list[Change], sft: bool, free: Free) -> list[Advice]:
    settings: dict[str, Any] = {}
    prices: list[str] = []
    for change in changes:
        advice = _tried(recipe, change, sft, free)
        if advice is None:
            continue
        settings |= advice.settings
        recipe = _changed(recipe, advice.settings)
        prices.append(advice.price)
        if advice.beyond == 0:
            return [Advice(settings, 0, "; ".join(prices))]
    return []


def _tried(recipe: Recipe, change: Change, sft: bool, free: Free) -> Advice | None:
    """The first of the values that fits, else the last; None where that does not help either."""
    now = beyond(estimated(recipe, sft), free)

    def left(value: Any) -> int:
        return beyond(estimated(_changed(recipe, {change.key: value}), sft), free)

    values = change.values
    if not values or left(values[-1]) >= now:
        return None
    # The further along, the less is taken: the first that fits is found by halving.
    at = min(bisect_left(values, True, key=lambda value: left(value) == 0), len(values) - 1)
    return Advice({change.key: values[at]}, left(values[at]), change.price)


def _changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    content = resolved(recipe)
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = content
        for section in sections:
            if place[section] is None:
                place[section] = {}
            place = place[section]
        place[name] = value
    return parse_recipe(content, "plan")


def _changes(recipe: Recipe, sft: bool) -> list[Change]:
    """What may be changed, the least harmful first: what costs time, then what costs precision or length."""
    slower, rounded, shorter = "slower", "less precise", "shorter texts"
    optim, prefix = (recipe.sft.optim, "sft.optim") if sft else (recipe.optim, "optim")
    rollout = recipe.rollout
    changes = [
        Change(f"{prefix}.micro_batch_tokens", _halves(optim.micro_batch_tokens, 64), "a little slower"),
        Change(f"{prefix}.recompute", () if optim.recompute else (True,), slower),
    ]
    if not sft:
        changes.append(Change("rollout.max_rows", _halves(rollout.max_rows, 1), slower))
        for key, spec in recipe.local_teachers.items():
            if spec.dtype == "float32":
                changes.append(Change(f"{key}.dtype", ("bfloat16",), f"the teacher's scores are {rounded}"))
    if recipe.student.lora is None and find_spec("peft") is not None:
        changes.append(Change("student.lora.rank", (16,), "trains an adapter, not all weights"))
    if recipe.student.dtype == "float32":
        changes.append(Change("student.dtype", ("bfloat16",), rounded))
    if sft:
        changes.append(Change("sft.max_tokens", _halves(recipe.sft.max_tokens, 64), "longer conversations are skipped"))
    else:
        # A turn may not be longer than the response, so the response is halved down to a turn.
        least = rollout.max_turn_tokens
        changes.append(Change("rollout.max_response_tokens", _halves(rollout.max_response_tokens, least), shorter))
        changes.append(Change("rollout.prompts", _halves(rollout.prompts, 1), "smaller batches"))
    return changes


def _halves(value: int, least: int) -> tuple[int, ...]:
    """Half of a value, a quarter, and so on, down to the least that makes sense."""
    found: list[int] = []
    while value // 2 >= least:
        value //= 2
        found.append(value)
    return tuple(found)
