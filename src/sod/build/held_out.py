"""The evaluations during a run: one set of validation tasks or several named ones, each with figures of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from sod.build.data import loaded_tasks
from sod.build.evaluation import chosen_tasks, run_evaluation
from sod.build.proving import Proof
from sod.models.memory import naming_phase
from sod.recipe import Notice, Recipe
from sod.recipe.keys.data import validation_key
from sod.records import Task
from sod.tasks.sources import Source, shown
from sod.training.step import Run

Sets = Mapping[str, Sequence[Task]]
"""Tasks by the name of their set; the only one has none."""


def loaded_sets(recipe: Recipe, notice: Notice) -> dict[str, list[Task]]:
    """The tasks of each set of `data.validation`; an environment has some of its own where none is named.

    Raises SodError as `loaded_tasks`.
    """
    sets: Mapping[str, Source | None] = recipe.data.validation_sets or {"": None}
    return {name: loaded_tasks(named, validation_key(name), recipe, notice) for name, named in sets.items()}


def proven_set(name: str, tasks: Sequence[Task], proof: Proof, recipe: Recipe, notice: Notice) -> list[Task]:
    """What is played of a set: `evaluation.tasks` of it, but for those whose tests are at fault."""
    source = shown(recipe.data.validation_sets.get(name, ()))
    return proof.tasks(chosen_tasks(recipe, tasks), validation_key(name), source, recipe, notice)


def all_of(sets: Sets) -> list[Task]:
    """The tasks of every set."""
    return [task for tasks in sets.values() for task in tasks]


def held_out_figures(run: Run, sets: Sets, step: int) -> dict[str, float]:
    """The figures of an evaluation after step `step`, as metrics: `eval/avg_at_k` and so on, of the only set.

    Of named sets they are means over the sets, beside `eval/NAME/avg_at_k` of each.
    """
    figures: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for name, tasks in sets.items():
        with naming_phase("an evaluation"):
            result = run_evaluation(run.recipe, run.rollout, tasks)
        for figure, estimate in result.estimates.items():
            found.setdefault(figure, []).append(estimate.value)
            if name:
                figures[f"eval/{name}/{figure}"] = estimate.value
    return {f"eval/{figure}": fmean(values) for figure, values in found.items()} | figures
