"""An evaluation that is kept: where it stands, what of it is played already, and how it goes on.

The same command goes on with what a kill interrupted, gives the figures of what is finished, and plays only the
samples beyond those that are there where it asks for more.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from sod.build.evaluation import Prepared, is_served
from sod.build.fingerprints import model_fingerprint, settings_of, tasks_fingerprint
from sod.evaluation.blocks import Block, block_size, blocks_of
from sod.evaluation.hints import Hints
from sod.evaluation.runner import Evaluation, Votes, summed
from sod.evaluation.stored import (
    Episode,
    Plan,
    append_groups,
    grouped,
    read_episodes,
    read_plan,
    read_votes,
    write_finished,
    write_plan,
)
from sod.models.device import find_device
from sod.recipe import Notice
from sod.records import Group, SodError, Trajectory
from sod.runlog import locked, trajectory_row
from sod.runlog.lock import LOCK


@final
@dataclass(frozen=True)
class Place:
    """Where an evaluation goes: into `directory` and no other where it is `exact`, else there or beside it.

    `fewer` are the directories of evaluations of the same with fewer samples, the most first.
    """

    directory: Path
    exact: bool
    fewer: Sequence[Path] = ()


@final
@dataclass
class Kept:
    """An evaluation in its directory, which no other process writes into; `episodes` are those that it has."""

    directory: Path
    plan: Plan
    prepared: Prepared
    episodes: dict[Episode, Trajectory] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its figures are there."""
        return self.plan.finished

    def missing(self) -> list[Block]:
        """The blocks of which an episode is not there: they are played again as a whole."""
        held = {*self.episodes, *self.plan.faulted}
        tasks = self.prepared.tasks
        blocks = blocks_of(len(tasks), self.plan.stages, self.plan.block)
        return [block for block in blocks if not held.issuperset(_episodes_of(block, self.prepared))]

    def add(self, block: Block, groups: Sequence[Group]) -> None:
        """Write a block's episodes down."""
        tasks = self.prepared.tasks[block.first_task : block.last_task]
        append_groups(self.directory, tasks, groups, self.prepared.chat.tools)
        for group in groups:
            for trajectory in (*group.trajectories, *group.faulted):
                self.episodes[trajectory.task_id, trajectory.sample] = trajectory

    def done(self) -> int:
        """How many tasks have all of their samples."""
        held = {*self.episodes, *self.plan.faulted}
        samples = range(self.plan.k)
        return sum(all((task.id, sample) in held for sample in samples) for task in self.prepared.tasks)

    def result(self, votes_of: Votes, notice: Notice) -> Evaluation:
        """The figures of its episodes; `notice` hears what stands out in them."""
        tasks = self.prepared.tasks
        groups = grouped(tasks, self.plan.k, self.episodes, self.plan.faulted)
        Hints(self.prepared.recipe.reward, notice, compares=False).look(tasks, groups)
        found = summed(tasks, groups, self.plan.k, votes_of, self.prepared.by)
        return replace(found, tools=self.prepared.chat.tools)

    def stored_result(self, notice: Notice) -> Evaluation:
        """The figures of a finished one."""
        votes = read_votes(self.directory)

        def votes_of(groups: Sequence[Sequence[Any]]) -> list[list[str | None]]:
            return [[votes.get((one.trajectory.task_id, one.trajectory.sample)) for one in group] for group in groups]

        return self.result(votes_of, notice)

    def finish(self, result: Evaluation, figures: dict[str, Any]) -> None:
        """Write `figures` and the episodes of `result` as what was evaluated."""
        by_id = {task.id: task for task in self.prepared.tasks}
        rows = (
            trajectory_row(trajectory, by_id[trajectory.task_id], result.tools) | {"vote": vote}
            for trajectory, vote in zip(result.trajectories, result.votes, strict=True)
        )
        faulted = {key for key, trajectory in self.episodes.items() if trajectory.fault is not None}
        write_finished(self.directory, self.plan, figures, rows, sorted({*faulted, *self.plan.faulted}))


def plan_of(prepared: Prepared, name: str, data: str, step: int | None) -> Plan:
    """What is evaluated of a model called `name`, on tasks called `data`. Raises SodError for two tasks of one id."""
    ids = [task.id for task in prepared.tasks]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise SodError(f"{data}: two tasks are called {twice}; give each an id of its own")
    recipe = prepared.recipe
    wide = is_served(recipe) or find_device(recipe.student.device, "student.device").type == "cuda"
    return Plan(
        model=model_fingerprint(prepared.path, name),
        tasks=tasks_fingerprint(prepared.tasks, data),
        settings=settings_of(recipe),
        stages=(prepared.k,),
        block=block_size(len(ids) * prepared.k, wide),
        step=step,
    )


