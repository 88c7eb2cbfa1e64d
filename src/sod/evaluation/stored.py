"""The directory of an evaluation: what it is of, and its episodes as they are played.

    plan.json          what is evaluated, on what and how: the evaluation goes on with the same alone
    generations.jsonl  a row per episode (`runlog.trajectory_row`), appended block by block; rewritten in order at the
                       end, with the answer that each votes for
    evaluation.json    the figures, written last

A process may be killed at any time: an episode is there when its row is whole, a later row of an episode counts, and
`finished` in the plan says whether the figures are those of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from sod.records import Fault, FaultKind, Group, SodError, StopReason, Task, Trajectory
from sod.runlog import differences, trajectory_of, trajectory_row, write_evaluation, write_json_atomic, writing
from sod.runlog.files import json_text, read_json, read_lines

PLAN, GENERATIONS, FIGURES = "plan.json", "generations.jsonl", "evaluation.json"
FORMAT = 1
Episode = tuple[str, int]
"""The task and the number of a sample."""


@final
@dataclass(frozen=True)
class Plan:
    """What an evaluation is of. `model`, `tasks` and `settings` say what is computed, as plain values.

    `stages` are as of `blocks_of`, `block` the episodes of a block. `step` is the checkpoint's, None for other models.
    `faulted` are the episodes of a finished one that were set apart.
    """

    model: Mapping[str, Any]
    tasks: Mapping[str, Any]
    settings: Mapping[str, Any]
    stages: tuple[int, ...]
    block: int
    step: int | None = None
    finished: bool = False
    faulted: tuple[Episode, ...] = ()
    format: int = field(default=FORMAT)

    @property
    def k(self) -> int:
        """Samples of a task."""
        return self.stages[-1]

    def differs(self, other: Plan) -> str | None:
        """The first thing in which another one computes something else, in words; None where it does not."""
        for name in ("model", "tasks"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine["sha256"] != theirs["sha256"]:
                return f"{name}: {_in_words(mine)} there and {_in_words(theirs)} here"
        found = differences(self.settings, other.settings)
        if not found:
            return None
        key, mine, theirs = found[0]
        return f"{key}: {json.dumps(mine)} there and {json.dumps(theirs)} here"

    def of_more(self, k: int) -> Plan:
        """The plan with `k` samples of a task, more than it has."""
        return replace(self, stages=(*self.stages, k), finished=False)


def read_plan(directory: Path) -> Plan | None:
    """The plan of an evaluation; None where there is none. Raises SodError for one that is broken, or of later."""
    path = directory / PLAN
    if not path.is_file():
        return None
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise SodError(f"{path}: format {content.get('format')!r} is of another version of sod; name another --out")
    try:
        content["stages"] = tuple(content["stages"])
        content["faulted"] = tuple((str(task), int(sample)) for task, sample in content["faulted"])
        return Plan(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise SodError(f"{path}: not the plan of an evaluation ({error}); name another --out") from None


def write_plan(directory: Path, plan: Plan) -> None:
    """Write it, or replace what is there. Raises SodError."""
    write_json_atomic(directory / PLAN, asdict(plan))


def append_groups(
    directory: Path, tasks: Sequence[Task], groups: Sequence[Group], tools: Sequence[Mapping[str, Any]] | None
) -> None:
    """Append the episodes of `groups`, which are those of `tasks` in order. Raises SodError."""
    rows = [
        trajectory_row(trajectory, task, tools)
        for task, group in zip(tasks, groups, strict=True)
        for trajectory in (*group.trajectories, *group.faulted)
    ]
    text = "".join(json_text(row, compact=True) + "\n" for row in rows).encode()
    path = directory / GENERATIONS
    with writing(path), path.open("ab") as file:
        if file.tell():
            file.write(b"\n")  # closes off a line that a kill cut short; empty lines are nothing
        file.write(text)


def read_episodes(directory: Path) -> dict[Episode, Trajectory]:
    """The episodes that are whole there, of each the latest."""
    path = directory / GENERATIONS
    if not path.exists():
        return {}
    found = {}
    with path.open("rb") as file:
        for line in file:
            trajectory = _whole(line)
            if trajectory is not None:
                found[trajectory.task_id, trajectory.sample] = trajectory
    return found


def read_votes(directory: Path) -> dict[Episode, str | None]:
    """What the episodes of a finished evaluation vote for. Raises SodError."""
    return {(row["task_id"], row["sample"]): row.get("vote") for _, row in read_lines(directory / GENERATIONS)}


def grouped(
    tasks: Sequence[Task], k: int, episodes: Mapping[Episode, Trajectory], faulted: Sequence[Episode] = ()
) -> list[Group]:
    """The first `k` samples of every task; those that faulted apart, also the `faulted` ones that are gone."""
    gone = {key: _faulted(*key) for key in faulted}
    found = {**gone, **episodes}
    groups = []
    for task in tasks:
        held = [found[task.id, sample] for sample in range(k) if (task.id, sample) in found]
        usable = tuple(trajectory for trajectory in held if trajectory.fault is None)
        apart = tuple(trajectory for trajectory in held if trajectory.fault is not None)
        groups.append(Group(task.id, usable, apart))
    return groups


def write_finished(
    directory: Path,
    plan: Plan,
    figures: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    faulted: Sequence[Episode],
) -> None:
    """Write the figures, the episodes in order, and that they are all there. Raises SodError."""
    plan = replace(plan, faulted=tuple(faulted))
    write_plan(directory, plan)  # before their rows go
    write_evaluation(directory, figures, rows)
    write_plan(directory, replace(plan, finished=True))


def read_figures(directory: Path) -> dict[str, Any]:
    """The figures of a finished evaluation. Raises SodError where there are none."""
    path = directory / FIGURES
    if not path.is_file():
        raise SodError(f"{directory}: not a finished evaluation ({FIGURES} is missing); name one that `sod eval` wrote")
    return read_json(path)


def _faulted(task_id: str, sample: int) -> Trajectory:
    """What stands for an episode that was set apart before, of which nothing was kept."""
    fault = Fault(FaultKind.TOOL, "set apart before")
    return Trajectory(task_id, sample, 0, (), (), (), (), StopReason.FAULT, fault=fault)


def _whole(line: bytes) -> Trajectory | None:
    """The trajectory of a line; None for one that is empty or was cut."""
    try:
        return trajectory_of(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


def _in_words(thing: Mapping[str, Any]) -> str:
    """What a model or a set of tasks is called, and the head of its hash."""
    return f"{thing['name']} ({str(thing['sha256'])[:8]})"
