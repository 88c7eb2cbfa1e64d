"""What a step has to tell: one row of numbers, and its trajectories turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sod.evaluation.runner import episode_figures
from sod.objective.batch import TokenBatch
from sod.objective.methods import Signal
from sod.rollout.collect import Collected
from sod.runlog import trajectory_row


@dataclass(frozen=True)
class StepReport:
    """A finished step: `metrics` for the log and the trackers, `trajectories` for the turn-by-turn view."""

    step: int
    metrics: dict[str, float]
    trajectories: list[dict[str, Any]]


def describe(
    step: int,
    collected: Collected,
    batch: TokenBatch,
    signal: Signal,
    updates: Mapping[str, float],
    clock: Mapping[str, float],
    seconds: float,
) -> StepReport:
    """The report of a training step."""
    metrics = episode_figures(collected.trajectories)
    metrics |= fault_figures(collected, batch)
    action_BT = batch.turn_BT > 0
    scores = batch.scores
    if scores is not None and scores.teacher is not None and signal.stats is not None:
        metrics["teacher_gap"] = float((scores.teacher.logp_BT - scores.old_BT)[action_BT].mean())
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
    return StepReport(step, metrics, trajectory_rows(collected, signal))


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


def trajectory_rows(collected: Collected, signal: Signal) -> list[dict[str, Any]]:
    """Every episode of the step as a JSON-able row, the usable ones with d_k and w_k of each turn."""
    rows = []
    for number, trajectory in enumerate(collected.trajectories):
        turns = torch.tensor([turn.index - 1 for turn in trajectory.turns])
        d_k = signal.stats.turn_gap_BK[number][turns].tolist() if signal.stats is not None else None
        w_k = signal.weight_BK[number][turns].tolist() if signal.weight_BK is not None else None
        rows.append(trajectory_row(trajectory, d_k, w_k))
    rows += [trajectory_row(t) for group in collected.groups for t in group.faulted]
    return rows
