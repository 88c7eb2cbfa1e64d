"""Evaluation: k episodes of every task, and what they say with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, final

from sod.engines.base import Sampling
from sod.evaluation.breakdown import Breakdown, breakdown_figures, breakdown_rows, broken_down
from sod.evaluation.hints import Hints
from sod.evaluation.metrics import Estimate, pass_curve, summarise
from sod.records import Episode, Group, SodError, StopReason, Task, Trajectory
from sod.rollout.collect import Collector


@final
@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation. `estimates` has keys avg_at_k, pass_at_k and maj_at_k.

    `passes` is pass@n for powers of two up to k, and `by` the figures of the tasks that have a value of a key, by key.
    `played` are the tasks it was asked for, `tools` the schemas that the model was shown, where they are known.
    `votes` are the answers of the trajectories as majorities count them.
    """

    k: int
    tasks: int
    estimates: dict[str, Estimate]
    episodes: dict[str, float]
    trajectories: list[Trajectory]
    played: Sequence[Task] = ()
    tools: Sequence[Mapping[str, Any]] | None = None
    passes: Mapping[int, Estimate] = field(default_factory=dict)
    by: Breakdown = field(default_factory=dict)
    votes: Sequence[str | None] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able figures; `ci95` is the interval of avg@k, the others stand under `intervals`."""
        named = self.estimates | self._passes()
        values = {name: estimate.value for name, estimate in named.items()}
        intervals = {name: [estimate.low, estimate.high] for name, estimate in named.items()}
        return {
            "k": self.k,
            "tasks": self.tasks,
            **values,
            "ci95": intervals["avg_at_k"],
            "intervals": intervals,
            **self.episodes,
            **({"by": breakdown_rows(self.by)} if self.by else {}),
        }

    def metrics(self) -> dict[str, float]:
        """The figures under the names that a training run gives its own evaluations: `eval/avg_at_k`, ..."""
        values = {name: estimate.value for name, estimate in (self.estimates | self._passes()).items()}
        return {f"eval/{name}": value for name, value in (values | self.episodes | breakdown_figures(self.by)).items()}

    def _passes(self) -> dict[str, Estimate]:
        """pass@n for the powers of two below k, by name; that of k is among the estimates."""
        return {f"pass_at_{draw}": estimate for draw, estimate in self.passes.items() if draw != self.k}


def evaluate(
    collector: Collector,
    tasks: Sequence[Task],
    k: int,
    sampling: Sampling,
    purpose: str = "eval",
    chunk: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
    hints: Hints | None = None,
    by: Sequence[str] = (),
) -> Evaluation:
    """Play `k` episodes of every task and summarise them; `on_progress` hears (tasks done, tasks in all).

    `hints` looks at all of them when they are played; `by` are keys of tasks that figures are broken down by.

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
    return summed(tasks, groups, k, collector.votes, by)


def summed(
    tasks: Sequence[Task],
    groups: Sequence[Group],
    k: int,
    votes_of: Callable[[Sequence[Sequence[Episode]]], Sequence[Sequence[str | None]]],
    by: Sequence[str] = (),
) -> Evaluation:
    """The figures of `groups`, which are those of `tasks` in order; `votes_of` spells equal answers of a task alike.

    Raises SodError where every episode faulted, and where no task kept k of them.
    """
    trajectories = [t for group in groups for t in group.trajectories]
    if not trajectories:
        raise SodError("evaluation: every episode faulted")
    whole = [(task, group) for task, group in zip(tasks, groups, strict=True) if group.trajectories]
    if not any(len(group.trajectories) >= k for _, group in whole):
        raise SodError(f"evaluation: every task lost an episode to a fault; pass@{k} needs {k} samples of one")
    votes = votes_of([[Episode(task, t) for t in group.trajectories] for task, group in whole])
    correct = [[float(t.correct) for t in group.trajectories] for _, group in whole]
    faults = sum(len(group.faulted) for group in groups)
    return Evaluation(
        k=k,
        tasks=len(whole),
        estimates=summarise(votes, correct, k),
        episodes=episode_figures(trajectories) | {"faults": float(faults)},
        trajectories=trajectories,
        played=tasks,
        passes=pass_curve(correct, k),
        by=broken_down([task for task, _ in whole], votes, correct, k, by),
        votes=[vote for row in votes for vote in row],
    )


def episode_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over episodes: reward, accuracy, turns, lengths (tokens), and shares of what went wrong.

    `truncated` are the episodes that a token limit ended, `out_of_turns` those with a call open at their last turn, and
    `unreadable` those that ended in a turn in which their verifier found no answer.
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
        "truncated": fmean(t.stop is StopReason.LENGTH for t in trajectories),
        "out_of_turns": fmean(t.stop is StopReason.MAX_TURNS for t in trajectories),
        "unreadable": fmean(_is_unreadable(t) for t in trajectories),
        "tool_calls": fmean(len(t.tool_results) for t in trajectories),
        "tool_use": fmean(bool(t.tool_results) for t in trajectories),
        "tool_error_rate": fmean(r.error is not None for r in results) if results else 0.0,
        **{f"tool_errors/{name}": count / len(results) for name, count in sorted(errors.items())},
    }


def _reward_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    names = dict.fromkeys(name for t in trajectories for name in t.reward_parts)
    if set(names) <= {"outcome"}:
        return {}
    return {f"reward/{name}": fmean(t.reward_parts.get(name, 0.0) for t in trajectories) for name in names}


def _is_unreadable(trajectory: Trajectory) -> bool:
    """Whether a verifier looked for an answer in a last turn and found none; one that judges gives an outcome."""
    judged = "outcome" in trajectory.reward_parts and trajectory.opening is None
    return judged and trajectory.stop is StopReason.ANSWER and trajectory.answer is None
