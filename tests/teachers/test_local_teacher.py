"""The local teacher: the same-model probe over real multi-turn ledgers, privileged prompts, following the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.objective import ScoreNeed
from sod.objective.batch import TokenBatch, aligned, pack, with_prompts
from sod.objective.presets import PRESETS
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.tasks import chain
from sod.teachers.local import LocalTeacher
from sod.tools.base import Tool
from sod.training.step import taught
from support import math_reward


def scored(teacher: LocalTeacher, batch: TokenBatch) -> torch.Tensor:
    """The teacher's log-probabilities alone."""
    return teacher.score(batch, (), ScoreNeed()).logp_BT


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_same_model_probe(
    acting_model: Any, chat: Chat, python_tool: Tool, clone: Callable[[Any], Any], temperature: float
) -> None:
    """Teacher := student gives a gap of about 0 nats at every single token of real multi-turn episodes."""
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 4}, 2, 3, seed=2)["t"])]
    engine = TorchEngine(acting_model, chat.stop_ids, 8)
    tools, limits, rewards = {python_tool.name: python_tool}, EpisodeLimits(5, 60, 400), math_reward()
    rollout = Collector(engine, chat, tools, limits, rewards, seed=0)
    groups = rollout.collect(tasks, 4, Sampling(temperature), "train", 1).groups
    batch = pack(groups)
    assert int(batch.turn_BT.max()) >= 3
    teacher_BT = scored(LocalTeacher(clone(acting_model), 700, temperature), batch)
    action_BT = batch.turn_BT > 0
    gap = (teacher_BT - batch.sampled_BT)[action_BT].abs()
    assert float(gap.mean()) < 1e-5
    assert float(gap.max()) < 1e-3
    assert teacher_BT[~action_BT].count_nonzero() == 0
    wrong = scored(LocalTeacher(clone(acting_model), 700, 2.0), batch)
    assert float((wrong - batch.sampled_BT)[action_BT].abs().mean()) > 1e-2  # the probe sees a wrong temperature


def test_teacher_is_frozen_and_scores_alike_in_any_micro_batch(
    model: Any, clone: Callable[[Any], Any], random_batch: Callable[..., Any]
) -> None:
    batch = random_batch(rows=6, seed=8)
    teacher = LocalTeacher(clone(model).train(), 10_000)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    one_BT, many_BT = scored(teacher, batch), scored(LocalTeacher(clone(model), 1), batch)
    torch.testing.assert_close(one_BT, many_BT, atol=1e-5, rtol=1e-5)
    assert one_BT.shape == batch.token_BT.shape


def score_row(model: Any, token_ids: list[int], turn_ids: list[int], full_logps: Any) -> list[float]:
    """Log-probabilities of the action tokens of one row, by one plain forward."""
    return [logp for logp, turn in zip(full_logps(model, token_ids), turn_ids, strict=True) if turn]


