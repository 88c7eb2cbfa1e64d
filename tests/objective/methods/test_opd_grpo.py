"""OPD plus GRPO: the two terms side by side."""

from __future__ import annotations

import torch

from objective.enumeration import assert_proven, distilled, expected_gradient, make_world, ones
from sod.objective import PRESETS

WORLD = make_world(longest=2, turns=2, seed=5)


def test_expected_gradient() -> None:
    assert_proven(WORLD, PRESETS["opd_grpo"](kappa=0.5, rho=2.0), distilled(ones, 0.5, 2.0), size=2)


def test_it_is_the_sum_of_its_parts() -> None:
    parts = [expected_gradient(WORLD, PRESETS[name](), size=2) for name in ("opd", "grpo")]
    both = expected_gradient(WORLD, PRESETS["opd_grpo"](), size=2)
    torch.testing.assert_close(both, parts[0] + parts[1], atol=1e-7, rtol=1e-6)


def test_teacher_equal_to_the_student_leaves_the_reward() -> None:
    world = make_world(longest=2, turns=2, alike=True)
    one, other = (expected_gradient(world, PRESETS[name](), size=2) for name in ("opd_grpo", "grpo"))
    torch.testing.assert_close(one, other, atol=1e-15, rtol=0)


def test_equal_rewards_leave_the_teacher() -> None:
    world = make_world(longest=2, turns=2, reward=0.1)
    one, other = (expected_gradient(world, PRESETS[name](), size=2) for name in ("opd_grpo", "opd"))
    assert torch.equal(one, other)