@contextmanager
def kept_evaluation(place: Place, prepared: Prepared, plan: Plan, notice: Notice) -> Iterator[Kept]:
    """The evaluation of `plan`, new or as it stands, held against other processes.

    Where nothing was played in a directory that this made, it is gone afterwards. Raises SodError where the directory
    holds something else, and where another process writes there.
    """
    directory, source = _chosen(place, plan, notice)
    made = not directory.exists()
    with locked(directory):
        try:
            yield _opened(directory, source, prepared, plan, notice)
        except BaseException:
            if read_episodes(directory):
                notice(f"{directory}: keeps what was played; the same command goes on from there")
            elif made:
                _clear(directory)
            raise


def _clear(directory: Path) -> None:
    """Remove what is in a directory, but for the lock, which is removed with it."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def unfinished(directory: Path) -> Plan | None:
    """The plan of an evaluation that was begun there, not finished, and is nobody's now."""
    plan = read_plan(directory) if directory.is_dir() else None
    if plan is None or plan.finished:
        return None
    try:
        with locked(directory):
            return plan
    except SodError:  # another process plays it
        return None


def _opened(directory: Path, source: Path | None, prepared: Prepared, plan: Plan, notice: Notice) -> Kept:
    found = read_plan(directory)  # once more: whoever wrote there may have gone on meanwhile
    if found is None and source is not None:
        found = _taken_over(directory, source, plan, notice)
    if found is None:
        write_plan(directory, plan)
        return Kept(directory, plan, prepared)
    if found.k < plan.k:
        notice(f"{directory}: {found.k} of {plan.k} samples of each task are there; the others are played")
        found = found.of_more(plan.k)
        write_plan(directory, found)
    episodes = read_episodes(directory)
    kept = Kept(directory, found, prepared, episodes)
    if episodes and not found.finished:
        notice(f"{directory}: goes on; {kept.done()} of {len(prepared.tasks)} tasks are played")
    return kept


def _taken_over(directory: Path, source: Path, plan: Plan, notice: Notice) -> Plan:
    """The samples that another evaluation of the same has, and its plan."""
    with locked(source):
        found = read_plan(source)
        assert found is not None
        partial = directory / ".generations.partial"
        shutil.copyfile(source / "generations.jsonl", partial)
        os.replace(partial, directory / "generations.jsonl")
    notice(f"{source}: its {found.k} samples of each task are taken over")
    extended = found.of_more(plan.k)
    write_plan(directory, extended)
    return extended


def _chosen(place: Place, plan: Plan, notice: Notice) -> tuple[Path, Path | None]:
    """The directory that a plan goes to, and one whose fewer samples it takes over."""
    if place.exact:
        refuse_unlike(place.directory, plan)
        return place.directory, None
    left: tuple[Path, str] | None = None
    free = place.directory
    for number in itertools.count(1):
        free = place.directory if number == 1 else place.directory.with_name(f"{place.directory.name}-{number}")
        if not free.exists():
            break
        found = read_plan(free) if free.is_dir() else None
        differs = None if found is None else found.differs(plan)
        if found is not None and differs is None and found.k == plan.k:
            return free, None
        if found is not None and differs is not None and unfinished(free) is not None:
            left = (free, differs)
    if left is not None:
        raise SodError(
            f"{left[0]}: was begun and not finished with another {left[1]}; give what it was begun with to go on, "
            "delete it, or name another --out"
        )
    return free, _with_fewer(place.fewer, plan)


def _with_fewer(directories: Sequence[Path], plan: Plan) -> Path | None:
    for directory in directories:
        found = read_plan(directory)
        if found is not None and found.finished and found.k < plan.k and found.differs(plan) is None:
            return directory
    return None


def refuse_unlike(directory: Path, plan: Plan) -> None:
    """Raises SodError where a directory that was named holds what this plan does not go on with."""
    if directory.exists() and not directory.is_dir():
        raise SodError(f"{directory}: is a file; name a directory with --out")
    found = read_plan(directory)
    if found is None:
        if directory.exists() and any(entry.name != LOCK for entry in directory.iterdir()):
            raise SodError(f"{directory}: not empty, and nothing is overwritten; choose another --out")
        return
    differs = found.differs(plan)
    if differs is not None:
        raise SodError(f"{directory}: holds an evaluation with another {differs}; choose another --out")
    if found.k > plan.k:
        raise SodError(f"{directory}: holds {found.k} samples of each task; give -k {found.k}, or another --out")


def directories_with_fewer(places: Mapping[int, Path]) -> list[Path]:
    """The directories that evaluations of fewer samples stand in, the most samples first.

    `places` are where they go by their number of samples; numbered ones beside those count.
    """
    if not places:
        return []
    parent = next(iter(places.values())).parent
    beside = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    found = []
    for k in sorted(places, reverse=True):
        pattern = re.compile(re.escape(places[k].name) + r"(-\d+)?")
        found += [parent / name for name in beside if pattern.fullmatch(name)]
    return found


def _episodes_of(block: Block, prepared: Prepared) -> list[Episode]:
    tasks = prepared.tasks[block.first_task : block.last_task]
    return [(task.id, sample) for task in tasks for sample in range(block.first_sample, block.last_sample)]
