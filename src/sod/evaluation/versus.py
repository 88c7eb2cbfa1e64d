"""Two evaluations on disk beside each other, paired by problem (`sod eval --compare A B`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from sod.evaluation.metrics import avg_per_problem, maj_per_problem, pass_per_problem
from sod.evaluation.paired import Difference, difference
from sod.evaluation.stored import GENERATIONS, read_figures, read_plan
from sod.records import SodError
from sod.runlog import differences, read_trajectory_rows

SETTINGS = ("evaluation", "rollout", "tools", "chat", "reward")
"""Sections of recipes in which the two may differ, which is told."""
TOLD = 3


@final
@dataclass(frozen=True)
class Problem:
    """A problem's share of right samples in the first evaluation and in the second."""

    id: str
    first: float
    second: float


@final
@dataclass(frozen=True)
class Versus:
    """Two evaluations of the same problems. `figures` are by name, as of an evaluation.

    `problems` are those that both have with all samples, `left_out` how many are not. `remarks` say in what the two
    were played differently.
    """

    k: int
    problems: tuple[Problem, ...]
    left_out: int
    figures: Mapping[str, Difference]
    remarks: tuple[str, ...]

    @property
    def only_first(self) -> list[Problem]:
        """The problems that some sample of the first solves and none of the second, the surest first."""
        return sorted((one for one in self.problems if one.first and not one.second), key=_by_first)

    @property
    def only_second(self) -> list[Problem]:
        """As `only_first`, of the second."""
        return sorted((one for one in self.problems if one.second and not one.first), key=_by_second)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "k": self.k,
            "problems": len(self.problems),
            "left_out": self.left_out,
            "figures": {name: asdict(found) for name, found in self.figures.items()},
            "remarks": list(self.remarks),
            "only_first": [one.id for one in self.only_first],
            "only_second": [one.id for one in self.only_second],
            "moved": {one.id: [one.first, one.second] for one in self.problems if one.first != one.second},
        }


def _by_first(problem: Problem) -> tuple[float, str]:
    return -problem.first, problem.id


def _by_second(problem: Problem) -> tuple[float, str]:
    return -problem.second, problem.id


@final
@dataclass(frozen=True)
class _Side:
    """One of the two: rows by task and sample."""

    directory: Path
    figures: Mapping[str, Any]
    tasks: Mapping[str, Mapping[int, Mapping[str, Any]]]

    @property
    def k(self) -> int:
        return int(self.figures["k"])


def compared(first: Path, second: Path) -> Versus:
    """Two finished evaluations, paired by problem.

    Raises SodError for what is no finished evaluation, and for two of other data, style or number of samples.
    """
    one, other = _read(first), _read(second)
    _refuse_unlike(one, other)
    both = [task for task in one.tasks if len(one.tasks[task]) == len(other.tasks.get(task, ())) == one.k]
    if not both:
        raise SodError(f"{first} and {second}: no problem has all of its samples in both; evaluate again")
    values = {side.directory: _values(side, both) for side in (one, other)}
    pairs = {name: difference(row, values[other.directory][name]) for name, row in values[one.directory].items()}
    averages = (values[one.directory]["avg_at_k"], values[other.directory]["avg_at_k"])
    problems = tuple(Problem(*found) for found in zip(both, *averages, strict=True))
    left_out = len({*one.tasks, *other.tasks}) - len(both)
    return Versus(one.k, problems, left_out, pairs, tuple(_remarks(one, other)))


def _read(directory: Path) -> _Side:
    figures = read_figures(directory)
    plan = read_plan(directory)
    if plan is not None and not plan.finished:
        raise SodError(f"{directory}: this evaluation is not finished; give its command again, which goes on with it")
    if not (directory / GENERATIONS).is_file():
        raise SodError(f"{directory}: {GENERATIONS} is missing, by which problems are paired; evaluate again")
    tasks: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in read_trajectory_rows(directory / GENERATIONS):
        tasks.setdefault(row["task_id"], {})[row["sample"]] = row
    return _Side(directory, figures, tasks)


def _refuse_unlike(one: _Side, other: _Side) -> None:
    where = f"{one.directory} and {other.directory}"
    if one.directory.resolve() == other.directory.resolve():
        raise SodError(f"{one.directory}: is compared with itself; name two evaluations")
    styles = [side.figures.get("style", {}).get("name", "that of the data") for side in (one, other)]
    if styles[0] != styles[1]:
        raise SodError(f"{where}: were asked in other styles ({styles[0]}, {styles[1]}); evaluate both in one --style")
    if one.k != other.k:
        raise SodError(
            f"{where}: have {one.k} and {other.k} samples of each task; evaluate the smaller one again with "
            f"-k {max(one.k, other.k)}, which plays only what is missing"
        )
    for task in one.tasks.keys() & other.tasks.keys():
        if _asked(one, task) != _asked(other, task):
            raise SodError(f"{where}: task {task} is not the same in both; compare evaluations of the same data")
    lost = [len(side.tasks) for side in (one, other)]
    alone = one.tasks.keys() ^ other.tasks.keys()
    faults = sum(float(side.figures.get("faults", 0.0)) for side in (one, other))
    if len(alone) > faults:  # more than what faults can have cost either
        raise SodError(
            f"{where}: are of other tasks ({len(alone)} of {lost[0]} and {lost[1]} are in one alone); compare "
            "evaluations of the same data"
        )


def _asked(side: _Side, task: str) -> str:
    """What a task asks and what is right, where its rows say so."""
    row = next(iter(side.tasks[task].values()))
    return json.dumps([row["truths"], None if row["environment"] else row["prompt"]], sort_keys=True)


def _values(side: _Side, tasks: list[str]) -> dict[str, list[float]]:
    """Each figure of each of the tasks."""
    rows = [[side.tasks[task][sample] for sample in sorted(side.tasks[task])] for task in tasks]
    correct = [[float(row["correct"]) for row in held] for held in rows]
    votes = [[row.get("vote", row["answer"]) for row in held] for held in rows]
    return {
        "avg_at_k": avg_per_problem(correct),
        "pass_at_k": pass_per_problem(correct, side.k),
        "maj_at_k": maj_per_problem(votes, correct),
    }


def _remarks(one: _Side, other: _Side) -> Iterator[str]:
    """In what the two were played differently."""
    mine, theirs = ({name: side.figures.get("recipe", {}).get(name) for name in SETTINGS} for side in (one, other))
    found = differences(mine, theirs)
    for key, here, there in found[:TOLD]:
        yield f"{key} is {json.dumps(here)} in the first and {json.dumps(there)} in the second"
    if len(found) > TOLD:
        yield f"{len(found) - TOLD} more keys differ"
