"""What a step has to tell: one row of numbers, and its trajectories turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sod.evaluation.runner import episode_figures
from sod.objective.batch import TokenBatch
from sod.objective.methods import Signal
from sod.records import Task
from sod.rollout.collect import Collected
from sod.runlog import trajectory_row


@dataclass(frozen=True)
class StepReport:
    """A finished step: `metrics` for the log and the trackers, `rows` for the turn-by-turn view.

    `rows` makes the rows of `trajectories` when they are asked for: of most steps of a long run nobody asks, and they
    have a number for every token.
    """

    step: int
    metrics: dict[str, float]
    rows: Callable[[], list[dict[str, Any]]] = list

    @property
    def trajectories(self) -> list[dict[str, Any]]:
        """Every episode as a JSON-able row, see `runlog.trajectory_row`."""
        return self.rows()


def describe(
    step: int,
    collected: Collected,
    batch: TokenBatch,
    signal: Signal,
    updates: Mapping[str, float],
    clock: Mapping[str, float],
    seconds: float,
    tasks: Sequence[Task],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> StepReport:
    """The report of a training step; `tasks` are those of the groups of `collected`, in order."""
    metrics = episode_figures(collected.trajectories)
    metrics |= fault_figures(collected, batch)
    action_BT = batch.turn_BT > 0
    assert batch.old_BT is not None
    if batch.teacher_BT is not None and signal.stats is not None:
        metrics["teacher_gap"] = float((batch.teacher_BT - batch.old_BT)[action_BT].mean())
        turn_gap_BK = signal.stats.turn_gap_BK
        last_B1 = (signal.stats.tokens_BK > 0).sum(dim=1, keepdim=True) - 1
        metrics["turn_gap_first"] = float(turn_gap_BK[:, 0].mean())
        metrics["turn_gap_last"] = float(turn_gap_BK.gather(1, last_B1).mean())
    if signal.weight_BK is not None and signal.stats is not None:
        metrics["weight"] = float(signal.weight_BK[signal.stats.tokens_BK > 0].mean())
    if signal.stats is not None and signal.stats.confidence_BK is not None:
        metrics["teacher_confidence"] = float(signal.stats.confidence_BK[signal.stats.tokens_BK > 0].mean())
    metrics["flat_groups"] = flat_groups(collected)
    metrics |= updates
    metrics["tokens_per_second"] = batch.action_tokens() / seconds
    metrics["seconds"] = seconds
    metrics |= {f"seconds/{phase}": value for phase, value in clock.items()}
    return StepReport(step, metrics, partial(trajectory_rows, collected, batch, signal, tasks, tools))


def flat_groups(collected: Collected) -> float:
    """Share of the groups of two and more whose rewards are all equal: those say nothing to GRPO's term."""
    rewards = [[t.reward for t in group.trajectories] for group in collected.groups if group.trajectories]
    return sum(len(values) > 1 and len(set(values)) == 1 for values in rewards) / len(rewards)


def fault_figures(collected: Collected, batch: TokenBatch) -> dict[str, float]:
    """What of ours failed: episodes set apart, in all and by kind; calls tried again; rows distilled up to a fault."""
    faults = collected.faults
    played = len(collected.trajectories) + len(faults)
    figures = {"faults": float(len(faults)), "fault_rate": len(faults) / played, "retries": float(collected.retries)}
    figures |= {f"faults/{kind}": float(count) for kind, count in Counter(fault.kind for fault in faults).items()}
    return figures | {"distilled_before_fault": float(len(batch) - len(collected.trajectories))}


def trajectory_rows(
    collected: Collected,
    batch: TokenBatch,
    signal: Signal,
    tasks: Sequence[Task],
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[dict[str, Any]]:
    """Every episode of the step as a JSON-able row: the usable ones with what the teacher and the method made of them,
    then those that faulted.
    """
    usable = [(task, t) for task, group in zip(tasks, collected.groups, strict=True) for t in group.trajectories]
    faulted = [(task, t) for task, group in zip(tasks, collected.groups, strict=True) for t in group.faulted]
    rows = []
    for number, (task, trajectory) in enumerate(usable):  # the batch has them in this order, faulted ones after
        turns, length = torch.tensor([turn.index - 1 for turn in trajectory.turns]), len(trajectory.token_ids)
        row = trajectory_row(
            trajectory,
            task,
            tools,
            turn_gap=signal.stats.turn_gap_BK[number][turns].tolist() if signal.stats is not None else None,
            weight=signal.weight_BK[number][turns].tolist() if signal.weight_BK is not None else None,
            teacher_logps=batch.teacher_BT[number][:length].tolist() if batch.teacher_BT is not None else None,
            advantages=signal.advantage_BT[number][:length].tolist(),
        )
        rows.append(row)
    return rows + [trajectory_row(t, task, tools) for task, t in faulted]
