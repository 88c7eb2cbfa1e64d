"""The token batch: packing, splitting, and that no split, order or padding changes a gradient."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sod.models.score import action_logps, score
from sod.objective import PRESETS, TokenBatch, advantage, pack, supervised_batch, surrogate
from sod.records import Fault, FaultKind, Group, StopReason, Trajectory, Turn

Make = Callable[..., Any]


def trajectory(task: str, sample: int, turn_ids: tuple[int, ...], reward: float = 0.0) -> Trajectory:
    return Trajectory(
        task_id=task,
        sample=sample,
        prompt_tokens=1,
        token_ids=tuple(10 * sample + t for t in range(len(turn_ids))),
        turn_ids=turn_ids,
        sampled_logps=tuple(-0.5 if k else 0.0 for k in turn_ids),
        turns=(),
        stop=StopReason.ANSWER,
        reward=reward,
    )


def test_pack_leaves_faulted_trajectories_out() -> None:
    faulted = replace(trajectory("a", 1, (0, 1, 1, 1, 1)), stop=StopReason.FAULT, fault=Fault(FaultKind.SANDBOX, "x"))
    groups = [
        Group("a", (trajectory("a", 0, (0, 1, 1), reward=1.0),), (faulted,)),
        Group("b", (), (faulted,)),
        Group("c", (trajectory("c", 0, (0, 1)), trajectory("c", 2, (0, 1, 0, 2), reward=-1.0))),
    ]
    batch = pack(groups)
    assert batch.token_BT.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0], [20, 21, 22, 23]]
    assert batch.turn_BT.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 2]]
    assert batch.length_B.tolist() == [3, 2, 4]
    assert batch.group_B[1] == batch.group_B[2] != batch.group_B[0]
    assert batch.reward_B.tolist() == [1.0, 0.0, -1.0]
    assert batch.sampled_BT.tolist() == [[0, -0.5, -0.5, 0], [0, -0.5, 0, 0], [0, -0.5, 0, -0.5]]
    assert batch.action_tokens() == 5


def cut_off(task: str, sample: int, turn_ids: tuple[int, ...]) -> Trajectory:
    """An episode whose last turn's call faulted, with the turns that `turn_ids` say."""
    whole = trajectory(task, sample, turn_ids, reward=9.0)
    spans = {k: [t for t, turn in enumerate(turn_ids) if turn == k] for k in sorted(set(turn_ids) - {0})}
    turns = tuple(Turn(k, span[0], span[-1] + 1, "") for k, span in spans.items())
    return replace(whole, turns=turns, stop=StopReason.FAULT, fault=Fault(FaultKind.SANDBOX, "x"))


@pytest.mark.parametrize(
    ("turn_ids", "kept"),
    [((0, 1, 1, 0, 2, 2), (0, 1, 1)), ((0, 1, 2, 2), (0, 1)), ((0, 1, 0, 2, 0, 0, 3), (0, 1, 0, 2)), ((0, 1, 1), (0,))],
)
def test_what_a_fault_leaves_usable(turn_ids: tuple[int, ...], kept: tuple[int, ...]) -> None:
    """Whole turns before the one whose call faulted, without the tool output that only that one read."""
    left = cut_off("a", 1, turn_ids).before_fault()
    assert left.turn_ids == kept
    assert left.token_ids == tuple(range(10, 10 + len(kept)))
    assert [turn.index for turn in left.turns] == sorted(set(kept) - {0})


def test_a_verifiers_fault_leaves_the_whole_episode_usable() -> None:
    judged = replace(trajectory("a", 0, (0, 1, 0, 2)), fault=Fault(FaultKind.VERIFIER, "x"))
    assert judged.before_fault() == judged


def test_turns_before_a_fault_are_distilled_without_a_reward() -> None:
    """They follow all others, keep their group, and neither baseline nor reward advantage knows of them."""
    clean = [trajectory("a", n, (0, 1, 1), reward=reward) for n, reward in enumerate((1.0, -1.0))]
    groups = [
        Group("a", tuple(clean), (cut_off("a", 2, (0, 1, 0, 2)), cut_off("a", 3, (0, 1, 1)))),
        Group("b", (trajectory("b", 0, (0, 1)), trajectory("b", 1, (0, 1)))),
    ]
    plain, batch = pack(groups), pack(groups, distill_before_fault=True)
    assert batch.turn_BT.tolist() == [[0, 1, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert batch.group_B.tolist() == [0, 0, 1, 1, 0]
    assert batch.rewarded_B is not None
    assert batch.rewarded_B.tolist() == [True] * 4 + [False]
    filled = [b.filled(old_BT=b.sampled_BT, teacher_BT=b.sampled_BT * 2) for b in (plain, batch)]
    without, with_ = (advantage(PRESETS["sod"](), b) for b in filled)
    assert with_.reward_advantage_B is not None
    assert without.reward_advantage_B is not None
    assert with_.reward_advantage_B.tolist() == [*without.reward_advantage_B.tolist(), 0.0]
    assert torch.equal(with_.advantage_BT[:4], without.advantage_BT)
    assert with_.advantage_BT[4].tolist() == [0.0, -0.5, 0.0]  # the teacher gap alone


def test_pack_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="no usable trajectory"):
        pack([Group("a", (), (trajectory("a", 0, (0, 1)),))])


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), budget=st.integers(1, 120))
def test_split_covers_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batch = supervised_batch([([n] * n, [0] * (n - 1) + [1]) for n in lengths])
    index = batch.micro_indices(budget)
    assert sorted(row for rows in index for row in rows) == list(range(len(lengths)))
    for rows, micro in zip(index, batch.split(budget), strict=True):
        assert micro.token_BT.shape == (len(rows), max(lengths[row] for row in rows))
        assert micro.token_BT.numel() <= budget or len(rows) == 1
        assert micro.length_B.tolist() == [lengths[row] for row in rows]


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.integers(0, 6), min_size=1, max_size=15), size=st.integers(1, 8))
def test_minibatches_keep_groups_whole(groups: list[int], size: int) -> None:
    """Every row appears once, no group is cut, and at most `size` groups share a mini-batch."""
    batch = supervised_batch([([row], [1]) for row in range(len(groups))]).filled(group_B=torch.tensor(groups))
    minis = batch.minibatches(size)
    assert sorted(row for mini in minis for row in mini.token_BT[:, 0].tolist()) == list(range(len(groups)))
    homes = [set(mini.group_B.tolist()) for mini in minis]
    assert all(len(home) <= size for home in homes)
    assert sum(len(home) for home in homes) == len(set(groups))


