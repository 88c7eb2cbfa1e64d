"""OPSD: plain distillation whose teacher is the student itself with more in its prompt."""

from __future__ import annotations

import pytest
import torch

from objective.enumeration import assert_proven, distilled, expected_gradient, make_world, ones
from sod.objective import PRESETS, Need, TeacherRule


@pytest.mark.parametrize(("name", "context"), [("opsd_gt", "ground_truth"), ("opsd_hint", "hint")])
def test_what_it_asks_for(name: str, context: str) -> None:
    """The context by name, a frozen teacher unless told otherwise, no reward, the sampled tokens' scores."""
    method = PRESETS[name]()
    assert (method.name, method.context, method.teacher_rule) == (name, context, TeacherRule("frozen"))
    assert method.needs == {Need.TEACHER, Need.GROUND_TRUTH if context == "ground_truth" else Need.HINT}
    assert method.level == "sampled"
    moving = PRESETS[name](teacher_rule="ema", teacher_decay=0.5)
    assert moving.teacher_rule == TeacherRule("ema", 10, 0.5)
    assert PRESETS[name](teacher_rule="every", teacher_every=3).teacher_rule.pull(6) == 1.0


@pytest.mark.parametrize("name", ["opsd_gt", "opsd_hint"])
def test_expected_gradient(name: str) -> None:
    """Whatever made the teacher's table: that of OPD."""
    world = make_world(longest=3, turns=2)
    assert_proven(world, PRESETS[name](kappa=0.5), distilled(ones, 0.5))
    assert torch.equal(expected_gradient(world, PRESETS[name]()), expected_gradient(world, PRESETS["opd"]()))


@pytest.mark.parametrize("name", ["opsd_gt", "opsd_hint"])
def test_teacher_that_the_context_tells_nothing_gives_nothing(name: str) -> None:
    world = make_world(longest=2, turns=2, alike=True)
    assert float(expected_gradient(world, PRESETS[name]()).abs().max()) < 1e-15
