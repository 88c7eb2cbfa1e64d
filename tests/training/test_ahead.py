"""Episodes that are played while the student learns: by which version, what is refused, and how it ends."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build.method import make_method
from sod.clock import Clock
from sod.engines.beside import BesideEngine
from sod.engines.torch_engine import TorchEngine
from sod.models.lora import second_model
from sod.models.score import score
from sod.objective.batch import TokenBatch, pack
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.recipe import Recipe
from sod.records import Episode, Group, SodError, StopReason, Trajectory
from sod.rollout.collect import Collector
from sod.rollout.episode import EpisodeLimits
from sod.runlog import trajectory_of
from sod.tasks import chain
from sod.teachers.local import LocalTeacher
from sod.training.ahead import Ahead, refuse_stale
from sod.training.optim import Optimizer
from sod.training.step import Run, gather, train_step
from support import math_reward

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]


class Slow:
    """Rewards after a while, as a judge does."""

    def __init__(self, seconds: float, fails_at: int = 0) -> None:
        self.seconds, self.fails_at, self.asked, self.inner = seconds, fails_at, 0, math_reward()

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        self.asked += 1
        time.sleep(self.seconds)
        if self.asked == self.fails_at:
            raise SodError("the judge is gone")
        return self.inner(episodes)

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        return self.inner.votes(groups)


class SlowTeacher:
    """Scores after a while, as a served one does."""

    def __init__(self, inner: LocalTeacher, seconds: float) -> None:
        self.inner, self.seconds, self.offers = inner, seconds, inner.offers

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        time.sleep(self.seconds)
        return self.inner.score(batch, episodes, need)

    def state(self) -> None:
        return None


@pytest.fixture
def make_run(acting_model: Any, random_model: Any, chat: Any, python_tool: Any, tmp_path: Path) -> Callable[..., Run]:
    """`make_run(staleness, ...)`: the live objects of a run; close what it makes with `run.ahead.close()`."""

    def make(staleness: int = 1, method: str = "sod", every: int = 3, reward: Any = None, seconds: float = 0.0) -> Run:
        rollout = {"prompts": 2, "samples": 2, "max_staleness": staleness}
        content = {"student": {"path": "in memory"}, "method": method, "optim": {"lr": 1e-2, "warmup_steps": 0}}
        recipe = Recipe.model_validate(content | {"rollout": rollout, "train": {"checkpoint_every": every, "steps": 6}})
        student = copy.deepcopy(acting_model)
        playing = second_model(student) if staleness else student
        engine: Any = TorchEngine(playing, chat.stop_ids)
        limits = EpisodeLimits(3, 24, 120)
        rewards = reward or math_reward()
        rollouts = Collector(engine, chat, {"python": python_tool}, limits, rewards, seed=0, max_fault_rate=1.0)
        teacher: Any = SlowTeacher(LocalTeacher(random_model(seed=8, sharpness=3.0), 256), seconds)
        optimizer = Optimizer(student, recipe.optim, 10)
        run = Run(recipe, TASKS, student, teacher, rollouts, make_method(recipe.method), optimizer, tmp_path / "dumps")
        if staleness:
            rollouts.engine = BesideEngine(engine, playing)
            run.ahead = Ahead(partial(gather, replace(run, clock=Clock())), rollouts.engine, 6, every)
        return run

    return make


def versions_of(report: Any) -> set[int]:
    return {version for row in report.trajectories for version in row["versions"]}


def test_a_step_learns_from_the_version_before_and_after_a_checkpoint_from_its_own(make_run: Any) -> None:
    """What a version has sampled has that version's log-probabilities, and not those of the weights that learn."""
    run = make_run()
    weights, reports = [copy.deepcopy(run.student.state_dict())], []
    for step in range(1, 6):
        reports.append(train_step(run, step))
        weights.append(copy.deepcopy(run.student.state_dict()))
    run.ahead.close()
    assert [versions_of(report) for report in reports] == [{0}, {0}, {1}, {3}, {3}]
    assert [report.metrics["staleness"] for report in reports] == [0.0, 1.0, 1.0, 0.0, 1.0]
    student = copy.deepcopy(run.student)
    for report, own, learning in ((reports[1], 0, 1), (reports[2], 1, 2), (reports[4], 3, 4)):
        gaps = []
        for version in (own, learning):
            student.load_state_dict(weights[version])
            gaps.append(mean_gap(student, report.trajectories))
        assert gaps[0] < 1e-5 < 1e-3 < gaps[1]
        assert report.metrics["mismatch"] == pytest.approx(gaps[1], rel=0.05)
        assert report.metrics["importance_weight"] != 1.0
    assert [report.metrics["importance_truncated"] for report in (reports[0], reports[3])] == [0.0, 0.0]
    assert reports[3].metrics["mismatch"] < 1e-5