def gradient(model: Any, method: Any, batch: TokenBatch, parts: list[list[int]], width: int = 0) -> list[Tensor]:
    """Summed gradient of the parts with the denominator of the whole batch."""
    model.zero_grad()
    total = batch.action_tokens()
    for rows in parts:
        part = batch.rows(rows)
        if width:
            part = padded(part, width)
        surrogate(method, action_logps(model, part), part, total).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def padded(batch: TokenBatch, width: int) -> TokenBatch:
    """Longer right padding, filled with junk that must not be read."""
    extra = width - batch.token_BT.shape[1]
    columns = {}
    for name in ("token_BT", "turn_BT", "sampled_BT", "old_BT", "teacher_BT", "advantage_BT"):
        column = getattr(batch, name)
        junk = {"token_BT": 7, "turn_BT": 0}.get(name, math.nan)
        columns[name] = torch.nn.functional.pad(column, (0, extra), value=junk)
    return batch.filled(**columns)


@pytest.fixture
def prepared(random_model: Make, random_batch: Make) -> tuple[Any, TokenBatch]:
    """A tiny student off its old policy, and a batch with SOD's advantage."""
    student = random_model(seed=1, sharpness=4.0)
    batch = random_batch(rows=7, seed=2)
    old_BT = score(random_model(seed=1, sharpness=3.9), batch, 1000)
    batch = batch.filled(old_BT=old_BT, teacher_BT=score(random_model(seed=2, sharpness=4.0), batch, 1000))
    return student, batch.filled(advantage_BT=advantage(PRESETS["sod"](), batch).advantage_BT)


@pytest.mark.parametrize("seed", range(4))
def test_micro_batches_do_not_change_the_gradient(prepared: tuple[Any, TokenBatch], seed: int) -> None:
    """Any partition of the rows, in any order, sums to the gradient of the whole batch."""
    student, batch = prepared
    method = PRESETS["sod"]()
    whole = gradient(student, method, batch, [list(range(len(batch)))])
    order = list(range(len(batch)))
    rng = random.Random(seed)
    rng.shuffle(order)
    cuts = sorted(rng.sample(range(1, len(order)), k=rng.randint(1, 4)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    for ours, exact in zip(gradient(student, method, batch, parts), whole, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-4)
    assert max(float(g.abs().max()) for g in whole) > 1e-3


def test_the_trainers_own_split_does_not_change_the_gradient(prepared: tuple[Any, TokenBatch]) -> None:
    student, batch = prepared
    method = PRESETS["sod"]()
    whole = gradient(student, method, batch, [list(range(len(batch)))])
    parts = batch.micro_indices(40)
    assert len(parts) > 2
    for ours, exact in zip(gradient(student, method, batch, parts), whole, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-4)


def test_padding_does_not_change_the_gradient(prepared: tuple[Any, TokenBatch]) -> None:
    """Twenty more columns of junk tokens and NaN scores."""
    student, batch = prepared
    method = PRESETS["sod"]()
    rows = list(range(len(batch)))
    whole = gradient(student, method, batch, [rows])
    wide = gradient(student, method, batch, [rows], width=batch.token_BT.shape[1] + 20)
    for ours, exact in zip(wide, whole, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-4)


def test_advantage_does_not_depend_on_order_or_padding(prepared: tuple[Any, TokenBatch]) -> None:
    """The signal of a row is the same in a shuffled and padded batch."""
    _, batch = prepared
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    moved = padded(batch.rows(order), batch.token_BT.shape[1] + 5)
    got_BT = advantage(PRESETS["sod"](), moved).advantage_BT
    width = batch.rows(order).token_BT.shape[1]
    torch.testing.assert_close(got_BT[:, :width], batch.rows(order).advantage_BT, atol=1e-6, rtol=1e-6)
    assert got_BT[:, width:].count_nonzero() == 0
