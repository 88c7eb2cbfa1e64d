"""`sod train`, `sod sft` and `sod quickstart`: a job with what a person sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sod.cli.options import OutOption, Overrides, changed
from sod.recipe import Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.report.console import evaluation_table, notice, out, profile_table, progress, step_line

if TYPE_CHECKING:
    from sod.build.job import Job

RecipeArgument = Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Recipe file (YAML).")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run directory; default runs/NAME-METHOD.")]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Go on with this run from its newest checkpoint.")]


def train(
    recipe: RecipeArgument = None, overrides: Overrides = None, run: RunOption = None, resume: ResumeOption = None
) -> None:
    """Distil: the recipe's student plays, its teacher scores, the method updates."""
    from sod.build.training import prepare_train

    spec, directory = _recipe_and_directory(recipe, overrides, run, resume)
    _run_job(spec, spec.method.name, prepare_train(spec, directory, resume is not None, notice))


def sft(
    recipe: RecipeArgument = None, overrides: Overrides = None, run: RunOption = None, resume: ResumeOption = None
) -> None:
    """Supervised fine-tuning of the recipe's student on data.sft."""
    from sod.build.supervised import prepare_sft

    spec, directory = _recipe_and_directory(recipe, overrides, run, resume, stage="sft")
    _run_job(spec, "sft", prepare_sft(spec, directory, resume is not None, notice))


def quickstart(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]")] = "recipes/quickstart.yaml",
    overrides: Overrides = None,
    to: OutOption = Path("runs/quickstart"),
) -> None:
    """The main job from nothing: data, teacher, student, SFT, SOD, evaluation."""
    from sod.build.recipe import read_recipe
    from sod.quickstart.run import quickstart as run_all

    spec = read_recipe(recipe, overrides or (), notice)
    summary = run_all(spec, to, lambda title, job: _run_job(spec, title, job), notice)
    results = {label: summary[label] for label in ("vanilla", "sft", "sod", "teacher")}
    out.print(evaluation_table(results, f"quickstart, seed {spec.seed}: {results['sod']['tasks']} held-out tasks"))
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in summary["seconds"].items())
    out.print(f"{stages}; figures in {to}/summary.json, curves in {to}/sod/curves.png", markup=False)


def _recipe_and_directory(
    recipe: str | None, overrides: list[str] | None, run: Path | None, resume: Path | None, stage: str = ""
) -> tuple[Recipe, Path]:
    """The recipe asked for and its run directory. Without a recipe file a resumed run is asked for with its own."""
    from sod.build.recipe import read_recipe

    given = list(overrides or [])
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        given.insert(0, recipe)
        recipe = None
    if resume is None:
        if recipe is None:
            raise SodError("name a recipe file, e.g. recipes/quickstart.yaml, or --resume RUN")
        spec = read_recipe(recipe, given, notice)
        return spec, run or Path("runs") / f"{spec.name}-{stage or spec.method.name}"
    if run is not None and run != resume:
        raise SodError("--run and --resume name different directories; give --resume alone")
    from sod.runlog import RunLog

    kept, where = RunLog.open(resume).recipe(), str(resume / "recipe.yaml")
    if recipe:
        return read_recipe(recipe, given, notice), resume
    return changed(parse_recipe(kept, where), given, where), resume


def _run_job(spec: Recipe, title: str, job: Job) -> None:
    """Run a job with a progress bar, a line per step, its trackers, and curves at the end."""
    from sod.report.curves import draw_curves
    from sod.training.report import StepReport

    every = max(1, job.plan.steps // 200)
    with closing(job), _trackers(spec, job) as trackers, progress(title, job.plan.steps, "steps") as bar:
        bar.update(bar.task_ids[0], completed=job.done)

        def show(report: StepReport) -> None:
            bar.advance(bar.task_ids[0])
            if report.step % every == 0 or report.step in (1, job.plan.steps):
                out.print(f"{title} " + step_line(report.step, job.plan.steps, report.metrics), markup=False)
            for tracker in trackers:
                tracker.log(report.metrics, report.step)

        job.start([show])
    if profile := job.log.profile():
        out.print(profile_table(profile))
    draw_curves(job.log.metrics(), job.log.curves_path, f"{spec.name}: {title}")
    out.print(f"{title} finished: {job.log.path}", markup=False)


@contextmanager
def _trackers(spec: Recipe, job: Job) -> Iterator[list]:  # type: ignore[type-arg]
    from sod.report.trackers import open_tracker

    with ExitStack() as stack:  # what was opened is finished, also when the next one fails to open
        opened = []
        for name in spec.trackers:
            directory = job.log.path / "trackers" / name
            opened.append(open_tracker(name, "sod", job.log.path.name, directory, resolved(spec)))
            stack.callback(opened[-1].finish)
        yield opened
