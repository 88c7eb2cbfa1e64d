"""SOD and its ablations without rewards and without the clip."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from objective.enumeration import Episode, assert_proven, batch_of, distilled, expected_gradient, make_world
from sod.objective import PRESETS, Method, advantage

METHODS = {
    "sod": PRESETS["sod"](kappa=0.8, rho=0.5, delta=0.1),
    "sod_no_grpo": PRESETS["sod_no_grpo"](kappa=0.8, delta=0.1),
    "sod_no_clip": PRESETS["sod_no_clip"](kappa=0.8, rho=0.5),
}
LIMIT = {"sod": 1.1, "sod_no_grpo": 1.1, "sod_no_clip": math.inf}
RHO = {"sod": 0.5, "sod_no_grpo": 0.0, "sod_no_clip": 0.5}


def turn_by_turn(episode: Episode, limit: float) -> list[float]:
    """The paper's running product over the turns before; only the weight is limited, not the product."""
    weights, running = [1.0], 1.0
    for before, now in zip(episode.d, episode.d[1:], strict=False):
        running *= (before + 1e-6) / (now + 1e-6)
        weights.append(min(running, limit))
    return weights


@pytest.mark.parametrize("name", METHODS)
def test_expected_gradient(name: str) -> None:
    """Up to three touching turns, weights that rise and fall, some of them at the limit. A group of one."""
    world = make_world()
    weights = [w for e in world.episodes for w in turn_by_turn(e, math.inf)[1:]]
    assert min(weights) < 0.5
    assert max(weights) > 1.5
    assert_proven(world, METHODS[name], distilled(partial(turn_by_turn, limit=LIMIT[name]), 0.8, RHO[name]))


@pytest.mark.parametrize("name", METHODS)
def test_expected_gradient_of_pairs(name: str) -> None:
    world = make_world(longest=2, turns=2, seed=3)
    signal = distilled(partial(turn_by_turn, limit=LIMIT[name]), 0.8, RHO[name])
    assert_proven(world, METHODS[name], signal, size=2)


@pytest.mark.parametrize("name", METHODS)
def test_teacher_equal_to_the_student_leaves_the_reward(name: str) -> None:
    """Exactly zero where there is no reward term."""
    world = make_world(longest=3, turns=2, alike=True)
    grpo = expected_gradient(world, PRESETS["grpo"](rho=RHO[name]))
    torch.testing.assert_close(expected_gradient(world, METHODS[name]), grpo, atol=1e-15, rtol=0)
    assert (float(grpo.abs().max()) > 1e-3) == (name != "sod_no_grpo")


def test_one_turn_is_opd_and_grpo() -> None:
    """An episode of one turn has no turn to compare with."""
    world = make_world(longest=3, turns=1)
    for name, other in (("sod", "opd_grpo"), ("sod_no_clip", "opd_grpo"), ("sod_no_grpo", "opd")):
        one, two = (expected_gradient(world, PRESETS[n]()) for n in (name, other))
        torch.testing.assert_close(one, two, atol=1e-15, rtol=0)


def test_equal_rewards_leave_the_teacher() -> None:
    world = make_world(longest=2, turns=2, reward=0.1)
    one, two = (expected_gradient(world, PRESETS[n](), size=2) for n in ("sod", "sod_no_grpo"))
    assert torch.equal(one, two)


def test_an_unlimited_clip_is_no_clip() -> None:
    world = make_world(longest=3, turns=2)
    one, two = (expected_gradient(world, m) for m in (PRESETS["sod"](delta=math.inf), PRESETS["sod_no_clip"]()))
    assert torch.equal(one, two)
    assert not torch.equal(one, expected_gradient(world, PRESETS["sod"]()))


def test_kappa_and_rho_follow_their_schedules() -> None:
    """At step s the coefficients of that step, no others."""
    from sod.objective import linear

    world = make_world(longest=2, turns=2)
    moving = PRESETS["sod"](kappa=linear(1.0, 0.0, 4), rho=linear(0.0, 1.0, 4))
    for step, kappa in ((1, 1.0), (3, 0.5), (5, 0.0), (9, 0.0)):
        still: Method = PRESETS["sod"](kappa=kappa, rho=1.0 - kappa)
        one, two = expected_gradient(world, moving, step=step), expected_gradient(world, still)
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


def test_weights_are_told() -> None:
    """What is reported of a batch is what the formula says."""
    world = make_world()
    episodes = [e for e in world.episodes if len(e.turns) == 3][:4]
    signal = advantage(METHODS["sod"], batch_of(world, episodes))
    assert signal.weight_BK is not None
    for row, episode in zip(signal.weight_BK.tolist(), episodes, strict=True):
        assert row == pytest.approx(turn_by_turn(episode, 1.1))
