"""`sod train`, `sod sft` and `sod quickstart`: a job with what a person sees of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sod.cli.dry_run import show_processes
from sod.cli.options import AllowCodeOption, OutOption, Overrides
from sod.cli.ranks import joined
from sod.cli.unread import refuse_unread
from sod.front.recipes import resumed_recipe
from sod.front.showing import run_job
from sod.recipe import Recipe, shipped_file
from sod.records import SodError
from sod.report.console import StepLines, evaluation_table, notice, out

WHERE = "Where the run is written"
RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="Recipe file (YAML); a resumed run has its own.")
]
RunOption = Annotated[
    Path | None, typer.Option("--run", rich_help_panel=WHERE, help="Run directory; default runs/NAME-METHOD.")
]
ResumeOption = Annotated[
    Path | None,
    typer.Option("--resume", rich_help_panel=WHERE, help="Go on with this run from its newest checkpoint."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Tell what would be started, where and how, and start nothing.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="All figures on every step's line, however narrow the terminal.")
]
TRAIN_EXAMPLES = """Examples:

- `sod train recipes/quickstart.yaml`
- `sod train recipes/quickstart.yaml method=opd optim.lr=1e-4 --run runs/opd`
- `sod train --resume runs/opd`
- `sod train recipes/quickstart.yaml --dry-run`"""
SFT_EXAMPLES = """Examples:

- `sod sft recipes/quickstart.yaml student.path=runs/quickstart/student-init --run runs/my-sft`
- `sod sft --resume runs/my-sft`"""
QUICKSTART_EXAMPLES = """Examples:

- `sod quickstart`
- `sod quickstart recipes/quickstart.yaml seed=1 train.steps=20 --out runs/small`"""


def train(
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = None,
    allow_code: AllowCodeOption = False,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Distil: the recipe's student plays, its teacher scores, the method updates.

    What the run is made of is printed first, then a line per step. The run directory gets checkpoints, metrics,
    trajectories turn by turn, and curves; Ctrl-C or a kill loses nothing before the newest checkpoint.
    """
    spec, directory = _recipe_and_directory(recipe, overrides, run, resume, allow_code)
    if dry_run:
        show_processes(spec)
        return
    from sod.build.training import prepare_train  # slow: what is wrong with the recipe is told before it
    from sod.preflight.before import memory_facts

    with joined(spec, directory) as ranks:
        memory = memory_facts(spec, sft=False, notice=notice) if ranks.first else ()
        job = prepare_train(spec, directory, resume is not None, notice, ranks)
        run_job(spec, spec.method.name, job, StepLines(verbose), memory)


def sft(
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = None,
    allow_code: AllowCodeOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fine-tune the recipe's student on the conversations of `data.sft`: the cold start of a distillation."""
    spec, directory = _recipe_and_directory(recipe, overrides, run, resume, allow_code, stage="sft")
    from sod.build.supervised import prepare_sft  # slow, as in `train`
    from sod.preflight.before import memory_facts

    with joined(spec, directory) as ranks:
        memory = memory_facts(spec, sft=True, notice=notice) if ranks.first else ()
        job = prepare_sft(spec, directory, resume is not None, notice, ranks)
        run_job(spec, "sft", job, StepLines(verbose), memory)


def quickstart(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe with a world section.", show_default="quickstart")
    ] = str(shipped_file("quickstart")),
    overrides: Overrides = None,
    to: OutOption = Path("runs/quickstart"),
    verbose: VerboseOption = False,
) -> None:
    """The whole path from nothing, on a CPU: data, teacher, student, SFT, SOD, evaluation.

    Start here. It makes a small world of arithmetic tasks with a Python tool and ends with a table of the student
    before and after, beside its teacher. Its files are what recipes/quickstart.yaml trains on afterwards.
    """
    from sod.build.recipe import read_recipe

    refuse_unread("quickstart", overrides or [])
    spec, lines = read_recipe(recipe, overrides or (), notice), StepLines(verbose)
    from sod.quickstart.run import quickstart as run_all  # slow: what is wrong with the recipe is told before it

    summary = run_all(spec, to, lambda title, job: run_job(spec, title, job, lines), notice)
    results = {label: summary[label] for label in ("vanilla", "sft", "sod", "teacher")}
    out.print(evaluation_table(results, f"quickstart, seed {spec.seed}: {results['sod']['tasks']} held-out tasks"))
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in summary["seconds"].items())
    out.print(f"{stages}; figures in {to}/summary.json, curves in {to}/sod/curves.png", markup=False)


def _recipe_and_directory(
    recipe: str | None,
    overrides: list[str] | None,
    run: Path | None,
    resume: Path | None,
    allow_code: bool,
    stage: str = "",
) -> tuple[Recipe, Path]:
    """The recipe asked for and its run directory. Without a recipe file a resumed run is asked for with its own."""
    from sod.build.recipe import read_recipe

    given = list(overrides or [])
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        given.insert(0, recipe)
        recipe = None
    refuse_unread("sft" if stage == "sft" else "train", given)
    if resume is None:
        if recipe is None:
            raise SodError("name a recipe file, e.g. recipes/quickstart.yaml, or --resume RUN")
        spec = read_recipe(recipe, given, notice)
        return spec, run or Path("runs") / f"{spec.name}-{stage or spec.method.name}"
    if run is not None and run != resume:
        raise SodError("--run and --resume name different directories; give --resume alone")
    from sod.runlog import RunLog

    RunLog.open(resume)
    if recipe:
        return read_recipe(recipe, given, notice), resume
    return resumed_recipe(resume, given, allow_code, notice, stage or "train"), resume
