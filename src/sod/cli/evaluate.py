"""`sod eval`: a model on held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sod.cli.options import AllowCodeOption, Overrides
from sod.cli.unread import refuse_unread
from sod.front.benchmarking import DEFAULT_STYLE, Wanted, evaluate_benchmarks, evaluate_benchmarks_every
from sod.front.comparing import show_comparison
from sod.front.evaluating import Request, asked_changes, evaluated, recipe_of
from sod.front.every import Curve, evaluated_every
from sod.recipe import Recipe
from sod.records import SodError
from sod.report.console import benchmark_table, notice, out
from sod.report.evaluations import remarks, show_curve, show_evaluation

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated

EXAMPLES = """Examples:

- `sod eval runs/quickstart/sod --data runs/quickstart/data/test.parquet`
- `sod eval runs/quickstart/sod/checkpoints/step-000040 --data tasks.jsonl -k 8 --tasks 100`
- `sod eval runs/quickstart/sod --data tasks.jsonl --every`
- `sod eval Qwen/Qwen3-1.7B --benchmark aime24,aime25,math500 -k 32 --style sod`
- `sod eval MODEL --benchmark gpqa_diamond,humaneval --style lm-eval --data-dir downloads`
- `sod eval --compare runs/a/evaluations/test-all-k8-step40 runs/b/evaluations/test-all-k8-step40`"""

PANEL = "What is written where"
HARNESS = "How it is played and told"
BENCHMARKS = "Benchmarks"


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, a checkpoint of one, model directory or hub id."),
    ] = None,
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
            help="Whose prompts, sampling, reading and comparison of answers: sod (default), lm-eval, lm-eval-strict, "
            "official.",
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
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            rich_help_panel=BENCHMARKS,
            help="Longest response (tokens), tool results included; default: the style's.",
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
    every: Annotated[
        bool,
        typer.Option(
            "--every",
            rich_help_panel=HARNESS,
            help="All checkpoints that a run has, one after the other: a table and a curve. What is done is not "
            "played again.",
        ),
    ] = False,
    steps: Annotated[
        int,
        typer.Option("--steps", min=1, rich_help_panel=HARNESS, help="With --every: those at multiples of so many."),
    ] = 1,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            rich_help_panel=HARNESS,
            help="Instead of a model two directories of evaluations: their difference, paired by problem, and a test.",
        ),
    ] = None,
) -> None:
    """Evaluate a model on held-out tasks: avg@k, pass@k and maj@k with 95% intervals.

    A run's model is evaluated as the run's own recipe says (tools, chat template, samples, trackers); a run means its
    newest checkpoint. The recipe's trackers get the figures too, at the checkpoint's step.

    On benchmarks the style says how they are asked, sampled and judged; the result names it, its known flaws and the
    fingerprint of the problems that were read.

    The same command goes on with an evaluation that was interrupted, and shows the figures of one that is finished.
    """
    if compare is not None:
        _compare(compare, model, to)
        return
    if model is None:
        raise SodError("RUN_OR_MODEL is missing: name a run, a checkpoint, a model directory or a hub id")
    if steps != 1 and not every:
        raise SodError(f"--steps {steps}: says which checkpoints --every takes; add --every, or leave it out")
    refuse_unread("eval", overrides or [])
    _refuse_mixed(data, benchmark, {"--style": style, "--data-dir": data_dir, "--max-tokens": max_tokens})
    if benchmark:
        wanted = Wanted(
            benchmark,
            style or DEFAULT_STYLE,
            data_dir,
            max_tokens,
            k,
            tasks,
            device,
            recipe,
            overrides or [],
            to,
            allow_code,
            workers,
            by or (),
        )
        if every:
            _evaluate_benchmarks_every(model, wanted, steps)
        else:
            _evaluate_benchmarks(model, wanted)
        return
    from sod.build.evaluated import find_evaluated

    about = find_evaluated(model, notice)
    spec = recipe_of(about, recipe, asked_changes(k, tasks, device, overrides or []), allow_code, notice)
    request = Request(model, data, to, workers, by or (), counted=tasks is not None)
    if every:
        _evaluate_every(spec, about, request, steps)
        return
    answer = evaluated(spec, about, request, notice)
    show_evaluation(answer.about.name, answer.result.as_dict(), request.named, answer.about.step)
    out.print(f"written to {answer.directory}", markup=False)


def _evaluate_every(spec: Recipe, about: Evaluated, request: Request, steps: int) -> None:
    _show_curve(about.name, evaluated_every(spec, about, request, steps, notice), request.named)


def _evaluate_benchmarks_every(model: str, wanted: Wanted, steps: int) -> None:
    for name, curve in evaluate_benchmarks_every(model, wanted, steps, notice).items():
        _show_curve(curve.answers[0].about.name, curve, name)


def _show_curve(model: str, curve: Curve, data: str) -> None:
    from sod.report.evaluation_curve import draw_evaluations

    show_curve(model, curve.rows(), data)
    picture = curve.file.with_suffix(".png")
    draw_evaluations(curve.rows(), f"{model} on {Path(data).name}", picture)
    out.print(f"written to {curve.file} and {picture}", markup=False)


def _compare(pair: tuple[Path, Path], model: str | None, to: Path | None) -> None:
    if model is not None:
        raise SodError(f"{model}: --compare takes two directories of evaluations and no model; leave it out")
    show_comparison(*pair, to)


def _refuse_mixed(data: str, benchmark: str, of_benchmarks: Mapping[str, object]) -> None:
    """Raises SodError for options of benchmarks without one, and for what does not go with one."""
    if benchmark and data:
        raise SodError("--benchmark and --data: give one of them; --data-dir says where benchmarks' files are")
    given = [name for name, value in of_benchmarks.items() if value is not None]
    if given and not benchmark:
        raise SodError(f"{given[0]} is about benchmarks; name some with --benchmark, such as --benchmark math500")


def _evaluate_benchmarks(model: str, wanted: Wanted) -> None:
    answers = evaluate_benchmarks(model, wanted, notice)
    figures = {name: answer.result.as_dict() for name, answer in answers.items()}
    out.print(benchmark_table(figures, f"{model}, style {wanted.style}"))
    for name, answer in answers.items():
        for line in remarks(figures[name]):
            out.print(f"{name}: {line}", markup=False)
        out.print(f"{name}: written to {answer.directory}", markup=False)
