"""`sod eval`: a model on held-out tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import Overrides, changed
from sod.recipe import Recipe, apply_overrides, parse_recipe, read_yaml, resolved
from sod.records import SodError
from sod.report.console import evaluation_table, notice, out, progress


def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, model directory or hub id.")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option("--data", help="RL tasks: parquet, JSONL or hub id.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="Samples per task.")] = 4,
    tasks: Annotated[int, typer.Option("--tasks", min=0, help="A seeded subset of so many tasks; 0: all.")] = 0,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe for a model that is not a run.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Directory for the JSON and the generations.")] = None,
) -> None:
    """Evaluate: avg@k, pass@k and maj@k with 95% intervals."""
    from sod.build.evaluation import evaluate_model
    from sod.runlog import trajectory_row, write_evaluation

    if not data:
        raise SodError("--data is missing: name a file of RL tasks")
    changes = [f"evaluation.k={k}", f"evaluation.tasks={tasks}", *(overrides or [])]
    spec = _evaluation_recipe(model, recipe, changes)
    target = to or Path("runs") / "evaluations" / f"{Path(model).name}-{Path(data).stem}-k{k}"
    with progress(f"evaluating {model}", total=0, unit="tasks") as bar:
        task = bar.task_ids[0]
        result = evaluate_model(
            spec, data, notice, on_progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    figures = {**result.as_dict(), "model": model, "data": data, "recipe": resolved(spec)}
    by_id = {task.id: task for task in result.played}
    write_evaluation(target, figures, (trajectory_row(t, by_id[t.task_id], result.tools) for t in result.trajectories))
    out.print(evaluation_table({Path(model).name: result.as_dict()}, f"{Path(data).name}, {result.tasks} tasks"))
    out.print(f"written to {target}", markup=False)


def _evaluation_recipe(model: str, recipe: str | None, changes: list[str]) -> Recipe:
    changes = [f"student.path={json.dumps(model)}", *changes]  # quoted: a path is not YAML
    if recipe is not None:
        from sod.build.recipe import read_recipe

        return read_recipe(recipe, changes, notice)
    kept = Path(model) / "recipe.yaml"
    if kept.is_file():
        return changed(parse_recipe(read_yaml(str(kept)), str(kept)), changes, str(kept))
    plain = {"student": {"path": model, "dtype": "bfloat16"}}
    return parse_recipe(apply_overrides(plain, changes, model, notice), model)
