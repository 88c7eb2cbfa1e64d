"""Evaluation: k episodes of every task, and what they say with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, final

from sod.engines.base import Sampling
from sod.evaluation.hints import Hints
from sod.evaluation.metrics import Estimate, summarise
from sod.records import Episode, SodError, Task, Trajectory
from sod.rollout.collect import Collector


@final
@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation. `estimates` has keys avg_at_k, pass_at_k and maj_at_k.

    `played` are the tasks it was asked for, `tools` the schemas that the model was shown, where they are known.
    """

    k: int
    tasks: int
    estimates: dict[str, Estimate]
    episodes: dict[str, float]
    trajectories: list[Trajectory]
    played: Sequence[Task] = ()
    tools: Sequence[Mapping[str, Any]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able figures; `ci95` is the interval of avg@k, the others stand under `intervals`."""
        values = {name: estimate.value for name, estimate in self.estimates.items()}
        intervals = {name: [estimate.low, estimate.high] for name, estimate in self.estimates.items()}
        return {
            "k": self.k,
            "tasks": self.tasks,
            **values,
            "ci95": intervals["avg_at_k"],
            "intervals": intervals,
            **self.episodes,
        }

    def metrics(self) -> dict[str, float]:
        """The figures under the names that a training run gives its own evaluations: `eval/avg_at_k`, ..."""
        values = {name: estimate.value for name, estimate in self.estimates.items()}
        return {f"eval/{name}": value for name, value in (values | self.episodes).items()}


def evaluate(
    collector: Collector,
    tasks: Sequence[Task],
    k: int,
    sampling: Sampling,
    purpose: str = "eval",
    chunk: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
    hints: Hints | None = None,
) -> Evaluation:
    """Play `k` episodes of every task and summarise them; `on_progress` hears (tasks done, tasks in all).

    `hints` looks at all of them when they are played.

    Raises SodError when there is no task, or every episode of every task faulted.
    """
    if not tasks:
        raise SodError("evaluation: no tasks to evaluate on")
    groups = []
    per_call = max(1, chunk // k)
    for first in range(0, len(tasks), per_call):
        part = tasks[first : first + per_call]
        groups += collector.collect(part, k, sampling, purpose, first).groups
        if on_progress:
            on_progress(first + len(part), len(tasks))
    if hints is not None:
        hints.look(tasks, groups)
    trajectories = [t for group in groups for t in group.trajectories]
    if not trajectories:
        raise SodError("evaluation: every episode faulted")
    whole = [(task, group) for task, group in zip(tasks, groups, strict=True) if group.trajectories]
    if not any(len(group.trajectories) >= k for _, group in whole):
        raise SodError(f"evaluation: every task lost an episode to a fault; pass@{k} needs {k} samples of one")
    estimates = summarise(
        collector.votes([[Episode(task, t) for t in group.trajectories] for task, group in whole]),
        [[float(t.correct) for t in group.trajectories] for _, group in whole],
        k,
    )
    faults = sum(len(group.faulted) for group in groups)
    episodes = episode_figures(trajectories) | {"faults": float(faults)}
    return Evaluation(k, len(whole), estimates, episodes, trajectories, tasks)


def episode_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over episodes: reward, accuracy, turns, lengths (tokens), and the share of tool calls in error.

    `tool_errors/NAME` is the share of calls that ended in that tool error. `reward/NAME` is the mean of a part of the
    reward, 0 where an episode lacks it, so that the parts add up; a reward of the outcome alone has none.
    """
    results = [result for t in trajectories for result in t.tool_results]
    errors = Counter(result.error for result in results if result.error is not None)
    return {
        "reward": fmean(t.reward for t in trajectories),
        **_reward_figures(trajectories),
        "accuracy": fmean(t.correct for t in trajectories),
        "turns": fmean(len(t.turns) for t in trajectories),
        "response_tokens": fmean(t.response_tokens for t in trajectories),
        "action_tokens": fmean(t.action_tokens for t in trajectories),
        "tool_calls": fmean(len(t.tool_results) for t in trajectories),
        "tool_error_rate": fmean(r.error is not None for r in results) if results else 0.0,
        **{f"tool_errors/{name}": count / len(results) for name, count in sorted(errors.items())},
    }


def _reward_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    names = dict.fromkeys(name for t in trajectories for name in t.reward_parts)
    if set(names) <= {"outcome"}:
        return {}
    return {f"reward/{name}": fmean(t.reward_parts.get(name, 0.0) for t in trajectories) for name in names}
