"""GRPO: rewards against a fixed baseline, and against the other sample of a group of two."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from objective.enumeration import (
    Sampled,
    World,
    assert_gradient_of,
    assert_proven,
    distilled,
    expected_gradient,
    make_world,
    ones,
)
from sod.objective import PRESETS, make


def probability(theta_PV: Tensor, world: World, tokens: Sampled) -> Tensor:
    rows = [world.index[tokens[:t]] for t in range(len(tokens))]
    return theta_PV.log_softmax(-1)[rows, list(tokens)].sum().exp()


@pytest.mark.parametrize("loss_aggregation", ["token-mean", "seq-mean-token-mean"])
def test_group_of_one_has_the_policy_gradient_of_the_reward(loss_aggregation: str) -> None:
    """Alone in its group an episode keeps its reward: the gradient of `-sum_y p_theta(y) r(y) / length(y)`.

    For a batch of one trajectory the token mean and the sequence mean are the same.
    """
    world = make_world(longest=4, turns=3)

    def loss(theta_PV: Tensor) -> Tensor:
        return -sum(
            (probability(theta_PV, world, e.tokens) * e.reward / len(e.tokens) for e in world.episodes),
            torch.zeros((), dtype=torch.float64),
        )

    assert_gradient_of(world, make("grpo", {}, loss_aggregation=loss_aggregation), loss)


def test_group_of_two_has_the_gradient_of_the_chance_to_be_the_better_one() -> None:
    """All ordered pairs. `(r - mean) / std` of two unequal rewards is `+-1 / sqrt(2)`, whatever they are.

    Each sample's own probability moves, that of the other one is its baseline and stays.
    """
    world = make_world(longest=3, turns=2)

    def loss(theta_PV: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        moving = {e.tokens: probability(theta_PV, world, e.tokens) for e in world.episodes}
        for one, two in itertools.product(world.episodes, repeat=2):
            better = (one.reward > two.reward) - (one.reward < two.reward)
            gap = abs(one.reward - two.reward)
            size = gap / 2 / (gap / 2**0.5 + 1e-6)
            each = moving[one.tokens] * two.probability - one.probability * moving[two.tokens]
            total = total - better * size * each / (len(one.tokens) + len(two.tokens))
        return total

    assert_gradient_of(world, PRESETS["grpo"](), loss, size=2)


@pytest.mark.parametrize(
    ("loss_aggregation", "turns"), [("token-mean", 1), ("seq-mean-token-mean", 1), ("turn-mean", 2)]
)
def test_expected_gradient_of_pairs_under_each_loss_aggregation(loss_aggregation: str, turns: int) -> None:
    """With one turn the episodes have one token or two, with two turns they have one turn or two."""
    world = make_world(longest=2, turns=turns, seed=3)
    method = make("grpo", {"rho": 1.5}, loss_aggregation=loss_aggregation)
    assert_proven(world, method, distilled(ones, kappa=0.0, rho=1.5), size=2)


def test_equal_rewards_give_nothing() -> None:
    world = make_world(longest=2, turns=2, reward=0.1)
    assert expected_gradient(world, PRESETS["grpo"](), size=2).count_nonzero() == 0


def test_the_teacher_does_not_matter() -> None:
    one, other = (expected_gradient(make_world(2, 2, alike=alike), PRESETS["grpo"](), size=2) for alike in (0, 1))
    assert torch.equal(one, other)
    assert one.count_nonzero() > 0
