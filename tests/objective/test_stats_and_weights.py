"""Turn statistics and turn weights: DESIGN.md's reference vector, the product formula, and the odd turns."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sod.objective import TurnStats, per_token, turn_stats, weights
from sod.objective.scores import TeacherScores

NAN, INF = math.nan, math.inf


def stats_of(divergence: list[list[float]], tokens: list[list[int]] | None = None) -> TurnStats:
    turn_gap_BK = torch.tensor(divergence, dtype=torch.float64)
    tokens_BK = torch.ones(turn_gap_BK.shape, dtype=torch.int64) if tokens is None else torch.tensor(tokens)
    return TurnStats(turn_gap_BK, torch.zeros_like(turn_gap_BK), tokens_BK, torch.zeros_like(tokens_BK).bool())


def product_weights(divergence: list[float], present: list[bool], delta: float, epsilon: float) -> list[float]:
    """Eq. of the paper by an explicit loop over the turns that exist; only the weight is clipped."""
    out, running, before = [], 1.0, None
    for d, here in zip(divergence, present, strict=True):
        if not here:
            out.append(0.0)
            continue
        if before is None:
            out.append(1.0)
        else:
            running *= (before + epsilon) / (d + epsilon)
            out.append(min(running, 1.0 + delta))
        before = d
    return out


def test_reference_vector_of_the_paper() -> None:
    """d = 0.218, 1.284 gives w = 1, 0.17, from log-probabilities with gaps of both signs and junk at context."""
    turn_BT = torch.tensor([[0, 0, 1, 1, 1, 0, 2, 2, 0]])
    student_BT = torch.tensor([[NAN, INF, -1.0, -2.0, -0.5, NAN, -0.25, -3.0, 7.0]])
    gap = [0.0, 0.0, 0.118, -0.318, 0.218, 0.0, -2.0, 0.568, 0.0]
    stats = turn_stats(student_BT, TeacherScores(student_BT + torch.tensor([gap])), turn_BT)
    assert stats.turn_gap_BK[0].tolist() == pytest.approx([0.218, 1.284], rel=1e-6)
    assert stats.nll_BK[0].tolist() == pytest.approx([3.5 / 3, 1.625])
    assert stats.tokens_BK.tolist() == [[3, 2]]
    weight_BK = weights.sod(stats)
    assert weight_BK[0, 0] == 1.0
    assert float(weight_BK[0, 1]) == pytest.approx(0.17, abs=5e-4)
    assert per_token(weight_BK, turn_BT)[0, [0, 1, 5, 8]].tolist() == [0.0] * 4
    assert per_token(weight_BK, turn_BT)[0, 2:5].tolist() == [1.0] * 3


@settings(max_examples=80, deadline=None)
@given(
    turns=st.lists(st.tuples(st.floats(0.0, 50.0), st.booleans()), min_size=1, max_size=8),
    delta=st.sampled_from([0.0, 0.2, 3.0, INF]),
    epsilon=st.sampled_from([1e-6, 1e-2]),
)
def test_weights_equal_the_product_formula(turns: list[tuple[float, bool]], delta: float, epsilon: float) -> None:
    divergence = [d for d, _ in turns]
    present = [here for _, here in turns]
    stats = stats_of([divergence], [[int(here) for here in present]])
    expected = product_weights(divergence, present, delta, epsilon)
    assert weights.sod(stats, delta, epsilon)[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_the_running_product_is_not_clipped() -> None:
    """d = 1, 0.1, 1: clipping the running product at 1.2 would leave turn 3 with 0.12 instead of 1."""
    assert weights.sod(stats_of([[1.0, 0.1, 1.0]]))[0].tolist() == pytest.approx([1.0, 1.2, 1.0], rel=1e-5)


def test_no_clip_ablation() -> None:
    assert weights.sod(stats_of([[1.0, 0.01]]), delta=INF)[0, 1] == pytest.approx(100.0, rel=1e-3)


def test_infinite_divergence_makes_no_nan() -> None:
    """A teacher that gives -inf silences that turn; a turn after it is compared with turn 1 again."""
    assert weights.sod(stats_of([[0.5, INF, 0.5]]))[0].tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert weights.sod(stats_of([[INF, INF, 0.5]]))[0].tolist() == pytest.approx([1.0, 1.0, 1.2])


def columns(stats: TurnStats, change: Callable[[Tensor], Tensor]) -> TurnStats:
    return TurnStats(*(change(x) for x in (stats.turn_gap_BK, stats.nll_BK, stats.tokens_BK, stats.error_BK)))


@pytest.mark.parametrize("rule", [weights.sod, weights.atod, weights.error_decay, weights.error_mask])
def test_weights_of_a_row_do_not_depend_on_its_neighbours(rule: Callable[[TurnStats], Tensor]) -> None:
    """Float32 statistics: alone, padded with turns of longer neighbours, or reordered, bit for bit the same."""
    rows = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) + 0.01
    tokens_BK = torch.tensor([[1] * n + [0] * (6 - n) for n in (1, 2, 3, 5, 6)])
    rows = rows * tokens_BK
    error_BK = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    whole = TurnStats(rows, rows * rows, tokens_BK, error_BK)
    together = rule(whole)
    assert not bool((together == together[0, 0]).all())
    assert torch.equal(rule(columns(whole, lambda x_BK: x_BK.flip(0))).flip(0), together)
    for row, n in enumerate((1, 2, 3, 5, 6)):
        alone = rule(columns(whole, lambda x_BK, row=row, n=n: x_BK[row : row + 1, :n]))
        assert torch.equal(alone[0], together[row, :n])


def test_absent_turns_hold_zero_and_are_skipped() -> None:
    """Row 1 has no turn 2; row 2 has only turn 3."""
    turn_BT = torch.tensor([[1, 2, 3], [1, 3, 3], [0, 0, 3]])
    gap_BT = torch.tensor([[0.1, 0.2, 0.4], [0.1, 0.4, 0.6], [9.0, 9.0, 0.3]])
    zeros_BT = torch.zeros(3, 3)
    stats = turn_stats(zeros_BT, TeacherScores(gap_BT), turn_BT)
    assert stats.tokens_BK.tolist() == [[1, 1, 1], [1, 0, 2], [0, 0, 1]]
    assert stats.turn_gap_BK[1].tolist() == pytest.approx([0.1, 0.0, 0.5])
    weight_BK = weights.sod(stats)
    assert weight_BK[1].tolist() == pytest.approx([1.0, 0.0, 0.2], rel=1e-4)
    assert weight_BK[2].tolist() == [0.0, 0.0, 1.0]
    assert weights.uniform(stats).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1]]


def test_touching_turns_stay_apart() -> None:
    """Two turns without context between them are two turns."""
    stats = turn_stats(
        torch.zeros(1, 4), TeacherScores(torch.tensor([[-1.0, -3.0, 0.5, 0.5]])), torch.tensor([[1, 1, 2, 2]])
    )
    assert stats.turn_gap_BK[0].tolist() == [2.0, 0.5]


def test_statistics_are_detached() -> None:
    logp_BT = torch.zeros(1, 2, requires_grad=True)
    stats = turn_stats(logp_BT, TeacherScores(logp_BT - 1.0), torch.tensor([[1, 2]]))
    assert not stats.turn_gap_BK.requires_grad
    for rule in (weights.sod, weights.atod, weights.uniform, weights.error_decay):
        assert not rule(stats).requires_grad


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_bad_log_probability_is_named(who: str, bad: float) -> None:
    """Trajectory, turn and position are in the message."""
    columns = {"student": torch.zeros(2, 4), "teacher": torch.zeros(2, 4)}
    columns[who][1, 2] = bad
    turn_BT = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 2]])
    with pytest.raises(ValueError, match=f"{who}.*trajectory 1, turn 2, position 2"):
        turn_stats(columns["student"], TeacherScores(columns["teacher"]), turn_BT)


def test_teacher_of_minus_infinity_is_an_infinite_divergence() -> None:
    teacher_BT = torch.tensor([[0.0, -1.0, -INF, -1.0]])
    stats = turn_stats(torch.zeros(1, 4), TeacherScores(teacher_BT), torch.tensor([[0, 1, 2, 2]]))
    assert stats.turn_gap_BK.tolist() == [[1.0, INF]]


def test_batch_without_turns_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="no turn"):
        turn_stats(torch.zeros(1, 3), TeacherScores(torch.zeros(1, 3)), torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no turn"):
        turn_stats(torch.zeros(0, 0), TeacherScores(torch.zeros(0, 0)), torch.zeros(0, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="shapes differ"):
        turn_stats(torch.zeros(1, 3), TeacherScores(torch.zeros(1, 4)), torch.ones(1, 3, dtype=torch.int64))


def test_errors_and_confidence_of_the_turns() -> None:
    """Error columns beyond the turns are cut, missing ones are no errors; confidence is a mean over action tokens."""
    turn_BT = torch.tensor([[0, 1, 1, 2, 2, 2], [0, 1, 0, 0, 3, 0]])
    zeros_BT, sure_BT = (
        torch.zeros(2, 6),
        torch.tensor([[NAN, 0.5, 1.0, 0.1, 0.2, 0.6], [NAN, 0.7, NAN, NAN, 0.9, NAN]]),
    )
    for error_BK, expected in (
        (torch.tensor([[True], [False]]), [[True, False, False], [False] * 3]),
        (torch.tensor([[False, True, False, True]] * 2), [[False, True, False]] * 2),
        (None, [[False] * 3] * 2),
    ):
        stats = turn_stats(zeros_BT, TeacherScores(zeros_BT, sure_BT), turn_BT, error_BK)
        assert stats.error_BK.tolist() == expected
        assert stats.confidence_BK is not None
        assert stats.confidence_BK.flatten().tolist() == pytest.approx([0.75, 0.3, 0.0, 0.7, 0.0, 0.9])
    assert turn_stats(zeros_BT, TeacherScores(zeros_BT), turn_BT).confidence_BK is None


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.tuples(st.integers(0, 4), st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=20).filter(
        lambda tokens: any(k for k, _, _ in tokens)
    )
)
def test_statistics_by_a_loop(tokens: list[tuple[int, float, float]]) -> None:
    """Turn ids in any order, absent turns, any context between."""
    turn_BT = torch.tensor([[k for k, _, _ in tokens]])
    student_BT, teacher_BT = (torch.tensor([[t[i] for t in tokens]], dtype=torch.float64) for i in (1, 2))
    stats = turn_stats(student_BT, TeacherScores(teacher_BT), turn_BT)
    for k in range(1, max(t[0] for t in tokens) + 1):
        mine = [(s, t) for turn, s, t in tokens if turn == k]
        count = max(1, len(mine))
        assert int(stats.tokens_BK[0, k - 1]) == len(mine)
        assert float(stats.turn_gap_BK[0, k - 1]) == pytest.approx(sum(abs(t - s) for s, t in mine) / count)
        assert float(stats.nll_BK[0, k - 1]) == pytest.approx(-sum(s for s, _ in mine) / count)
    weight_BT = per_token(weights.uniform(stats), turn_BT)
    assert torch.equal(weight_BT != 0, turn_BT > 0)
