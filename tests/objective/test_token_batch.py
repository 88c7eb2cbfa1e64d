"""The token batch: packing, splitting, and that no split, order or padding changes a gradient."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sod.models.dense import dense_terms
from sod.models.score import action_logps, score
from sod.objective import (
    PRESETS,
    Divergence,
    Method,
    TeacherScores,
    TokenBatch,
    advantage,
    aligned,
    distillation_loss,
    divergence,
    loss_weights,
    make,
    pack,
    supervised_batch,
    surrogate,
    with_prompts,
)
from sod.records import Fault, FaultKind, Group, StopReason, ToolResult, Trajectory, Turn
from support import with_token_columns

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
    assert batch.rewarded_B.tolist() == [True] * 4 + [False]
    filled = [b.scored(b.sampled_BT, TeacherScores(b.sampled_BT * 2)) for b in (plain, batch)]
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


def shared(batch: TokenBatch, method: Method) -> TokenBatch:
    """With what the trainer sets for a whole mini-batch before it is split."""
    signal = advantage(method, batch)
    loss_weight_BT = loss_weights(batch.turn_BT, method.loss_aggregation)
    return batch.aimed(signal.advantage_BT, signal.distil_BT).filled(loss_weight_BT=loss_weight_BT)


def gradient(models: tuple[Any, Any], method: Method, batch: TokenBatch, parts: list[list[int]]) -> list[Tensor]:
    """Summed gradient of the parts' losses."""
    student, teacher = models
    student.zero_grad()
    for rows in parts:
        part = batch.rows(rows)
        if method.divergence is None:
            loss = surrogate(method, action_logps(student, part), part).loss
        else:
            measure = partial(divergence, spec=method.divergence)
            logp_BT, divergence_BT = dense_terms(student, teacher, part, part, measure)
            loss = surrogate(method, logp_BT, part).loss + distillation_loss(divergence_BT, part)
        loss.backward()
    return [p.grad.clone() for p in student.parameters()]


def padded(batch: TokenBatch, width: int) -> TokenBatch:
    """Longer right padding, filled with junk that must not be read."""
    extra = width - batch.token_BT.shape[1]

    def wider(name: str, column_BT: Tensor) -> Tensor:
        junk = {"token_BT": 7, "turn_BT": 0}.get(name, math.nan)
        return torch.nn.functional.pad(column_BT, (0, extra), value=junk)

    wide = with_token_columns(batch, wider)
    return wide.filled(length_B=batch.length_B.clamp(min=width))  # so that `rows` keeps the padding


