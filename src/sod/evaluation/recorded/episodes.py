"""Recorded outputs as episodes, so that styles judge them as they judge what a model of ours says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.recorded.reading import Recorded
from sod.evaluation.styles.base import Style
from sod.records import Episode, Group, Said, StopReason, Task, Trajectory, Turn

END_OF_THOUGHT = "</think>"
Reward = Callable[[Sequence[Episode]], Sequence[Trajectory]]


def task_of(problem: Problem, style: Style) -> Task:
    """The task whose prompt the style would have shown; the tests of programs stay with the problem."""
    truth = "" if problem.kind == "code" else style.truth(problem)
    extra = {} if problem.difficulty is None else {"difficulty": problem.difficulty}
    return Task(problem.id, style.prompt(problem), truth, problem.benchmark, extra)


def judged(tasks: Sequence[Task], recorded: Recorded, reward: Reward) -> list[Group]:
    """The outputs of each task, judged all together; those whose judge failed stand apart."""
    episodes = [
        Episode(task, _trajectory(task.id, sample, text))
        for task in tasks
        for sample, text in enumerate(recorded.outputs[task.id])
    ]
    found: dict[str, list[Trajectory]] = {task.id: [] for task in tasks}
    for trajectory in reward(episodes):
        found[trajectory.task_id].append(trajectory)
    return [_group(name, mine) for name, mine in found.items()]


def _trajectory(task: str, sample: int, text: str) -> Trajectory:
    """One turn without tokens: what is recorded is text. What stands before the end of a thought is not said."""
    thinking, mark, answer = text.rpartition(END_OF_THOUGHT)
    said = Said(thinking, answer) if mark else Said(answer=text)
    turn = Turn(1, 0, 0, text, said=said)
    return Trajectory(task, sample, 0, (), (), (), (turn,), StopReason.ANSWER)


def _group(name: str, trajectories: Sequence[Trajectory]) -> Group:
    whole = tuple(one for one in trajectories if one.fault is None)
    faulted = tuple(one for one in trajectories if one.fault is not None)
    return Group(name, whole, faulted)
