"""`sod eval`: a model on held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import AllowCodeOption, Overrides
from sod.cli.unread import refuse_unread
from sod.front.evaluating import Request, asked_changes, evaluated, recipe_of
from sod.report.console import notice, out
from sod.report.evaluations import show_evaluation

EXAMPLES = """Examples:

- `sod eval runs/quickstart/sod --data runs/quickstart/data/test.parquet`
- `sod eval runs/quickstart/sod/checkpoints/step-000040 --data tasks.jsonl -k 8 --tasks 100`"""

PANEL = "What is written where"
HARNESS = "How it is played and told"


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
            help="RL tasks: a file, a folder, a glob, or owner/name:config@split; in an environment its own, or "
            "environment@SPLIT.",
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
            help="A directory for the JSON and the generations, empty or of this evaluation; default "
            "RUN/evaluations/DATA-TASKS-K-STEP, for other models runs/evaluations/MODEL-DATA-TASKS-K, with -2, -3, ... "
            "where another one stands there.",
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            rich_help_panel=HARNESS,
            help="A key of the tasks' extra fields that figures are broken down by, also several times; default "
            "difficulty, level and data_source.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, rich_help_panel=HARNESS, help="Processes that play, with a model each."),
    ] = 1,
) -> None:
    """Evaluate a model on held-out tasks: avg@k, pass@k and maj@k with 95% intervals.

    A run's model is evaluated as the run's own recipe says (tools, chat template, samples, trackers); a run means its
    newest checkpoint. The recipe's trackers get the figures too, at the checkpoint's step.

    The same command goes on with an evaluation that was interrupted, and shows the figures of one that is finished.
    """
    from sod.build.evaluated import find_evaluated

    refuse_unread("eval", overrides or [])
    about = find_evaluated(model, notice)
    spec = recipe_of(about, recipe, asked_changes(k, tasks, device, overrides or []), allow_code, notice)
    if spec.evaluation.tasks and tasks is None:
        notice(f"evaluation.tasks={spec.evaluation.tasks}: so many tasks at most are evaluated; --tasks 0 takes all")
    request = Request(model, data, to, workers, by or ())
    answer = evaluated(spec, about, request, notice)
    show_evaluation(answer.about.name, answer.result.as_dict(), request.named, answer.about.step)
    out.print(f"written to {answer.directory}", markup=False)
