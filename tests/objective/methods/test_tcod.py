"""TCOD: plain OPD on as many turns as the curriculum allows at a step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objective.enumeration import assert_proven, distilled, expected_gradient, make_world, ones
from sod.objective import PRESETS, Curriculum


@pytest.mark.parametrize("name", ["tcod_f2b", "tcod_b2f"])
def test_expected_gradient(name: str) -> None:
    """On what the student played: that of OPD, at any step."""
    world = make_world(longest=3, turns=2)
    assert_proven(world, PRESETS[name](kappa=0.5), distilled(ones, 0.5), step=30)
    alike = make_world(longest=2, turns=2, alike=True)
    assert float(expected_gradient(alike, PRESETS[name]()).abs().max()) < 1e-15
    assert torch.equal(expected_gradient(world, PRESETS[name]()), expected_gradient(world, PRESETS["opd"]()))


@pytest.mark.parametrize(("name", "kind"), [("tcod_f2b", "f2b"), ("tcod_b2f", "b2f")])
def test_knobs_reach_the_curriculum(name: str, kind: str) -> None:
    method = PRESETS[name](start=2, every=5)
    assert (method.name, method.curriculum) == (name, Curriculum(kind, 2, 5))  # type: ignore[arg-type]
    assert not method.needs_reward


def test_a_turn_more_every_so_many_steps() -> None:
    assert [Curriculum("f2b", 1, 10).turns(step) for step in (1, 10, 11, 20, 21, 101)] == [1, 1, 2, 2, 3, 11]


@given(start=st.integers(1, 9), every=st.integers(1, 50), step=st.integers(1, 500))
def test_turns_grow_by_one_at_a_time(start: int, every: int, step: int) -> None:
    plan = Curriculum("f2b", start, every)
    assert plan.turns(1) == start
    assert plan.turns(step + 1) - plan.turns(step) == (step % every == 0)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (1, 0), (-1, 5)])
def test_what_is_no_curriculum(start: int, every: int) -> None:
    with pytest.raises(ValueError, match="a curriculum starts with one turn"):
        PRESETS["tcod_f2b"](start=start, every=every)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'f3b'"):
        Curriculum("f3b")  # type: ignore[arg-type]