def assert_same(gradients: list[Tensor], exact: list[Tensor]) -> None:
    for ours, theirs in zip(gradients, exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert max(float(g.abs().max()) for g in exact) > 1e-3


METHODS = {
    "token": make("sod", {}),
    "sequence": make("sod", {}, loss_aggregation="seq-mean-token-mean"),
    "turn": make("sod", {}, loss_aggregation="turn-mean"),
    "dense": make("sod", {}, divergence=Divergence("jsd")),
    "dense-turn": make("sod", {}, divergence=Divergence("forward_kl", top_k=5), loss_aggregation="turn-mean"),
}
EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture
def prepared(random_model: Make, random_batch: Make) -> tuple[tuple[Any, Any], TokenBatch]:
    """A tiny student off its old policy with its teacher, and a scored batch."""
    student, teacher = random_model(seed=1, sharpness=4.0), random_model(seed=2, sharpness=4.0)
    batch = random_batch(rows=7, seed=2)
    old_BT = score(random_model(seed=1, sharpness=3.9), batch, 1000)
    return (student, teacher), batch.scored(old_BT, TeacherScores(score(teacher, batch, 1000)))


@EACH
@pytest.mark.parametrize("seed", range(2))
def test_micro_batches_do_not_change_the_gradient(prepared: Any, method: Method, seed: int) -> None:
    """Any partition of the rows, in any order, sums to the gradient of the whole batch; so does the trainer's own."""
    models, batch = prepared
    batch = shared(batch, method)
    order = list(range(len(batch)))
    whole = gradient(models, method, batch, [order.copy()])
    rng = random.Random(seed)
    rng.shuffle(order)
    cuts = sorted(rng.sample(range(1, len(order)), k=rng.randint(1, 4)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    assert_same(gradient(models, method, batch, parts), whole)
    trainers = batch.micro_indices(40)
    assert len(trainers) > 2
    assert_same(gradient(models, method, batch, trainers), whole)


@EACH
def test_padding_does_not_change_the_gradient(prepared: Any, method: Method) -> None:
    """Twenty more columns of junk tokens and NaN scores, from before the advantage on."""
    models, batch = prepared
    rows = list(range(len(batch)))
    whole = gradient(models, method, shared(batch, method), [rows])
    wide = shared(padded(batch, batch.token_BT.shape[1] + 20), method)
    assert wide.loss_weight_BT is not None
    assert wide.loss_weight_BT[:, -20:].count_nonzero() == 0
    assert_same(gradient(models, method, wide, [rows]), whole)


class TestPrivilegedView:
    """The same trajectories after other prompts."""

    def batch(self) -> TokenBatch:
        """Two groups with prompts of 2 and 1 tokens; turns that touch, tool output between and after them."""
        rows = [
            ("a", 2, (0, 0, 1, 1, 2, 0)),
            ("a", 2, (0, 0, 1)),
            ("b", 1, (0, 1, 0, 0, 2, 2, 0)),
        ]
        made = [
            replace(trajectory(task, n, turn_ids), prompt_tokens=prompt)
            for n, (task, prompt, turn_ids) in enumerate(rows)
        ]
        return pack([Group("a", tuple(made[:2])), Group("b", tuple(made[2:]))])

    @pytest.mark.parametrize("prompts", [[[5], [6, 7, 8, 9]], [[3], [1]], [[5, 6, 7], [8, 9]]])
    def test_only_the_prompt_changes(self, prompts: list[list[int]]) -> None:
        """Shorter, longer, as long: what follows (tokens, tool output, turn ids) stays, row by row."""
        batch = self.batch()
        view = with_prompts(batch, prompts)
        for row, (group, start) in enumerate([(0, 2), (0, 2), (1, 1)]):
            length, prompt = int(batch.length_B[row]), prompts[group]
            assert int(view.length_B[row]) == length - start + len(prompt)
            end = int(view.length_B[row])
            assert view.token_BT[row, :end].tolist() == [*prompt, *batch.token_BT[row, start:length].tolist()]
            assert view.turn_BT[row, :end].tolist() == [0] * len(prompt) + batch.turn_BT[row, start:length].tolist()
            assert view.turn_BT[row, end:].count_nonzero() == 0
        assert view.prompt_B.tolist() == [len(prompts[0]), len(prompts[0]), len(prompts[1])]

    def test_values_come_back_to_their_tokens(self) -> None:
        """Each action token gets what was scored at that very token of the view; 0 at context."""
        batch = self.batch()
        view = with_prompts(batch, [[5, 5, 5, 5], [6]])
        value_BT = torch.where(view.turn_BT > 0, view.token_BT.double() + view.turn_BT / 8, math.nan)
        back_BT = aligned(value_BT, view, batch)
        assert torch.equal(back_BT, (batch.token_BT + batch.turn_BT / 8).double() * (batch.turn_BT > 0))

    def test_rows_of_a_micro_batch_find_their_own_prompt(self) -> None:
        """By group, in any order."""
        micro = self.batch().rows([2, 0])
        view = with_prompts(micro, [[5], [6, 7]])
        assert view.token_BT[:, 0].tolist() == [6, 5]

    def test_what_does_not_fit_is_refused(self) -> None:
        """A view with another number of action tokens."""
        batch = self.batch()
        other = batch.filled(turn_BT=batch.turn_BT.roll(1, 0))
        with pytest.raises(ValueError, match="another number of action tokens"):
            aligned(torch.zeros(batch.token_BT.shape), other, batch)


def test_pack_knows_prompts_and_tool_errors() -> None:
    """`error_BK` has a column per turn; a turn with several calls failed if one of them did."""
    good, bad = ToolResult("1"), ToolResult("Error", error="exception")

    def played(sample: int, *results: tuple[ToolResult, ...]) -> Trajectory:
        turn_ids = (0, 0, *range(1, len(results) + 1))
        turns = tuple(Turn(k + 1, k + 2, k + 3, "", results=result) for k, result in enumerate(results))
        return replace(trajectory("a", sample, turn_ids), turns=turns, prompt_tokens=2)

    batch = pack([Group("a", (played(0, (good,), (good, bad, good), ()), played(1, (bad,))))])
    assert batch.prompt_B.tolist() == [2, 2]
    assert batch.error_BK.tolist() == [[False, True, False], [True, False, False]]
    assert batch.rows([1]).error_BK.tolist() == [[True, False, False]]
