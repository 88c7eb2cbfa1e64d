"""From a finished trajectory to its answer, correctness and reward."""

from __future__ import annotations

from dataclasses import replace

from sod.records import StopReason, Trajectory
from sod.rewards.math import normalise, verify
from sod.rollout.collect import Judge
from sod.tasks.base import Task


def boxed_answer_judge(correct: float, wrong: float) -> Judge:
    """Judges the last `\\boxed{}` of the final turn against the task's ground truth.

    Only an episode that ended in an answer can be right: one that was cut off has not answered.
    """

    def judge(task: Task, trajectory: Trajectory) -> Trajectory:
        if trajectory.stop is not StopReason.ANSWER:
            return replace(trajectory, answer=None, correct=False, reward=wrong)
        verdict = verify(trajectory.turns[-1].text, task.ground_truth)
        answer = None if verdict.answer is None else normalise(verdict.answer)
        return replace(trajectory, answer=answer, correct=verdict.correct, reward=correct if verdict.correct else wrong)

    return judge
