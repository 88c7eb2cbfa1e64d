"""`sod teacher`: what a teacher does apart from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import AllowCodeOption, Overrides
from sod.front.evaluating import recipe_of
from sod.front.passed import NOTHING
from sod.front.recipes import given_recipe
from sod.records import SodError
from sod.report.console import facts, notice, progress

teacher_app = typer.Typer(no_args_is_help=True, help="What a teacher does apart from a run.")

SAMPLING = ("engine", "launch")
"""Sections of a run's recipe that scoring has no use for."""

SCORE_EXAMPLES = """Examples:

- `sod teacher score runs/first --out scores.parquet`
- `sod teacher score sft.jsonl --recipe recipe.yaml --top-k 20`
- `sod train recipe.yaml teacher.path=null teacher.scores=scores.parquet` distils from them"""


@teacher_app.callback()
def teacher() -> None:
    """Keeps `score` a command of its own while it is the only one."""


@teacher_app.command(epilog=SCORE_EXAMPLES)
def score(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A run, a file of its episodes, or conversations (`sod sft`)."),
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")] = Path("scores.parquet"),
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Recipe that names student and teacher; a run has its own.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=0, help="Most probable tokens to keep; default: what the recipe's method needs."),
    ] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Score stored episodes or conversations with the recipe's teacher, and write them with their scores.

    A recipe with `teacher.scores` distils from that file: no teacher is loaded or asked, and no episodes are played.
    """
    from sod.build.evaluated import find_evaluated
    from sod.build.scoring import score_file

    if recipe is not None:
        spec = given_recipe(recipe, overrides or [], NOTHING, notice)
    else:
        about = find_evaluated(file, notice)
        if about.run is None and not Path(file).exists():
            raise SodError(f"{file}: no such run; correct the path, or name a recipe with --recipe")
        if about.run is None:
            raise SodError(f"{file}: is no run with a recipe of its own; name one with --recipe")
        spec = recipe_of(about, None, overrides or [], allow_code, notice, unread=SAMPLING)
    with progress("scoring", total=0, unit="episodes") as bar:
        task = bar.task_ids[0]
        written = score_file(
            spec, file, out, top_k, notice, lambda done, total: bar.update(task, completed=done, total=total)
        )
    lines = [("episodes", f"{written.episodes:,}"), ("teacher", spec.teacher.shown if spec.teacher else "none")]
    if written.left_out:
        lines.append(("left out", f"{written.left_out:,} rows that faulted or cannot be read"))
    if written.first_fault is not None:
        fault = written.first_fault
        lines.append(("not scored", f"{written.faults:,}, e.g. {fault.kind}: {fault.detail}"))
    facts(str(out), lines)
