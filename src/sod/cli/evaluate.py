"""`sod eval`: a model on held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.options import AllowCodeOption, Overrides
from sod.cli.unread import refuse_unread
from sod.front.benchmarking import DEFAULT_STYLE, Wanted, evaluate_benchmarks
from sod.front.evaluating import ENVIRONMENT, asked_changes, evaluated, recipe_of, write
from sod.records import SodError
from sod.report.console import benchmark_table, evaluation_table, notice, out

EXAMPLES = """Examples:

- `sod eval runs/quickstart/sod --data runs/quickstart/data/test.parquet`
- `sod eval runs/quickstart/sod/checkpoints/step-000040 --data tasks.jsonl -k 8 --tasks 100`
- `sod eval Qwen/Qwen3-1.7B --benchmark aime24,aime25,math500 -k 32 --style sod`
- `sod eval MODEL --benchmark gpqa_diamond,humaneval --style lm-eval --data-dir downloads`"""

PANEL = "What is written where"
BENCHMARKS = "Benchmarks"


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
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark",
            metavar="NAMES",
            rich_help_panel=BENCHMARKS,
            help="Instead of --data, with commas between: aime24, aime25, gpqa_diamond, livecodebench_v6, math500, "
            "gsm8k, humaneval, mbpp. The model is loaded once.",
        ),
    ] = "",
    style: Annotated[
        str | None,
        typer.Option(
            "--style",
            rich_help_panel=BENCHMARKS,
            help="Whose prompts, sampling, reading and comparison of answers: sod (default), lm-eval, "
            "lm-eval-strict, official.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            rich_help_panel=BENCHMARKS,
            help="A folder with their files, found by name or by their rows; default: from the Hugging Face hub.",
        ),
    ] = None,
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

    On benchmarks the style says how they are asked, sampled and judged, and the result names it, its known flaws and
    the fingerprint of the problems that were read.
    """
    from sod.build.evaluated import claimed, find_evaluated

    refuse_unread("eval", overrides or [])
    _refuse_mixed(data, benchmark, style, data_dir)
    if benchmark:
        wanted = Wanted(
            benchmark, style or DEFAULT_STYLE, data_dir, k, tasks, device, recipe, overrides or [], to, allow_code
        )
        _evaluate_benchmarks(model, wanted)
        return
    about = find_evaluated(model, notice)
    spec = recipe_of(about, recipe, asked_changes(k, tasks, device, overrides or []), allow_code, notice)
    if not data and spec.environment is None:
        raise SodError("--data is missing: name a file of RL tasks")
    if spec.evaluation.tasks and tasks is None:
        notice(f"evaluation.tasks={spec.evaluation.tasks}: so many tasks at most are evaluated; --tasks 0 takes all")
    named = data or ENVIRONMENT
    with claimed(to or about.place(named, spec.evaluation), exact=to is not None) as target:
        result = evaluated(spec, about, data, target, notice)
        write(target, spec, model, data, result)
    title = f"{Path(named).name}, {result.tasks} tasks" + (f", step {about.step}" if about.step is not None else "")
    out.print(evaluation_table({about.name: result.as_dict()}, title))
    out.print(f"written to {target}", markup=False)


def _refuse_mixed(data: str, benchmark: str, style: str | None, data_dir: Path | None) -> None:
    """Raises SodError for options of benchmarks without one, and for tasks beside one."""
    if benchmark and data:
        raise SodError("--benchmark and --data: give one of them; --data-dir says where benchmarks' files are")
    given = [name for name, value in (("--style", style), ("--data-dir", data_dir)) if value is not None]
    if given and not benchmark:
        raise SodError(f"{given[0]} is about benchmarks; name some with --benchmark, such as --benchmark math500")


def _evaluate_benchmarks(model: str, wanted: Wanted) -> None:
    done = evaluate_benchmarks(model, wanted, notice)
    figures = {one.name: one.result.as_dict() for one in done}
    out.print(benchmark_table(figures, f"{model}, style {wanted.style}"))
    for one in done:
        out.print(f"{one.name} written to {one.directory}", markup=False)
