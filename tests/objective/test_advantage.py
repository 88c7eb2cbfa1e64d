"""Group advantages against numpy, and how the reward term joins the teacher's signal."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sod.objective import PRESETS, TokenBatch, advantage, combine, group_advantage
from sod.objective.batch import supervised_batch
from sod.objective.needs import Need
from sod.objective.scores import TeacherScores

INF = math.inf


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-1.0, 0.0, 0.1, 0.7, 1.0, 5.5])), max_size=12),
    seed=st.integers(0, 99),
)
def test_group_advantage_against_numpy(rows: list[tuple[int, float]], seed: int) -> None:
    """Every group by itself in numpy (ddof=1); unsorted groups; a permutation of rows permutes the result."""
    rewards = np.array([r for _, r in rows], dtype=np.float32)
    groups = np.array([g for g, _ in rows], dtype=np.int64)
    expected = np.empty(len(rows))
    for g in set(groups.tolist()):
        mine = rewards[groups == g].astype(np.float64)
        if len(mine) == 1:
            expected[groups == g] = mine
        else:
            expected[groups == g] = (mine - mine.mean()) / (mine.std(ddof=1) + 1e-6)
    got = group_advantage(torch.from_numpy(rewards), torch.from_numpy(groups))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))
    moved = group_advantage(torch.from_numpy(rewards)[order], torch.from_numpy(groups)[order])
    np.testing.assert_allclose(moved.numpy(), got[order].numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -1e-3, 1e6])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_equal_rewards_are_exactly_zero(reward: float, size: int) -> None:
    """0.1 has no exact mean: rounding must not become a signal (epsilon would blow it up)."""
    rewards_B = torch.full((size,), reward, dtype=torch.float64)
    assert group_advantage(rewards_B, torch.zeros(size, dtype=torch.int64)).tolist() == [0.0] * size


def test_group_of_one_keeps_its_reward() -> None:
    got = group_advantage(torch.tensor([2.5, 1.0, 3.0, -1.0]), torch.tensor([7, 2, 2, -5]))
    assert got[0] == 2.5
    assert got[3] == -1.0
    assert got[1] == -got[2] != 0


def test_combine_reads_no_gap_where_the_weight_or_the_mask_is_zero() -> None:
    """-inf at a silenced turn and NaN at context leave no trace."""
    turn_BT = torch.tensor([[0, 1, 2, 0]])
    gap_BT = torch.tensor([[math.nan, -0.5, -INF, math.nan]])
    weight_BT = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    total_BT = combine(torch.tensor([2.0]), gap_BT, weight_BT, turn_BT, kappa=3.0, rho=0.5)
    assert total_BT.tolist() == [[0.0, 3.0 * -0.5 + 0.5 * 2.0, 1.0, 0.0]]


def test_combine_with_kappa_zero_ignores_an_infinite_gap() -> None:
    """Rule 5 of DESIGN.md: no `-inf * 0`."""
    total_BT = combine(torch.tensor([2.0]), torch.tensor([[-INF]]), torch.ones(1, 1), torch.ones(1, 1).long(), 0.0, 1.0)
    assert total_BT.tolist() == [[2.0]]


def scored_batch(turns: list[list[int]], seed: int = 0) -> TokenBatch:
    """Four ledgers in two groups with random student and teacher log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    batch = supervised_batch([(list(range(len(t))), t) for t in turns])
    shape = batch.token_BT.shape
    batch = batch.filled(group_B=torch.tensor([0, 0, 1, 1]), reward_B=torch.tensor([1.0, -1.0, 1.0, 1.0]))
    old_BT = -torch.rand(shape, generator=generator)
    return batch.scored(old_BT, TeacherScores(-torch.rand(shape, generator=generator)))


def columns(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Old and teacher's log-probabilities."""
    assert batch.scores is not None
    assert batch.scores.teacher is not None
    return batch.scores.old_BT, batch.scores.teacher.logp_BT


MANY = [[0, 1, 1, 0, 2], [0, 1, 2, 0, 3, 3], [0, 0, 1], [0, 1, 0, 2]]


def test_teacher_equal_to_student_gives_no_distillation_term() -> None:
    batch = scored_batch(MANY)
    old_BT, _ = columns(batch)
    batch = batch.scored(old_BT, TeacherScores(old_BT))
    assert advantage(PRESETS["opd"](), batch).advantage_BT.count_nonzero() == 0
    assert torch.equal(
        advantage(PRESETS["sod"](), batch).advantage_BT, advantage(PRESETS["grpo"](), batch).advantage_BT
    )


def test_equal_rewards_give_no_reward_term() -> None:
    batch = scored_batch(MANY).filled(reward_B=torch.full((4,), 0.1))
    assert advantage(PRESETS["grpo"](), batch).advantage_BT.count_nonzero() == 0


def test_sod_with_one_turn_is_opd_plus_grpo() -> None:
    batch = scored_batch([[0, 1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 1]])
    parts = [advantage(PRESETS[name](), batch).advantage_BT for name in ("opd", "grpo")]
    assert torch.allclose(advantage(PRESETS["sod"](), batch).advantage_BT, parts[0] + parts[1], atol=1e-6)
    assert parts[0].count_nonzero() == batch.action_tokens()


def test_sod_advantage_token_by_token() -> None:
    """`kappa w_k delta_t + rho A` by a loop over tokens from python floats; 0 at context; detached."""
    batch = scored_batch(MANY, seed=4)
    old_BT, teacher_BT = columns(batch)
    batch = batch.scored(old_BT.requires_grad_(), TeacherScores(teacher_BT))
    got_BT = advantage(PRESETS["sod"](kappa=0.5, rho=2.0, delta=0.1, epsilon=1e-3), batch).advantage_BT
    assert not got_BT.requires_grad
    reward_advantage = [math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0]
    for row, turns in enumerate(MANY):
        gap = (teacher_BT - old_BT)[row].tolist()
        mean = {k: np.mean([abs(g) for g, t in zip(gap, turns, strict=False) if t == k]) for k in set(turns) - {0}}
        for t, k in enumerate(turns):
            weight = 1.0 if k == 1 else min((mean[1] + 1e-3) / (mean[k] + 1e-3), 1.1) if k else 0.0
            expected = 0.5 * weight * gap[t] + 2.0 * reward_advantage[row] if k else 0.0
            assert float(got_BT[row, t]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert got_BT[row, len(turns) :].count_nonzero() == 0


def test_grpo_needs_no_teacher_and_opd_says_so() -> None:
    batch = scored_batch(MANY)
    batch = batch.scored(columns(batch)[0])
    assert advantage(PRESETS["grpo"](), batch).stats is None
    assert Need.REWARD not in PRESETS["opd"]().needs
    for name in ("opd", "sod"):
        with pytest.raises(ValueError, match=f"{name} needs the teacher"):
            advantage(PRESETS[name](), batch)
    with pytest.raises(ValueError, match="old log-prob"):
        advantage(PRESETS["grpo"](), replace(batch, scores=None))
