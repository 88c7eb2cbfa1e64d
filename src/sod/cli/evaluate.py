"""`sod eval`: a model on held-out tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sod.cli.options import AllowCodeOption, Overrides, runs_own
from sod.cli.tracking import trackers
from sod.cli.unread import refuse_unread
from sod.recipe import Recipe, apply_overrides, parse_recipe, read_yaml, resolved
from sod.records import SodError
from sod.report.console import evaluation_table, notice, out, progress

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated
    from sod.evaluation.runner import Evaluation

EXAMPLES = """Examples:

- `sod eval runs/quickstart/sod --data runs/quickstart/data/test.parquet`
- `sod eval runs/quickstart/sod/checkpoints/step-000040 --data tasks.jsonl -k 8 --tasks 100`"""

PANEL = "What is written where"
ENVIRONMENT = "environment"
"""Stands for the tasks that an environment has of its own."""


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, a checkpoint of one, model directory or hub id."),
    ],
    overrides: Overrides = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="RL tasks: a file, a folder, a glob, or owner/name:config@split; an environment may have its own.",
        ),
    ] = "",
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Samples per task; default evaluation.k of the recipe.")
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            "--tasks",
            min=0,
            help="A seeded subset of so many tasks; 0: all; default evaluation.tasks of the recipe, all without one.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N; short for student.device=...")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe for a model that is not of a run.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            rich_help_panel=PANEL,
            help="An empty directory for the JSON and the generations; default RUN/evaluations/DATA-TASKS-K-STEP, "
            "for other models runs/evaluations/MODEL-DATA-TASKS-K, with -2, -3, ... where it is taken.",
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Evaluate a model on held-out tasks: avg@k, pass@k and maj@k with 95% intervals.

    A run's model is evaluated as the run's own recipe says (tools, chat template, samples, trackers); a run means its
    newest checkpoint. The recipe's trackers get the figures too, at the checkpoint's step.
    """
    from sod.build.evaluated import claimed, find_evaluated
    from sod.models.device import find_device

    refuse_unread("eval", overrides or [])
    about = find_evaluated(model, notice)
    asked = {"k": k, "tasks": tasks}
    changes = [f"evaluation.{key}={value}" for key, value in asked.items() if value is not None]
    changes += overrides or []
    if device is not None:
        find_device(device, "--device")
        changes.append(f"student.device={device}")
    spec = recipe_of(about, recipe, changes, allow_code)
    if not data and spec.environment is None:
        raise SodError("--data is missing: name a file of RL tasks")
    if spec.evaluation.tasks and tasks is None:
        notice(f"evaluation.tasks={spec.evaluation.tasks}: so many tasks at most are evaluated; --tasks 0 takes all")
    with claimed(to or about.place(data or ENVIRONMENT, spec.evaluation), exact=to is not None) as target:
        result = _evaluated(spec, about, data, target)
        _write(target, spec, model, data, result)
    title = f"{Path(data or ENVIRONMENT).name}, {result.tasks} tasks" + (
        f", step {about.step}" if about.step is not None else ""
    )
    out.print(evaluation_table({about.name: result.as_dict()}, title))
    out.print(f"written to {target}", markup=False)


def _evaluated(spec: Recipe, about: Evaluated, data: str, target: Path) -> Evaluation:
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


def _write(target: Path, spec: Recipe, model: str, data: str, result: Evaluation) -> None:
    from sod.runlog import trajectory_row, write_evaluation

    figures = {**result.as_dict(), "model": model, "data": data or ENVIRONMENT, "recipe": resolved(spec)}
    by_id = {task.id: task for task in result.played}
    write_evaluation(target, figures, (trajectory_row(t, by_id[t.task_id], result.tools) for t in result.trajectories))


def recipe_of(about: Evaluated, recipe: str | None, changes: list[str], allow_code: bool) -> Recipe:
    """The recipe that a model is evaluated as: the one given, its run's, or a plain one."""
    changes = [f"student.path={json.dumps(about.path)}", *changes]  # quoted: a path is not YAML
    if recipe is not None:
        from sod.build.recipe import read_recipe

        return read_recipe(recipe, changes, notice)
    if about.run is not None:
        kept = str(about.run / "recipe.yaml")
        return runs_own(read_yaml(kept), changes, kept, allow_code)
    plain = {"student": {"path": about.path, "dtype": "bfloat16"}, "evaluation": {"tasks": 0}}
    return parse_recipe(apply_overrides(plain, changes, about.path, notice), about.path)
