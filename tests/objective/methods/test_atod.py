"""ATOD: more signal where the student is unsure or far off, and a mix that moves from the teacher to the reward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objective.enumeration import Episode, assert_proven, distilled, expected_gradient, make_world
from sod.objective import PRESETS, TurnStats, weights

INF = math.inf


def scaled(values: list[float]) -> list[float]:
    if max(values) - min(values) < 1e-8:
        return [0.5] * len(values)
    return [(v - min(values)) / (max(values) - min(values)) for v in values]


def either(episode: Episode) -> list[float]:
    """`1 - (1 - d~)(1 - h~)`, by hand."""
    return [d + h - d * h for d, h in zip(scaled(episode.d), scaled(episode.h), strict=True)]


def stats_of(d: list[float], h: list[float], tokens: list[int] | None = None) -> TurnStats:
    tokens_BK = torch.tensor([tokens or [1] * len(d)])
    pair = [torch.tensor([values], dtype=torch.float64) for values in (d, h)]
    return TurnStats(pair[0], pair[1], tokens_BK, torch.zeros(1, len(d), dtype=torch.bool))


def test_reference_vector_of_the_paper() -> None:
    """To the two decimals that are given."""
    stats = stats_of([0.101, 0.228, 0.022, 0.019, 0.138], [0.037, 0.025, 0.010, 0.006, 0.008])
    assert weights.atod(stats)[0].tolist() == pytest.approx([1.00, 1.00, 0.14, 0.00, 0.60], abs=5e-3)


@pytest.mark.parametrize("step", [1, 41, 81, 200])
def test_expected_gradient_over_the_run(step: int) -> None:
    """kappa 1 -> 0.1 and rho 1 -> 2 in a straight line over 80 steps."""
    done = min((step - 1) / 80, 1.0)
    world = make_world(longest=3, turns=3)
    assert len({round(w, 3) for e in world.episodes for w in either(e)}) > 6
    assert_proven(world, PRESETS["atod"](), distilled(either, 1 - 0.9 * done, 1 + done), step=step)


def test_expected_gradient_of_pairs() -> None:
    world = make_world(longest=2, turns=2, seed=3)
    assert_proven(world, PRESETS["atod"](kappa=0.5, rho=1.0), distilled(either, 0.5, 1.0), size=2)


def test_limits() -> None:
    """One turn has no range: 0.75 of OPD. Teacher equal to the student: GRPO. Equal rewards: no reward term."""
    one_turn, alike, flat = make_world(3, 1), make_world(2, 2, alike=True), make_world(2, 2, reward=0.1)
    method = PRESETS["atod"]()
    for world, other in ((one_turn, PRESETS["opd_grpo"](kappa=0.75)), (alike, PRESETS["grpo"]())):
        torch.testing.assert_close(
            expected_gradient(world, method), expected_gradient(world, other), atol=1e-12, rtol=0
        )
    assert torch.equal(
        expected_gradient(flat, method, size=2), expected_gradient(flat, PRESETS["atod"](rho=0.0), size=2)
    )


def test_it_raises_the_weight_where_sod_lowers_it() -> None:
    stats = stats_of([0.218, 1.284], [0.3, 0.3])
    assert weights.atod(stats)[0].tolist() == [0.5, 1.0]
    assert weights.sod(stats)[0].tolist() == pytest.approx([1.0, 0.17], abs=5e-3)


@settings(max_examples=80, deadline=None)
@given(
    turns=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9), st.booleans()), min_size=1, max_size=8),
    factor=st.floats(0.1, 10),
    shift=st.floats(0, 5),
)
def test_only_the_place_within_the_range_matters(
    turns: list[tuple[float, float, bool]], factor: float, shift: float
) -> None:
    """In [0, 1]; 0 for turns without tokens; the same for statistics that are scaled and shifted."""
    d, h, here = ([t[i] for t in turns] for i in range(3))
    tokens = [int(x) for x in here]
    weight_K = weights.atod(stats_of(d, h, tokens))[0]
    assert bool(((weight_K >= 0) & (weight_K <= 1)).all())
    assert all(w == 0 for w, n in zip(weight_K.tolist(), tokens, strict=True) if not n)
    present = [i for i, n in enumerate(tokens) if n]
    if present:
        expected = [a + b - a * b for a, b in zip(*(scaled([x[i] for i in present]) for x in (d, h)), strict=True)]
        assert weight_K[present].tolist() == pytest.approx(expected, abs=1e-9)
    spans = [max(x[i] for i in present) - min(x[i] for i in present) if present else 0.0 for x in (d, h)]
    if all(span > 1e-3 for span in spans):
        moved = stats_of([x * factor + shift for x in d], [x * factor + shift for x in h], tokens)
        assert weights.atod(moved)[0].tolist() == pytest.approx(weight_K.tolist(), abs=1e-6)


def test_infinite_divergence_makes_no_nan() -> None:
    """An infinitely distant turn is the highest there is; all of them infinite are alike."""
    assert weights.atod(stats_of([0.5, INF, 0.2], [1.0, 1.0, 1.0]))[0].tolist() == [0.5, 1.0, 0.5]
    assert weights.atod(stats_of([INF, INF], [0.1, 0.2]))[0].tolist() == [0.5, 1.0]
