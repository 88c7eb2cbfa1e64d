"""Seconds by phase."""

from __future__ import annotations

import time

import pytest

from sod.clock import Clock


def test_phases_add_up_in_the_order_in_which_they_came() -> None:
    clock = Clock()
    for phase in ("b", "a", "b"):
        with clock.timed(phase):
            time.sleep(0.01)
    clock.add("a", 1.0)
    assert list(clock.seconds) == ["b", "a"]
    assert clock.seconds["b"] >= 0.02
    assert clock.seconds["a"] >= 1.01


def test_what_raises_is_not_counted() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock.timed("x"):
        raise ZeroDivisionError
    assert clock.seconds == {}
