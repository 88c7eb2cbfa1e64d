"""A model on held-out tasks, for `sod eval` and `sod.evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.front.passed import NOTHING, Passed
from sod.front.recipes import Given, given_recipe, runs_own
from sod.front.tracking import trackers
from sod.recipe import Notice, Recipe, code_in, read_yaml, resolved
from sod.report.console import progress
from sod.runlog import RunLog

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated
    from sod.evaluation.runner import Evaluation

NOTHING_MORE: Mapping[str, Any] = {}
TEACHERS = ("teacher", "teachers")
"""Sections that an evaluation does not read."""
ENVIRONMENT = "environment"
"""What an evaluation is called that plays an environment's own tasks."""


def asked_changes(k: int | None, tasks: int | None, device: str | None, overrides: Sequence[str]) -> list[str]:
    """The overrides that the arguments of an evaluation stand for, and those given. Raises SodError for a device."""
    from sod.models.device import find_device

    asked = {"evaluation.k": k, "evaluation.tasks": tasks}
    changes = [f"{key}={value}" for key, value in asked.items() if value is not None] + list(overrides)
    if device is not None:
        find_device(device, "--device")
        changes.append(f"student.device={device}")
    return changes


def recipe_of(
    about: Evaluated,
    recipe: Given | None,
    changes: Sequence[str],
    allow_code: bool,
    notice: Notice,
    passed: Passed = NOTHING,
) -> Recipe:
    """The recipe that a model is evaluated as: the one given, its run's, or a plain one."""
    changes = [f"student.path={json.dumps(about.path)}", *changes]  # quoted: a path is not YAML
    if recipe is not None:
        given = recipe.model_dump(exclude_unset=True) if isinstance(recipe, Recipe) else recipe
        return given_recipe(given, changes, passed, notice)
    if about.run is not None:
        from sod.build.own_code import tell_changed

        kept = str(about.run / "recipe.yaml")
        again = f'sod.evaluate("{about.path}", data, {{}})'
        spec = runs_own(read_yaml(kept), changes, kept, allow_code, notice, again, passed, TEACHERS)
        if list(code_in(spec)):
            tell_changed(RunLog.open(about.run).manifest(), spec, about.run, notice)
        return spec
    plain = {"student": {"path": about.path, "dtype": "bfloat16"}, "evaluation": {"tasks": 0}}
    return given_recipe(plain, changes, passed, notice)


def evaluated(spec: Recipe, about: Evaluated, data: str, target: Path, notice: Notice) -> Evaluation:
    """Evaluate, with a progress bar, and pass the figures on to the recipe's trackers."""
    from sod.build.evaluation import evaluate_model

    run_name = target.name if about.run is None else f"{about.name}-{target.name}"
    shared = target.parent if about.run is None else about.run.absolute().parent
    with (
        trackers(spec, run_name, target, shared) as opened,
        progress(f"evaluating {about.name}", total=0, unit="tasks") as bar,
    ):
        task = bar.task_ids[0]
        result = evaluate_model(
            spec, data, notice, on_progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
        for tracker in opened:
            tracker.log(result.metrics(), about.step or 0)
    return result


def write(
    target: Path, spec: Recipe, model: str, data: str, result: Evaluation, more: Mapping[str, Any] = NOTHING_MORE
) -> None:
    """Write the figures, where they come from, `more` that is to be known of them, and every episode."""
    from sod.runlog import trajectory_row, write_evaluation

    named = data or ENVIRONMENT
    figures: dict[str, Any] = {**result.as_dict(), "model": model, "data": named, "recipe": resolved(spec), **more}
    by_id = {task.id: task for task in result.played}
    write_evaluation(target, figures, (trajectory_row(t, by_id[t.task_id], result.tools) for t in result.trajectories))
