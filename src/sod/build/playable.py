"""A world to be played without a model: by a name of the catalogue, an import path, or the recipe that names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from sod.build.worlds import make_worlds, own_tasks
from sod.environments.worlds import Worlds
from sod.recipe import EnvironmentSpec, Notice, apply_overrides, parse_recipe
from sod.records import SodError, Task

Split = Literal["train", "validation"]

NO_MODEL = "none"
"""The student of a recipe that nobody gave."""
SECTION = "environment."
HERE = "the command line"


@final
@dataclass(frozen=True)
class Playable:
    """A world and its tasks; `spec` is the recipe's section of it."""

    spec: EnvironmentSpec
    tasks: Sequence[Task]

    def first(self, count: int | None) -> Playable:
        """The same with its first `count` tasks, or as many as there are; all for None."""
        return self if count is None else Playable(self.spec, self.tasks[:count])

    @contextmanager
    def worlds(self) -> Iterator[Worlds]:
        """The runner of its environments, closed in the end."""
        worlds = make_worlds(self.spec)
        try:
            yield worlds
        finally:
            worlds.close()


def playable(name: str, overrides: Sequence[str], split: Split, notice: Notice) -> Playable:
    """What `name` stands for, with its arguments or the recipe's keys as `KEY=VALUE`, and the tasks of a split.

    Raises SodError where there is no such world, it cannot be made, or it has no tasks.
    """
    found = _of_recipe if Path(name).suffix in (".yaml", ".yml") else _of_world
    world = found(name, overrides, split, notice)
    if not world.tasks:
        raise SodError(f"{name}: no tasks in its split {split}")
    return world


def task_named(world: Playable, wanted: str, name: str) -> Task:
    """The task of an id, else of a number from 0. Raises SodError where there is none."""
    by_id = {task.id: task for task in world.tasks}
    if wanted in by_id:
        return by_id[wanted]
    if wanted.isdecimal() and int(wanted) < len(world.tasks):
        return world.tasks[int(wanted)]
    raise SodError(
        f"--task {wanted}: {name} has no such task; give a number from 0 to {len(world.tasks) - 1}, or an id such as "
        f"{world.tasks[0].id}"
    )


def _of_recipe(path: str, overrides: Sequence[str], split: Split, notice: Notice) -> Playable:
    from sod.build.environment import world_tasks  # both import the models' libraries, which take seconds
    from sod.build.recipe import read_recipe

    recipe = read_recipe(path, overrides, notice)
    spec = recipe.environment
    if spec is None:
        raise SodError(f"{path}: this recipe has no environment; name one that has, or a world (`sod env list`)")
    named = recipe.data.train if split == "train" else recipe.data.validation_tasks
    return Playable(spec, world_tasks(named, f"data.{split}", recipe, spec, notice))


def _of_world(name: str, overrides: Sequence[str], split: Split, notice: Notice) -> Playable:
    arguments = [override if override.startswith(SECTION) else f"{SECTION}{override}" for override in overrides]
    content = apply_overrides({"student": {"path": NO_MODEL}, "environment": {"call": name}}, arguments, HERE, notice)
    spec = parse_recipe(content, HERE).environment
    assert spec is not None
    return Playable(spec, own_tasks(spec, 0, split))
