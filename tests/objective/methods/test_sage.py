"""SAGE-OPD: intervene where the call failed or the student is far off, as strongly as the teacher is sure."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objective.enumeration import Episode, Signal, assert_proven, batch_of, expected_gradient, make_world
from sod.objective import PRESETS, TurnStats, advantage, weights
from sod.objective.scores import TeacherScores


def intervening(threshold: float, kappa: float) -> Signal:
    """Labels, confidence and the scale over the batch, by loops."""

    def raw(episode: Episode) -> list[float]:
        parts = zip(episode.errors, episode.d, episode.sure, strict=True)
        return [(1.0 if error else 0.5 if d > threshold else 0.0) * sure for error, d, sure in parts]

    def signal(episodes: Sequence[Episode]) -> list[list[float]]:
        tokens = sum(len(e.tokens) for e in episodes)
        weight = sum(raw(e)[k - 1] for e in episodes for k in e.turn_ids)
        scale = tokens / weight if weight else 0.0
        return [
            [kappa * scale * raw(e)[k - 1] * gap for gap, k in zip(e.gap, e.turn_ids, strict=True)] for e in episodes
        ]

    return signal


def stats_of(
    d: list[list[float]], errors: list[list[bool]], sure: list[list[float]], tokens: list[list[int]]
) -> TurnStats:
    d_BK = torch.tensor(d, dtype=torch.float64)
    return TurnStats(d_BK, d_BK, torch.tensor(tokens), torch.tensor(errors), torch.tensor(sure, dtype=torch.float64))


def test_expected_gradient() -> None:
    """Three labels; the scale is that of each batch (of one)."""
    world = make_world()
    assert 0.1 < sum(d > 0.7 for e in world.episodes for d in e.d) / sum(len(e.turns) for e in world.episodes) < 0.9
    assert_proven(world, PRESETS["sage"](kappa=0.5, threshold=0.7), intervening(0.7, 0.5))


def test_expected_gradient_of_pairs() -> None:
    """One trajectory's scale depends on the other's labels."""
    world = make_world(longest=2, turns=2, seed=3)
    assert_proven(world, PRESETS["sage"](threshold=0.7), intervening(0.7, 1.0), size=2)


def test_by_hand() -> None:
    """Error 1, far 0.5, near 0; times 0.8, 0.4, 0.9, 0.5; scaled so that weight times tokens adds up to 2+1+3+4."""
    stats = stats_of(
        [[0.05, 0.3], [0.05, 0.2]],
        [[True, False], [False, True]],
        [[0.8, 0.4], [0.9, 0.5]],
        [[2, 1], [3, 4]],
    )
    scale = 10 / (2 * 0.8 + 1 * 0.2 + 0 + 4 * 0.5)
    got = weights.sage(stats).flatten().tolist()
    assert got == pytest.approx([0.8 * scale, 0.2 * scale, 0.0, 0.5 * scale])


def test_the_threshold_is_exclusive() -> None:
    stats = stats_of([[0.1, 0.11]], [[False, False]], [[1.0, 1.0]], [[1, 1]])
    assert weights.sage(stats, threshold=0.1)[0].tolist() == [0.0, 2.0]


def test_nothing_to_intervene_is_nothing_at_all() -> None:
    """Also the limit of a teacher equal to the student without errors, and no NaN from 0 / 0."""
    stats = stats_of([[0.05, 0.0]], [[False, False]], [[0.8, 0.4]], [[2, 1]])
    assert weights.sage(stats)[0].tolist() == [0.0, 0.0]
    world = make_world(longest=2, turns=2, alike=True)
    assert float(expected_gradient(world, PRESETS["sage"]()).abs().max()) < 1e-15


def test_absent_turns_are_not_counted() -> None:
    stats = stats_of([[0.5, 0.0]], [[False, True]], [[0.25, 0.0]], [[3, 0]])
    assert weights.sage(stats)[0].tolist() == pytest.approx([1.0, 0.0])


def test_no_confidence_is_refused() -> None:
    world = make_world(longest=2, turns=2)
    batch = batch_of(world, world.episodes)
    assert batch.scores is not None
    assert batch.scores.teacher is not None
    batch = batch.scored(batch.scores.old_BT, TeacherScores(batch.scores.teacher.logp_BT))
    with pytest.raises(ValueError, match="SAGE needs the teacher's top-1 probabilities"):
        advantage(PRESETS["sage"](), batch)
    assert (PRESETS["sage"]().level, PRESETS["sage"]().scope) == ("top1", "batch")


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.01, 1), st.integers(0, 9)), min_size=1, max_size=8
    )
)
def test_total_weight_is_the_number_of_tokens(turns: list[tuple[float, bool, float, int]]) -> None:
    """Or nothing, where no turn with tokens is intervened in."""
    d, errors, sure, tokens = ([[t[i] for t in turns]] for i in range(4))
    weight_BK = weights.sage(stats_of(d, errors, sure, tokens))
    called = any(n and (error or gap > 0.1) for gap, error, _, n in turns)
    total = float((weight_BK * torch.tensor(tokens)).sum())
    assert total == pytest.approx(sum(tokens[0]) if called else 0.0, rel=1e-9)
    assert bool((weight_BK >= 0).all())
