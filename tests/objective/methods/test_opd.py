"""OPD: the teacher gap alone, and that its expected gradient is that of a reverse KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objective.enumeration import (
    World,
    assert_gradient_of,
    assert_proven,
    distilled,
    exact_gradient,
    expected_gradient,
    make_world,
    ones,
)
from sod.objective import PRESETS, Divergence, make


def reverse_kl(world: World, theta_PV: Tensor) -> Tensor:
    """Mean over the tokens of a batch of one: `sum_prefix reach(prefix) / length KL(pi || T)`, reach detached."""
    total = torch.zeros((), dtype=torch.float64)
    for episode in world.episodes:
        rows = [world.index[episode.tokens[:t]] for t in range(len(episode.tokens))]
        pi_TV, teacher_TV = theta_PV[rows].softmax(-1), world.teacher_PV[rows].softmax(-1)
        kl_T = (pi_TV * (pi_TV / teacher_TV).log()).sum(-1)
        total = total + episode.probability * kl_T.mean()
    return total


def test_expected_gradient() -> None:
    world = make_world()
    assert_proven(world, PRESETS["opd"](kappa=0.7), distilled(ones, kappa=0.7))


def test_sampled_estimator_has_the_gradient_of_the_dense_reverse_kl() -> None:
    """Up to four turns in three tokens: no episode ends early."""
    world = make_world(longest=3, turns=4)
    assert_gradient_of(world, PRESETS["opd"](), lambda theta_PV: reverse_kl(world, theta_PV))
    dense = make("opd", {}, divergence=Divergence("reverse_kl"))
    torch.testing.assert_close(
        expected_gradient(world, dense), expected_gradient(world, PRESETS["opd"]()), atol=1e-7, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_expected_gradient_of_a_dense_divergence(kind: str) -> None:
    """The definitions from probabilities, over episodes of uneven lengths; prefixes' weights are detached."""
    world = make_world(longest=3, turns=2)
    method = make("opd", {"kappa": 0.5}, divergence=Divergence(kind, beta=0.3))  # type: ignore[arg-type]

    def kl(left_TV: Tensor, right_TV: Tensor) -> Tensor:
        return (left_TV * (left_TV / right_TV).log()).sum(-1)

    def mean(theta_PV: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for episode in world.episodes:
            rows = [world.index[episode.tokens[:t]] for t in range(len(episode.tokens))]
            q_TV, p_TV = theta_PV[rows].softmax(-1), world.teacher_PV[rows].softmax(-1)
            m_TV = 0.3 * p_TV + 0.7 * q_TV
            value_T = {
                "forward_kl": kl(p_TV, q_TV),
                "reverse_kl": kl(q_TV, p_TV),
                "jsd": 0.3 * kl(p_TV, m_TV) + 0.7 * kl(q_TV, m_TV),
            }[kind]
            total = total + 0.5 * episode.probability * value_T.mean()
        return total

    assert_gradient_of(world, method, mean)


def test_teacher_equal_to_the_student_gives_nothing() -> None:
    world = make_world(longest=3, turns=2, alike=True)
    assert float(expected_gradient(world, PRESETS["opd"]()).abs().max()) < 1e-15


def test_reward_does_not_matter() -> None:
    worlds = [make_world(longest=3, turns=2, reward=reward) for reward in (None, 5.0)]
    one, other = (expected_gradient(world, PRESETS["opd"]()) for world in worlds)
    assert torch.equal(one, other)


def test_moves_towards_the_teacher() -> None:
    """A small step against the gradient lowers the exact reverse KL."""
    world = make_world(longest=3, turns=2)
    gradient_PV = expected_gradient(world, PRESETS["opd"]())
    assert float((gradient_PV * exact_gradient(world, lambda theta_PV: reverse_kl(world, theta_PV))).sum()) > 0
    before = reverse_kl(world, world.student_PV)
    assert float(reverse_kl(world, world.student_PV - 0.1 * gradient_PV)) < float(before)