class TestPrivilegedContext:
    """A teacher that reads another prompt."""

    @pytest.fixture
    def batch(self, random_batch: Callable[..., Any]) -> Any:
        """Six uneven ledgers in three groups, two rows each with prompts of one length."""
        batch = random_batch(rows=6, seed=8)
        start = (batch.turn_BT > 0).int().argmax(dim=1)
        return batch.filled(prompt_B=start)

    @pytest.mark.parametrize("lengths", [(1, 2, 1), (9, 14, 30), (1, 40, 3)])
    def test_scores_are_those_of_each_row_by_itself(
        self, lengths: tuple[int, ...], model: Any, clone: Any, batch: Any, full_logps: Any
    ) -> None:
        """Prompts shorter and longer than the student's, rows of uneven length, small micro-batches."""
        generator = torch.Generator().manual_seed(1)
        prompts = [torch.randint(0, 400, (n,), generator=generator).tolist() for n in lengths]
        view = with_prompts(batch, prompts)
        back_BT = aligned(scored(LocalTeacher(clone(model), 50), view), view, batch)
        for row in range(6):
            start, length = int(batch.prompt_B[row]), int(batch.length_B[row])
            rest, turns = batch.token_BT[row, start:length].tolist(), batch.turn_BT[row, start:length].tolist()
            prompt = prompts[int(batch.group_B[row])]
            expected = score_row(model, prompt + rest, [0] * len(prompt) + turns, full_logps)
            assert back_BT[row][batch.turn_BT[row] > 0].tolist() == pytest.approx(expected, abs=1e-4)
            assert back_BT[row][batch.turn_BT[row] == 0].count_nonzero() == 0
        assert float((back_BT - scored(LocalTeacher(clone(model), 50), batch)).abs().max()) > 1e-2

    def test_the_students_own_prompt_gives_no_gap(self, model: Any, clone: Any, batch: Any) -> None:
        """The same-model probe through the whole view and back."""
        twins = batch.rows([0, 2, 4])  # one row a group, so that each group has its prompt
        prompts = [twins.token_BT[row, : twins.prompt_B[row]].tolist() for row in range(3)]
        view = with_prompts(twins, prompts)
        teacher = LocalTeacher(clone(model), 10_000)
        assert torch.equal(view.token_BT, twins.token_BT)
        assert torch.equal(aligned(scored(teacher, view), view, twins), scored(teacher, twins))

    def test_confidence_comes_back_with_the_scores(self, model: Any, clone: Any, batch: Any) -> None:
        """`taught` puts both at the student's positions, by the method's need."""
        teacher = LocalTeacher(clone(model), 60)
        prompts = [[5] * 12, [6], [7] * 30]
        view = with_prompts(batch, prompts)
        plain, sure = (taught(teacher, PRESETS[name](), batch, view) for name in ("opd", "sage"))
        assert plain.top1_BT is None
        assert sure.top1_BT is not None
        assert torch.equal(plain.logp_BT, sure.logp_BT)
        action_BT = batch.turn_BT > 0
        assert bool((sure.top1_BT[action_BT] >= sure.logp_BT[action_BT].exp() - 1e-6).all())
        assert sure.top1_BT[~action_BT].count_nonzero() == 0
        assert not torch.equal(sure.logp_BT, taught(teacher, PRESETS["opd"](), batch, batch).logp_BT)


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestFollow:
    """A self-teacher on its way after the student."""

    def test_all_the_way_is_a_copy(self, random_model: Any, random_batch: Callable[..., Any]) -> None:
        """Bit for bit, of its own memory, and it scores as the student does."""
        teacher, student = LocalTeacher(random_model(seed=1), 500), random_model(seed=2, sharpness=4.0)
        teacher.follow(student, 1.0)
        assert equal(weights(teacher.model), weights(student))
        batch = random_batch(rows=3, seed=1)
        torch.testing.assert_close(scored(teacher, batch), scored(LocalTeacher(student, 500), batch))
        with torch.no_grad():
            next(student.parameters()).add_(1.0)
        assert not equal(weights(teacher.model), weights(student))
        assert not any(p.requires_grad for p in teacher.model.parameters())

    def test_moving_average_in_float32_under_bfloat16_weights(self, random_model: Any) -> None:
        """Steps far below bfloat16's resolution add up; weights rounded at every step would never leave."""
        start, student = random_model(seed=1), random_model(seed=2)
        rounded = [w.bfloat16().float() for w in weights(start)]
        teacher = LocalTeacher(start.to(torch.bfloat16), 500)
        goal = weights(student)
        expected = [w.double() for w in rounded]
        for _ in range(40):
            teacher.follow(student, 0.001)
            expected = [w + 0.001 * (g.double() - w) for w, g in zip(expected, goal, strict=True)]
        averages = teacher.state()
        assert averages is not None
        for average, weight, exact in zip(averages, weights(teacher.model), expected, strict=True):
            assert average.dtype == torch.float32
            assert weight.dtype == torch.bfloat16
            assert torch.equal(weight, average.bfloat16())
            torch.testing.assert_close(average.double(), exact, atol=1e-6, rtol=1e-5)
        moved = [float((a - r).abs().max()) for a, r in zip(averages, rounded, strict=True)]
        assert max(moved) > 1e-3

    def test_state_and_load_bit_for_bit(self, random_model: Any) -> None:
        """A bfloat16 teacher restored from its state goes on as if it had never stopped; the state is a copy's own."""
        students = [random_model(seed=n) for n in (2, 3, 4)]
        straight, first, resumed = (LocalTeacher(random_model(seed=1).to(torch.bfloat16), 500) for _ in range(3))
        assert straight.state() is None
        for student in students:
            straight.follow(student, 0.3)
        for student in students[:2]:
            first.follow(student, 0.3)
        saved = first.state()
        assert saved is not None
        resumed.load([w.clone() for w in saved])
        assert equal(weights(resumed.model), weights(first.model))
        resumed.follow(students[2], 0.3)
        assert equal(weights(resumed.model), weights(straight.model))
        ours, theirs = resumed.state(), straight.state()
        assert ours is not None
        assert theirs is not None
        assert equal(ours, theirs)

    def test_a_teacher_that_never_moved_has_nothing_to_load(self, random_model: Any) -> None:
        """None in a checkpoint leaves the weights as they are."""
        teacher = LocalTeacher(random_model(seed=1), 500)
        before = weights(teacher.model)
        teacher.load(None)
        assert equal(weights(teacher.model), before)
        assert teacher.state() is None

    def test_another_shape_and_bad_fractions_are_refused(self, random_model: Any) -> None:
        """Before any weight moves."""
        teacher = LocalTeacher(random_model(seed=1), 500)
        before = weights(teacher.model)
        with pytest.raises(ValueError, match="of its own shape"):
            teacher.follow(random_model(seed=2, layers=1), 0.5)
        for fraction in (0.0, -0.5, 1.5, float("nan")):
            with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
                teacher.follow(random_model(seed=2), fraction)
        assert equal(weights(teacher.model), before)
        assert teacher.state() is None
