"""The local teacher: the same-model probe of DESIGN.md, over real multi-turn ledgers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.objective.batch import pack
from sod.rollout.collect import Collector
from sod.rollout.episode import Limits
from sod.tasks import chain
from sod.teachers.local import LocalTeacher
from sod.tools.base import Tool
from support import math_judge


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_same_model_probe(
    acting_model: Any, chat: Chat, python_tool: Tool, clone: Callable[[Any], Any], temperature: float
) -> None:
    """Teacher := student gives a gap of about 0 nats at every single token of real multi-turn episodes."""
    tasks = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 4}, 2, 3, seed=2)["t"])]
    engine = TorchEngine(acting_model, chat.stop_ids, 8)
    judge = math_judge()
    rollout = Collector(engine, chat, {python_tool.name: python_tool}, Limits(5, 60, 400), judge, seed=0)
    groups = rollout.collect(tasks, 4, Sampling(temperature), "train", 1).groups
    batch = pack(groups)
    assert int(batch.turn_BT.max()) >= 3
    teacher_BT = LocalTeacher(clone(acting_model), 700, temperature).score(batch)
    action_BT = batch.turn_BT > 0
    gap = (teacher_BT - batch.sampled_BT)[action_BT].abs()
    assert float(gap.mean()) < 1e-5
    assert float(gap.max()) < 1e-3
    assert teacher_BT[~action_BT].count_nonzero() == 0
    wrong = LocalTeacher(clone(acting_model), 700, 2.0).score(batch)
    assert float((wrong - batch.sampled_BT)[action_BT].abs().mean()) > 1e-2  # the probe sees a wrong temperature


def test_teacher_is_frozen_and_scores_alike_in_any_micro_batch(
    model: Any, clone: Callable[[Any], Any], random_batch: Callable[..., Any]
) -> None:
    batch = random_batch(rows=6, seed=8)
    teacher = LocalTeacher(clone(model).train(), 10_000)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    one_BT, many_BT = teacher.score(batch), LocalTeacher(clone(model), 1).score(batch)
    torch.testing.assert_close(one_BT, many_BT, atol=1e-5, rtol=1e-5)
    assert one_BT.shape == batch.token_BT.shape
