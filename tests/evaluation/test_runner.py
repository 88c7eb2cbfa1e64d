"""Evaluation as a function of a collector: figures, order, faults and progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pytest

from sod.engines.base import Sampling
from sod.engines.torch_engine import TorchEngine
from sod.evaluation.runner import episode_figures, evaluate
from sod.records import Episode, Fault, FaultKind, SodError, Task, ToolResult, Trajectory
from sod.report.metrics import metric_of
from sod.rollout.collect import Collector, RewardFunction
from sod.rollout.episode import EpisodeLimits
from sod.tasks import chain
from sod.tools.base import ToolRequest
from support import math_reward

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"test": 7}, 2, 3, seed=2)["test"])]
WARM = Sampling(1.0, 1.0, 0)


@dataclass
class FaultyFor:
    """The real tool, except that its sandbox is down for the tasks named."""

    tool: Any
    tasks: frozenset[str]
    name: str = "python"
    keeps_state: bool = False

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        """The real tool has nothing to prepare."""

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        answers = self.tool.run(requests)
        down = [request.episode.split("#")[0] in self.tasks for request in requests]
        return [Fault(FaultKind.SANDBOX, "down") if bad else a for bad, a in zip(down, answers, strict=True)]

    def finish(self, episodes: Sequence[str]) -> None:
        """The real tool keeps nothing."""


def collector(
    model: Any, chat: Any, tool: Any, max_fault_rate: float = 1.0, reward_function: RewardFunction | None = None
) -> Collector:
    return Collector(
        TorchEngine(model, chat.stop_ids),
        chat,
        {"python": tool},
        EpisodeLimits(4, 24, 160),
        reward_function or math_reward(),
        seed=0,
        fault_retries=0,
        max_fault_rate=max_fault_rate,
    )


def plain(result: Any) -> list[tuple[Any, ...]]:
    return [(t.task_id, t.sample, t.token_ids, t.answer) for t in result.trajectories]


@pytest.fixture(scope="module")
def result(acting_model: Any, chat: Any, python_tool: Any) -> Any:
    """Three episodes of each of seven tasks."""
    return evaluate(collector(acting_model, chat, python_tool), TASKS, 3, WARM)


def test_figures_are_means_over_episodes(result: Any) -> None:
    """Each figure, worked out from the trajectories."""
    played = result.trajectories
    assert [(t.task_id, t.sample) for t in played] == [(task.id, s) for task in TASKS for s in range(3)]
    calls = [r for t in played for turn in t.turns for r in turn.results]
    assert calls
    errors = sorted({r.error for r in calls if r.error is not None})
    assert errors
    expected = {
        "reward": fmean(t.reward for t in played),
        "accuracy": fmean(float(t.correct) for t in played),
        "turns": fmean(len(t.turns) for t in played),
        "response_tokens": fmean(len(t.token_ids) - t.prompt_tokens for t in played),
        "action_tokens": fmean(sum(k > 0 for k in t.turn_ids) for t in played),
        "truncated": fmean(t.stop.value == "length" for t in played),
        "out_of_turns": fmean(t.stop.value == "max_turns" for t in played),
        "unreadable": fmean(t.stop.value == "answer" and t.answer is None for t in played),
        "tool_use": fmean(any(turn.results for turn in t.turns) for t in played),
        "tool_calls": len(calls) / len(played),
        "tool_error_rate": sum(r.error is not None for r in calls) / len(calls),
        "faults": 0.0,
        **{f"tool_errors/{name}": sum(r.error == name for r in calls) / len(calls) for name in errors},
    }
    assert result.episodes == pytest.approx(expected)
    assert (result.k, result.tasks) == (3, 7)
    assert result.as_dict()["avg_at_k"] == pytest.approx(expected["accuracy"])
    assert result.as_dict()["intervals"].keys() == {"avg_at_k", "pass_at_k", "maj_at_k", "pass_at_1", "pass_at_2"}
    assert result.as_dict()["pass_at_1"] == pytest.approx(expected["accuracy"])


def test_no_tool_call_is_no_tool_error(result: Any) -> None:
    """An episode without calls has a rate of 0, not a division by zero."""
    quiet = [t for t in result.trajectories if not t.tool_results][:1]
    figures = episode_figures(quiet or [_silenced(result.trajectories[0])])
    assert (figures["tool_calls"], figures["tool_error_rate"]) == (0.0, 0.0)


def _silenced(trajectory: Any) -> Any:
    return replace(trajectory, turns=tuple(replace(turn, calls=(), results=()) for turn in trajectory.turns))


def test_seed_and_nothing_else_decides(result: Any, acting_model: Any, chat: Any, python_tool: Any) -> None:
    """Again the same; greedy episodes of a task are equal; another purpose samples anew."""
    again = evaluate(collector(acting_model, chat, python_tool), TASKS, 3, WARM)
    assert plain(again) == plain(result)
    other = evaluate(collector(acting_model, chat, python_tool), TASKS, 3, WARM, purpose="other")
    assert plain(other) != plain(result)
    greedy = evaluate(collector(acting_model, chat, python_tool), TASKS, 2, Sampling(0.0, 1.0, 0))
    tokens = [t.token_ids for t in greedy.trajectories]
    assert tokens[::2] == tokens[1::2]


class Agreeing:
    """A reward function to which the first sample of a task is right and the others say the same in two spellings."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        return [
            replace(t, answer=("right", "x+1", "1+x")[t.sample], correct=t.sample == 0, reward=0.0)
            for t in (episode.trajectory for episode in episodes)
        ]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        assert [{episode.task.id for episode in group} for group in groups] == [{task.id} for task in TASKS]
        return [["right" if one.trajectory.correct else "wrong" for one in group] for group in groups]


