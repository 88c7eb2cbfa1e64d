"""Knobs: what a recipe may set of a preset. A preset declares them at its own keyword arguments:

    def sod(*, epsilon: Annotated[float, Knob("added to every turn gap (nats/token)", above=0.0)] = 1e-6) -> Method

Nothing else needs to know of them: types, ranges and meanings are read off the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal, final, get_args, get_origin, get_type_hints

from sod.objective.schedules import Schedule

Coefficient = float | Schedule
"""A number, or a function of the optimizer step."""
KnobKind = Literal["number", "whole number", "coefficient", "choice"]


def always_works(values: Mapping[str, Any]) -> str | None:
    """The `idle` of a knob that does something whatever the others are."""
    return None


@final
@dataclass(frozen=True)
class Knob:
    """What a knob means, in one line with its unit, and the numbers it may be. Bounds are inclusive but for the strict
    ones (`above`, `below`); a number is finite unless `infinite`. `idle` says of the values of all the preset's
    knobs why this one does nothing beside them; None where it does something.
    """

    meaning: str
    _: KW_ONLY
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    infinite: bool = False
    idle: Callable[[Mapping[str, Any]], str | None] = always_works


@final
@dataclass(frozen=True)
class PresetKnob:
    """A knob of one preset: its default there, its kind, the `choices` of a choice, and what it was declared as."""

    default: Any
    kind: KnobKind
    declared: Knob
    choices: tuple[str, ...] = ()


def knobs_of(preset: Callable[..., Any]) -> dict[str, PresetKnob]:
    """The knobs in a preset's signature by name, in its order.

    Raises ValueError for a keyword argument without a `Knob`, or of a type that no knob has.
    """
    hints = get_type_hints(preset, include_extras=True)
    defaults: dict[str, Any] = getattr(preset, "__kwdefaults__", None) or {}
    return {name: _preset_knob(f"{preset.__name__}.{name}", hints[name], default) for name, default in defaults.items()}


def _preset_knob(where: str, hint: Any, default: Any) -> PresetKnob:
    declared = [part for part in get_args(hint)[1:] if isinstance(part, Knob)] if get_origin(hint) is Annotated else []
    if len(declared) != 1:
        raise ValueError(f"{where}: a knob is declared as Annotated[type, Knob(meaning)], not as {hint}")
    kind = get_args(hint)[0]
    if get_origin(kind) is Literal:
        return PresetKnob(default, "choice", declared[0], get_args(kind))
    kinds: dict[Any, KnobKind] = {float: "number", int: "whole number", Coefficient: "coefficient"}
    if kind not in kinds:
        raise ValueError(f"{where}: a knob is a float, an int, a Coefficient or a Literal, not {kind}")
    return PresetKnob(default, kinds[kind], declared[0])