def mean_gap(model: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Nats/token between the rows' sampled log-probabilities and the model's."""
    batch = pack([Group("t", (trajectory_of(row),), ()) for row in rows])
    with torch.no_grad():
        away_BT = (score(model, batch, 10_000) - batch.sampled_BT).abs()
    return float(away_BT[batch.turn_BT > 0].mean())


@pytest.mark.slow
def test_the_first_step_is_the_one_without_staleness(make_run: Any) -> None:
    """The same episodes and, as the weights by importance are 1 up to rounding, the same weights after it."""
    beside, alone = make_run(), make_run(staleness=0)
    first, other = train_step(beside, 1), train_step(alone, 1)
    beside.ahead.close()
    tokens = [[row["token_ids"] for row in report.trajectories] for report in (first, other)]
    assert tokens[0] == tokens[1]
    torch.testing.assert_close(beside.student.state_dict(), alone.student.state_dict(), rtol=0, atol=1e-4)
    assert not {"staleness", "mismatch"} & other.metrics.keys()


@pytest.mark.slow
def test_what_goes_wrong_beside_a_step_is_raised_by_the_next(make_run: Any) -> None:
    run = make_run(reward=Slow(0.0, fails_at=2))
    train_step(run, 1)
    with pytest.raises(SodError, match="the judge is gone"):
        train_step(run, 2)
    run.ahead.close()


def test_what_is_under_way_is_stopped_at_its_next_tokens(make_run: Any) -> None:
    """Closed as it plays, it does not go on to the end of its episodes."""
    run = make_run(reward=Slow(0.0))
    run.ahead.take(1, Clock())  # the episodes of step 2 are begun
    run.ahead.close()
    assert run.rollout._reward_function.asked <= 2
    with pytest.raises(SodError, match="sampling was stopped"):
        run.rollout.engine.advance(1)
    run.ahead.close()


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ([(3, 3), (4,)], "versions 3 to 4"),
        ([(2,), (2, 2)], "2 versions of the weights behind"),
        ([(5,)], "-1 versions"),
    ],
)
def test_mixed_and_old_versions_are_refused(versions: list[tuple[int, ...]], told: str) -> None:
    played = [Trajectory("t", 0, 1, (5,), (0,), (0.0,), (), StopReason.ANSWER, versions=own) for own in versions]
    with pytest.raises(SodError, match=told):
        refuse_stale(played, 4, 7)
    fresh = [replace(one, versions=(3,) * len(one.versions)) for one in played]
    refuse_stale(fresh, 4, 7)


@pytest.mark.slow
def test_a_step_takes_less_time_where_it_waits_for_others(make_run: Any) -> None:
    """A judge and a served teacher of .4 s each: one after the other, or beside each other."""
    seconds = []
    for staleness in (0, 1):
        run = make_run(staleness, every=6, reward=Slow(0.4), seconds=0.4)
        train_step(run, 1)
        began = time.perf_counter()
        for step in (2, 3, 4):
            train_step(run, step)
        seconds.append((time.perf_counter() - began) / 3)
        if run.ahead is not None:
            run.ahead.close()
    assert seconds[0] > 0.8
    assert seconds[1] < seconds[0] - 0.15