def test_majorities_count_the_verifiers_votes(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """Two wrong answers that are equal outvote the right one; as spelled they would tie with it."""
    result = evaluate(collector(acting_model, chat, python_tool, reward_function=Agreeing()), TASKS, 3, WARM)
    assert result.estimates["maj_at_k"].value == 0.0
    assert {t.answer for t in result.trajectories} == {"right", "x+1", "1+x"}


def test_chunks_and_progress(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """Tasks are played a chunk at a time; progress counts tasks, never past the end; the order is kept."""
    heard: list[tuple[int, int]] = []
    result = evaluate(
        collector(acting_model, chat, python_tool),
        TASKS,
        2,
        WARM,
        chunk=6,
        on_progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(3, 7), (6, 7), (7, 7)]
    assert [t.task_id for t in result.trajectories] == [task.id for task in TASKS for _ in range(2)]


def test_more_samples_than_a_chunk(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """k larger than the chunk still plays every task."""
    result = evaluate(collector(acting_model, chat, python_tool), TASKS[:2], 3, WARM, chunk=1)
    assert (result.tasks, len(result.trajectories)) == (2, 6)


def test_faulted_episodes_are_left_out_and_counted(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """A task whose sandbox is down does not count as wrong: it is not there, and its faults are."""
    down = frozenset({TASKS[0].id, TASKS[3].id})
    result = evaluate(collector(acting_model, chat, FaultyFor(python_tool, down)), TASKS, 2, WARM)
    assert result.episodes["faults"] > 0
    assert result.episodes["faults"] + len(result.trajectories) == 14
    assert all(t.fault is None for t in result.trajectories)


def test_refusals(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """No task, too many faults, and nothing but faults are each a SodError."""
    with pytest.raises(SodError, match="no tasks"):
        evaluate(collector(acting_model, chat, python_tool), [], 2, WARM)
    broken = FaultyFor(python_tool, frozenset(task.id for task in TASKS))
    with pytest.raises(SodError, match="max_fault_rate"):
        evaluate(collector(acting_model, chat, broken, max_fault_rate=0.0), TASKS, 2, WARM)
    calling = _always_calling(acting_model, chat, python_tool)
    with pytest.raises(SodError, match="every episode faulted"):
        evaluate(collector(acting_model, chat, broken), calling, 1, Sampling(0.0, 1.0, 0))


def test_the_table_of_metrics_has_every_figure(result: Any) -> None:
    """The estimates as they stand in the row of a training step, and the figures of the episodes."""
    keys = [*result.metrics(), *result.episodes]
    assert [key for key in keys if metric_of(key) is None] == []


def test_the_tasks_are_kept_beside_the_episodes(result: Any) -> None:
    """Whoever writes an episode down finds its task."""
    assert [task.id for task in result.played] == [task.id for task in TASKS]
    assert {t.task_id for t in result.trajectories} <= {task.id for task in result.played}


def test_pass_at_k_where_no_task_kept_k_samples(acting_model: Any, chat: Any, python_tool: Any) -> None:
    """When every task lost an episode, pass@k cannot be had: one line, not a traceback."""

    class LastDown(FaultyFor):
        def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
            answers = self.tool.run(requests)
            last = ["#1@" in request.episode for request in requests]
            return [Fault(FaultKind.SANDBOX, "down") if bad else a for bad, a in zip(last, answers, strict=True)]

    calling = _always_calling(acting_model, chat, python_tool)
    with pytest.raises(SodError):
        evaluate(
            collector(acting_model, chat, LastDown(python_tool, frozenset())), calling, 2, Sampling(0.0, 1.0, 0), 0
        )


def _always_calling(model: Any, chat: Any, tool: Any) -> list[Any]:
    """The tasks on which the greedy student calls its tool."""
    greedy = evaluate(collector(model, chat, tool), TASKS, 1, Sampling(0.0, 1.0, 0))
    called = {t.task_id for t in greedy.trajectories if any(c.name for turn in t.turns for c in turn.calls)}
    assert called
    return [task for task in TASKS if task.id in called]
