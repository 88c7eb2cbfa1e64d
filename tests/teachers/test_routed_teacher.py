"""Teachers by the source of a task: each row is its own teacher's, and weights multiply the teacher's signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import pytest
import torch

from sod.objective.batch import TokenBatch
from sod.objective.divergence import Divergence
from sod.objective.methods import advantage
from sod.objective.presets import PRESETS
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.records import Episode, Fault, FaultKind
from sod.teachers.base import Offer, Teacher
from sod.teachers.local import LocalTeacher
from sod.teachers.routed import Route, RoutedTeacher, common_offer
from support import answered

SOURCES = ["a", "b", "c", "b", "a", "d"]
ALL = ScoreNeed(top1=True, entropy=True, k=3)


@final
class Failing:
    """Cannot score the first row of what it is given."""

    offers = Offer("topk", 5, frozenset({1.0}), entropy=False)

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        scores = self.teacher.score(batch, episodes, need)
        return replace(scores, faults={0: Fault(FaultKind.SERVER, "down")})

    def state(self) -> None: ...

    def load(self, state: object) -> None: ...


@pytest.fixture
def episodes() -> list[Episode]:
    return [answered(str(number), source=source) for number, source in enumerate(SOURCES)]


def test_each_row_is_scored_by_its_teacher(
    episodes: list[Episode], random_model: Any, random_batch: Callable[..., TokenBatch]
) -> None:
    batch = random_batch(rows=6, seed=4)
    one, other = (LocalTeacher(random_model(seed, 4.0), 100) for seed in (1, 2))
    routed = RoutedTeacher({"x": Route(one, frozenset("bd"), 2.0), "y": Route(Failing(other), None, 0.5)})
    scores = routed.score(batch, episodes, ALL)
    assert scores.weight_B is not None
    assert scores.weight_B.tolist() == [0.5, 2.0, 0.5, 2.0, 0.5, 2.0]
    assert list(scores.faults) == [0]  # the first of the second teacher's rows
    action_BT = batch.turn_BT > 0
    row_N = torch.nonzero(action_BT)[:, 0]
    for row in range(6):
        alone = batch.rows([row])
        expected = (one if row % 2 else other).score(alone, (), ALL)
        width = alone.token_BT.shape[1]
        for name in ("logp_BT", "top1_BT", "entropy_BT"):
            torch.testing.assert_close(getattr(scores, name)[row, :width], getattr(expected, name)[0])
        assert scores.ids_NK is not None
        assert torch.equal(scores.ids_NK[row_N == row], expected.ids_NK)  # type: ignore[arg-type]
        torch.testing.assert_close(scores.logps_NK[row_N == row], expected.logps_NK)  # type: ignore[index]


def test_a_source_without_a_teacher_and_what_all_offer(
    episodes: list[Episode], random_model: Any, random_batch: Callable[..., TokenBatch]
) -> None:
    teacher = LocalTeacher(random_model(1), 100)
    routed = RoutedTeacher({"x": Route(teacher, frozenset("ab")), "y": Route(Failing(teacher), frozenset("c"))})
    with pytest.raises(ValueError, match="no teacher has tasks of source 'd'"):
        routed.score(random_batch(rows=6, seed=4), episodes, ALL)
    assert routed.offers == Offer("topk", 5, frozenset({1.0}), entropy=False)
    assert common_offer([Offer("sampled", 0), Offer("topk", 9, frozenset({1.0, 2.0}))]) == Offer(
        "sampled", 0, frozenset({1.0, 2.0})
    )


@pytest.mark.parametrize("dense", [False, True])
def test_a_weight_multiplies_the_teachers_signal(
    dense: bool, random_model: Any, random_batch: Callable[..., TokenBatch]
) -> None:
    batch = random_batch(rows=4, seed=4)
    scores = LocalTeacher(random_model(1, 4.0), 100).score(batch, (), ScoreNeed())
    old_BT = LocalTeacher(random_model(2, 4.0), 100).score(batch, (), ScoreNeed()).logp_BT
    method = PRESETS["sod"]()
    if dense:
        method = replace(method, divergence=Divergence("jsd", top_k=3))
    weight_B = torch.tensor([1.0, 3.0, 0.5, 1.0])
    plain = advantage(method, batch.scored(old_BT, scores))
    weighted = advantage(method, batch.scored(old_BT, replace(scores, weight_B=weight_B)))
    reward_BT = 0.0 if plain.reward_advantage_B is None else plain.reward_advantage_B[:, None] * (batch.turn_BT > 0)
    if dense:
        assert plain.distil_BT is not None
        torch.testing.assert_close(weighted.distil_BT, plain.distil_BT * weight_B[:, None])
    else:
        theirs_BT = (plain.advantage_BT - reward_BT) * weight_B[:, None]
        torch.testing.assert_close(weighted.advantage_BT - reward_BT, theirs_BT, atol=1e-5, rtol=1e-4)
        assert theirs_BT.abs().sum() > 0.1
