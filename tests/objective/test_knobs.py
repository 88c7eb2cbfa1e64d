"""Knobs are what a preset's signature says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from sod.objective.knobs import Coefficient, Knob, PresetKnob, knobs_of
from sod.objective.presets import PRESETS, knobs
from sod.objective.schedules import constant

RATE = Knob("a rate", above=0.0, most=1.0)


def preset(
    *,
    rate: Annotated[float, RATE] = 0.5,
    count: Annotated[int, Knob("a count", least=1)] = 3,
    size: Annotated[Coefficient, Knob("a size")] = constant(2.0),  # noqa: B008  # frozen
    rule: Annotated[Literal["one", "two"], Knob("a rule")] = "one",
) -> None:
    """A preset with a knob of every kind."""


def test_kind_range_default_and_meaning() -> None:
    declared = knobs_of(preset)
    assert list(declared) == ["rate", "count", "size", "rule"]
    assert declared["rate"] == PresetKnob(0.5, "number", RATE)
    assert (declared["count"].kind, declared["count"].default) == ("whole number", 3)
    assert (declared["size"].kind, declared["size"].default) == ("coefficient", constant(2.0))
    assert (declared["rule"].kind, declared["rule"].choices) == ("choice", ("one", "two"))


def undeclared(*, rate: float = 0.5) -> None: ...


def meaningless(*, rate: Annotated[float, "a rate"] = 0.5) -> None: ...


def of_another_type(*, rate: Annotated[list[int], Knob("rates")] = []) -> None: ...  # noqa: B006


@pytest.mark.parametrize("wrong", [undeclared, meaningless, of_another_type])
def test_what_is_no_knob_is_refused(wrong: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=rf"{wrong.__name__}\.rate: a knob is "):
        knobs_of(wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_every_knob_of_every_preset_has_a_meaning(name: str) -> None:
    """One short line; and every argument of a preset is a knob."""
    for declared in knobs(name).values():
        meaning = declared.declared.meaning
        assert 5 <= len(meaning) <= 110
        assert "\n" not in meaning
    assert PRESETS[name].__code__.co_argcount == 0
    assert PRESETS[name].__code__.co_kwonlyargcount == len(knobs(name))
