"""Gated OPD: `A + beta delta_t`, beta falling with the group advantage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objective.enumeration import (
    Episode,
    Signal,
    assert_proven,
    batch_of,
    expected_gradient,
    group_advantages,
    make_world,
)
from sod.objective import PRESETS, advantage
from sod.objective.needs import Need
from sod.objective.presets import knobs

WORLD = make_world(longest=2, turns=2, seed=9)


def gated(low: float, high: float, gamma: float, rho: float = 1.0) -> Signal:
    def signal(episodes: Sequence[Episode]) -> list[list[float]]:
        table = []
        for episode, a in zip(episodes, group_advantages([e.reward for e in episodes]), strict=True):
            beta = low + (high - low) / (1.0 + math.exp(gamma * a))
            table.append([beta * gap + rho * a for gap in episode.gap])
        return table

    return signal


def test_expected_gradient_of_pairs() -> None:
    method = PRESETS["gated_opd"](beta_min=0.1, beta_max=0.9, gamma=3.0, rho=0.5)
    assert_proven(WORLD, method, gated(0.1, 0.9, 3.0, 0.5), size=2)


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(0.0, 1.0),
    more=st.floats(0.0, 2.0),
    gamma=st.floats(0.0, 20.0),
    rewards=st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=4),
)
def test_formula_bounds_and_order(low: float, more: float, gamma: float, rewards: list[float]) -> None:
    """Within its bounds, and never more teacher for the episode that did better."""
    episodes = WORLD.episodes[: len(rewards)]
    batch = batch_of(WORLD, episodes).filled(reward_B=torch.tensor(rewards))
    method = PRESETS["gated_opd"](beta_min=low, beta_max=low + more, gamma=gamma)
    signal = advantage(method, batch)
    assert signal.weight_BK is not None
    assert signal.reward_advantage_B is not None
    beta_B = signal.weight_BK[:, 0]
    for beta, a in zip(beta_B.tolist(), signal.reward_advantage_B.tolist(), strict=True):
        assert beta == pytest.approx(low + more / (1.0 + math.exp(gamma * a)), rel=1e-5, abs=1e-6)
        assert low - 1e-6 <= beta <= low + more + 1e-6
    order_B = signal.reward_advantage_B.argsort()
    assert bool((beta_B[order_B].diff() <= 1e-6).all())


def test_no_slope_is_half_way_between_the_bounds() -> None:
    """gamma = 0: as `opd_grpo` with the mean of the two as its coefficient; the gate needs rewards all the same."""
    method = PRESETS["gated_opd"](beta_min=0.2, beta_max=0.6, gamma=0.0)
    ours = expected_gradient(WORLD, method, size=2)
    torch.testing.assert_close(
        ours, expected_gradient(WORLD, PRESETS["opd_grpo"](kappa=0.4), size=2), atol=1e-7, rtol=1e-6
    )
    assert Need.REWARD in PRESETS["gated_opd"](rho=0.0).needs


def test_the_authors_settings_are_the_defaults() -> None:
    """As in their code: beta from 0 to 0.3, slope 1."""
    defaults = {knob: declared.default for knob, declared in knobs("gated_opd").items()}
    assert defaults == {"rho": 1.0, "beta_min": 0.0, "beta_max": 0.3, "gamma": 1.0}


def test_limits() -> None:
    """A teacher equal to the student leaves GRPO; equal rewards leave OPD at the gate's middle, 0.15 by default."""
    alike, flat = make_world(2, 2, alike=True), make_world(2, 2, reward=0.1)
    method = PRESETS["gated_opd"]()
    grpo, opd = PRESETS["grpo"](), PRESETS["opd"](kappa=0.15)
    torch.testing.assert_close(
        expected_gradient(alike, method, size=2), expected_gradient(alike, grpo, size=2), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(
        expected_gradient(flat, method, size=2), expected_gradient(flat, opd, size=2), atol=1e-8, rtol=1e-6
    )
