"""Decay and mask after the first tool error: what comes before it, and the failing turn itself, keep their weight."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objective.enumeration import Episode, assert_proven, distilled, expected_gradient, make_world
from sod.objective import PRESETS, TurnStats, weights


def after_first_error(episode: Episode, decay: float) -> list[float]:
    """A loop over the turns; `decay` 0 is the mask."""
    out, weight = [], 1.0
    for k in episode.turns:
        out.append(weight)
        if weight < 1.0 or episode.errors[k - 1]:
            weight = weight * decay
    return out


def stats_of(errors: list[bool], tokens: list[int] | None = None) -> TurnStats:
    ones_BK = torch.ones(1, len(errors))
    tokens_BK = torch.tensor([tokens or [1] * len(errors)])
    return TurnStats(ones_BK, ones_BK, tokens_BK, torch.tensor([errors]))


@pytest.mark.parametrize("decay", [0.9, 0.4])
def test_expected_gradient_of_the_decay(decay: float) -> None:
    """Errors are the sampled tokens' doing, so the weights differ between what can be sampled."""
    world = make_world()
    assert any(after_first_error(e, 0.5)[-1] == 0.25 for e in world.episodes)
    method = PRESETS["error_decay"](kappa=0.8, rho=0.5, decay=decay)
    assert_proven(world, method, distilled(partial(after_first_error, decay=decay), 0.8, 0.5))


def test_expected_gradient_of_the_mask() -> None:
    world = make_world()
    assert_proven(
        world, PRESETS["error_mask"](kappa=0.8, rho=0.5), distilled(partial(after_first_error, decay=0.0), 0.8, 0.5)
    )


@pytest.mark.parametrize("name", ["error_decay", "error_mask"])
def test_expected_gradient_of_pairs(name: str) -> None:
    world = make_world(longest=2, turns=2, seed=3)
    decay = {"error_decay": 0.9, "error_mask": 0.0}[name]
    assert_proven(world, PRESETS[name](), distilled(partial(after_first_error, decay=decay), 1.0, 1.0), size=2)


@pytest.mark.parametrize("name", ["error_decay", "error_mask"])
def test_limits(name: str) -> None:
    """One turn: OPD and GRPO. Teacher equal to the student: GRPO. Equal rewards: no reward term."""
    one_turn, alike, flat = make_world(3, 1), make_world(2, 2, alike=True), make_world(2, 2, reward=0.1)
    method = PRESETS[name]()
    for world, other in ((one_turn, PRESETS["opd_grpo"]()), (alike, PRESETS["grpo"]())):
        torch.testing.assert_close(
            expected_gradient(world, method), expected_gradient(world, other), atol=1e-15, rtol=0
        )
    assert torch.equal(expected_gradient(flat, method, size=2), expected_gradient(flat, PRESETS[name](rho=0.0), size=2))


def test_only_what_follows_the_first_error() -> None:
    """Later errors change nothing; without one all turns count in full."""
    errors = [False, True, False, True, False]
    assert weights.error_decay(stats_of(errors))[0].tolist() == pytest.approx([1.0, 1.0, 0.9, 0.81, 0.729])
    assert weights.error_mask(stats_of(errors))[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    for rule in (weights.error_decay, weights.error_mask):
        assert rule(stats_of([False] * 3))[0].tolist() == [1.0] * 3
        assert rule(stats_of([False, False, True]))[0].tolist() == [1.0] * 3


def test_turns_without_tokens_get_nothing() -> None:
    for rule in (weights.error_decay, weights.error_mask):
        assert rule(stats_of([False, True, False], [2, 0, 0]))[0].tolist() == [1.0, 0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(errors=st.lists(st.booleans(), min_size=1, max_size=10), decay=st.floats(0.0, 1.0))
def test_decay_never_rises_and_ends_at_the_mask(errors: list[bool], decay: float) -> None:
    weight_K = weights.error_decay(stats_of(errors), decay)[0]
    assert bool((weight_K.diff() <= 0).all())
    assert bool((weight_K >= weights.error_mask(stats_of(errors))[0]).all())
    assert torch.equal(weights.error_decay(stats_of(errors), 0.0), weights.error_mask(stats_of(errors)))
    assert torch.equal(weights.error_decay(stats_of(errors), 1.0), torch.ones(1, len(errors)))
