"""A comparison without a world: on the recipe's own student, teacher and data, or in its environment.

All seeds have the same student and teacher; a seed decides which tasks are drawn in which order, and what is sampled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sod.build.data import loaded_tasks
from sod.build.evaluation import ENVIRONMENT_TASKS
from sod.build.fitness import refuse_unfit_player
from sod.build.idle import without_idle
from sod.build.job import final_model
from sod.build.method import make_method
from sod.build.training import checked
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import MethodSpec, Recipe, StudentSpec
from sod.recipe.makers import refuse_unmade
from sod.records import SodError, Task
from sod.tasks.sources import Source, shown


@final
@dataclass(frozen=True)
class Judged:
    """Tasks to judge a model on, by the key that names them; None is an environment's own for evaluations."""

    key: str
    named: Source | None

    @property
    def shown(self) -> str:
        """What messages and tables call them."""
        return ENVIRONMENT_TASKS if self.named is None else shown(self.named)


def tuning_tasks(recipe: Recipe) -> Judged:
    """The tasks that learning rates are chosen on."""
    return Judged("data.validation", recipe.data.validation_tasks)


def judged_tasks(recipe: Recipe) -> Judged:
    """The tasks of the final figures."""
    if recipe.compare.test is None:
        return tuning_tasks(recipe)
    return Judged("compare.test", recipe.compare.test)


def also_tuned_on(recipe: Recipe) -> bool:
    """Whether the learning rates are chosen on tasks of the same source as those of the final figures."""
    same = judged_tasks(recipe).named == tuning_tasks(recipe).named
    return recipe.compare.lrs is not None and len(recipe.compare.lrs) > 1 and same


def setting_of(recipe: Recipe) -> dict[str, Any]:
    """What a report has to say of a comparison without a world."""
    return {"test": judged_tasks(recipe).shown, "also_tuned_on": also_tuned_on(recipe)}


def untrained(recipe: Recipe, name: str) -> Recipe:
    """The recipe with the model that `start` or `teacher` means as its student; `refuse_unfit_request` comes before."""
    if name == "start":
        return recipe
    teacher = recipe.local_teachers["teacher"]
    device = recipe.student.device if teacher.device == "auto" else teacher.device
    student = StudentSpec(**teacher.model_dump()).model_copy(update={"device": device})
    return recipe.model_copy(update={"student": student})


def refuse_unfit_request(recipe: Recipe, methods: Sequence[str], trained: Sequence[MethodSpec]) -> None:
    """Raises SodError for what a recipe without a world lacks for these methods, before any file is read."""
    name = recipe.name
    if "vanilla" in methods:
        raise SodError(
            f"--methods vanilla: is a model of a generated world, and {name} has none; start is student.path"
        )
    if "teacher" in methods and "teacher" not in recipe.local_teachers:
        which = "one teacher in this process" if recipe.teaching else "teacher"
        raise SodError(f"--methods teacher: the recipe has no {which} to evaluate; set teacher.path, or leave it out")
    for spec in trained:
        _refuse_lacking(recipe, make_method(spec))
    if recipe.environment is not None:
        return
    if recipe.data.train is None and any(Need.DEMONSTRATIONS not in make_method(spec).needs for spec in trained):
        raise SodError(f"{name}: data.train is not set, and there is no environment or world; name a file of tasks")
    several = recipe.compare.lrs is not None and len(recipe.compare.lrs) > 1
    if judged_tasks(recipe).named is None:
        raise SodError(
            f"{name}: there are no tasks to judge the methods on; set data.validation or compare.test to a file"
        )
    if several and trained and recipe.data.validation is None:
        raise SodError(
            f"{name}: data.validation is not set, and compare.lrs are chosen on it; set it, or a single learning rate"
        )


def _refuse_lacking(recipe: Recipe, method: Method) -> None:
    needs = method.needs
    if Need.TEACHER in needs and not recipe.teaching and not needs & SELF_TEACHER:
        raise SodError(f"--methods {method.name}: needs a teacher; set teacher.path or teacher.url, or leave it out")
    if Need.DEMONSTRATIONS in needs and recipe.data.sft is None:
        raise SodError(f"--methods {method.name}: trains on conversations; set data.sft, or leave it out")
    if method.context is not None and recipe.environment is not None:
        raise SodError(
            f"--methods {method.name}: adds to the prompts of rows, and environments have prompts of their own; leave "
            "it out"
        )


def refuse_unready(recipe: Recipe, methods: Sequence[str], trained: Sequence[MethodSpec]) -> None:
    """Everything that runs of these methods, and the evaluations after them, read before they load weights.

    Methods that ask for the same are tried once. Raises SodError for what is wrong; nothing is written.
    """
    refuse_unmade(_read_by(recipe, methods, trained))
    for name in ("start", "teacher"):
        if name in methods:
            refuse_unfit_player(final_model(untrained(recipe, name).student.path, _unheard), recipe)
    asked: dict[tuple[Any, ...], MethodSpec] = {}
    for spec in trained:
        method = make_method(spec)
        if Need.DEMONSTRATIONS not in method.needs:
            asked.setdefault((method.needs, method.context), spec)
    for spec in asked.values():
        method = make_method(spec)
        own = without_idle(recipe.model_copy(update={"method": spec}), method)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
            checked(own, method, Path(folder) / "run", False, _unheard, resources)
    played = recipe.environment is not None
    tuning, final = (
        loaded_tasks(judged.named, judged.key, recipe, _unheard) if judged.named is not None or played else []
        for judged in (tuning_tasks(recipe), judged_tasks(recipe))
    )
    if recipe.compare.test is not None and {*map(_content, final)} <= {*map(_content, tuning)}:
        raise SodError(
            f"compare.test={shown(recipe.compare.test)}: has the same tasks as data.validation; name others, or leave "
            "it out"
        )


def _content(task: Task) -> str:
    """What makes a task, whatever it is called."""
    extra = {key: value for key, value in task.extra.items() if key != "id"}
    return repr((task.prompt, task.ground_truth, task.truths, extra))


def _read_by(
    recipe: Recipe, methods: Sequence[str], trained: Sequence[MethodSpec]
) -> dict[str, str | Sequence[str] | None]:
    """The files that these methods and their evaluations read, by key."""
    needs = frozenset[Need]().union(*(make_method(spec).needs for spec in trained))
    asked = "teacher" in methods or Need.TEACHER in needs
    teachers = {f"{key}.path": spec.path for key, spec in recipe.local_teachers.items() if asked}
    return {
        "student.path": recipe.student.path,
        **teachers,
        "data.train": recipe.data.train,
        "data.sft": recipe.data.sft if Need.DEMONSTRATIONS in needs else None,
        "data.validation": recipe.data.validation_tasks,
        "compare.test": recipe.compare.test,
    }


def _unheard(text: str) -> None:
    """The cells tell it."""
