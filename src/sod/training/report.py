"""The report of a training step: one row of numbers, and its trajectories turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from sod.evaluation.runner import episode_figures
from sod.objective.batch import TokenBatch
from sod.objective.methods import Signal
from sod.records import Fault, Task, Trajectory
from sod.rollout.collect import Collected
from sod.runlog import trajectory_row
from sod.teachers.coverage import coverage_figures, turn_coverage


@final
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
    *,
    step: int,
    tasks: Sequence[Task],
    collected: Collected,
    batch: TokenBatch,
    signal: Signal,
    updates: Mapping[str, float],
    teacher_episodes: Mapping[str, float],
    teacher_faults: Sequence[Fault],
    clock: Mapping[str, float],
    seconds: float,
    tools: Sequence[Mapping[str, Any]] | None = None,
    began: int = 0,
) -> StepReport:
    """The report of a training step.

    `tasks` are those of the groups of `collected`, in order; `batch` is what was learned from, with its scores, and
    `teacher_faults` why the teacher could not score the rest; `clock` has the seconds by phase, `seconds` all of them.
    `began` are the steps behind the weights that the engine calls version 0.
    """
    metrics = episode_figures(collected.trajectories)
    metrics |= fault_figures(collected, batch, teacher_faults)
    metrics |= gap_figures(batch, signal)
    if signal.weight_BK is not None and signal.stats is not None:
        metrics["weight"] = float(signal.weight_BK[signal.stats.tokens_BK > 0].mean())
    if signal.stats is not None and signal.stats.confidence_BK is not None:
        metrics["teacher_confidence"] = float(signal.stats.confidence_BK[signal.stats.tokens_BK > 0].mean())
    metrics["flat_groups"] = flat_groups(collected)
    metrics |= teacher_episodes
    metrics |= updates
    metrics["tokens_per_second"] = batch.action_tokens() / seconds
    metrics["seconds"] = seconds
    metrics |= {f"seconds/{phase}": value for phase, value in clock.items()}
    return StepReport(step, metrics, partial(trajectory_rows, tasks, collected, batch, signal, tools, began))


def gap_figures(batch: TokenBatch, signal: Signal) -> dict[str, float]:
    """The teacher gap over the tokens that it scored, and the gaps of each trajectory's first and last turn with any.

    Of a teacher with another tokenizer also how many tokens those are; nothing where it scored none.
    """
    scores, stats, teacher_BT = batch.scores, signal.stats, signal.teacher_BT
    if scores is None or scores.old_BT is None or scores.teacher is None or stats is None or teacher_BT is None:
        return {}
    aligned = scores.teacher.aligned
    figures = {} if aligned is None else coverage_figures(aligned)
    scored_BT, present_BK = scores.teacher.scored_at(batch.turn_BT), stats.tokens_BK > 0
    rows_B = present_BK.any(1)
    if not bool(rows_B.any()):
        return figures
    number_BK = torch.arange(present_BK.shape[1]).expand_as(present_BK)
    first_B1 = present_BK.to(torch.int64).argmax(1, keepdim=True)
    last_B1 = number_BK.masked_fill(~present_BK, 0).amax(1, keepdim=True)
    first_B, last_B = (stats.turn_gap_BK.gather(1, at_B1).squeeze(1)[rows_B] for at_B1 in (first_B1, last_B1))
    return figures | {
        "teacher_gap": float((teacher_BT - scores.old_BT)[scored_BT].mean()),
        "turn_gap_first": float(first_B.mean()),
        "turn_gap_last": float(last_B.mean()),
    }


def flat_groups(collected: Collected) -> float:
    """Share of the groups of two and more whose rewards are all equal: those say nothing to GRPO's term."""
    rewards = [[t.reward for t in group.trajectories] for group in collected.groups if group.trajectories]
    return sum(len(values) > 1 and len(set(values)) == 1 for values in rewards) / len(rewards)


def fault_figures(collected: Collected, batch: TokenBatch, teacher_faults: Sequence[Fault]) -> dict[str, float]:
    """What of ours failed: episodes set apart, in all and by kind; retries; rows distilled up to a fault."""
    faults = [*collected.faults, *teacher_faults]
    played = len(collected.trajectories) + len(collected.faults)
    figures = {"faults": float(len(faults)), "fault_rate": len(faults) / played, "retries": float(collected.retries)}
    figures |= {f"faults/{kind}": float(count) for kind, count in Counter(fault.kind for fault in faults).items()}
    return figures | {"distilled_before_fault": float((~batch.rewarded_B).sum())}


def trajectory_rows(
    tasks: Sequence[Task],
    collected: Collected,
    batch: TokenBatch,
    signal: Signal,
    tools: Sequence[Mapping[str, Any]] | None,
    began: int = 0,
) -> list[dict[str, Any]]:
    """Every episode of the step as a JSON-able row: the usable ones with what the teacher and the method made of them,
    then those that faulted.
    """
    row_of = {id(episode.trajectory): number for number, episode in enumerate(batch.episodes)}
    usable, faulted = [], []
    for task, group in zip(tasks, collected.groups, strict=True):
        for trajectory in group.trajectories:
            number = row_of.get(id(trajectory))  # None: the teacher could not score it, so it left the batch
            learned = {} if number is None else _learned(trajectory, batch, signal, number)
            usable.append(trajectory_row(trajectory, task, tools, began=began, **learned))
        faulted += [trajectory_row(trajectory, task, tools, began=began) for trajectory in group.faulted]
    return usable + faulted


def _learned(trajectory: Trajectory, batch: TokenBatch, signal: Signal, number: int) -> dict[str, Any]:
    """What a row of the batch says of its trajectory, by turn and by token."""
    turns, length = torch.tensor([turn.index - 1 for turn in trajectory.turns]), len(trajectory.token_ids)
    learned: dict[str, Any] = {"advantages": signal.advantage_BT[number][:length].tolist()}
    if signal.stats is not None:
        gaps = zip(signal.stats.turn_gap_BK[number][turns].tolist(), signal.stats.tokens_BK[number][turns], strict=True)
        learned["turn_gap"] = [gap if tokens else None for gap, tokens in gaps]
    if signal.weight_BK is not None:
        learned["weight"] = signal.weight_BK[number][turns].tolist()
    return learned | _scored(trajectory, batch, signal, number)


def _scored(trajectory: Trajectory, batch: TokenBatch, signal: Signal, number: int) -> dict[str, Any]:
    """What the teacher says of a row's tokens, None where it says nothing, and how much of each turn it could read."""
    teacher, length = None if batch.scores is None else batch.scores.teacher, len(trajectory.token_ids)
    if teacher is None or signal.teacher_BT is None:
        return {}
    logps = signal.teacher_BT[number][:length].tolist()
    if teacher.aligned is None:
        return {"teacher_logps": logps}
    scored = teacher.scored_at(batch.turn_BT)[number][:length].tolist()
    coverage = turn_coverage(teacher.aligned, number)
    return {
        "teacher_logps": [logp if known else None for logp, known in zip(logps, scored, strict=True)],
        "coverage": [coverage[turn.index - 1] for turn in trajectory.turns],
    }
