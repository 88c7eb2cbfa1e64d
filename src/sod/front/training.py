"""`sod.train` and `sod.sft`: runs from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.front.passed import Passed, Tools
from sod.front.recipes import Given, given_recipe, refuse_text, resumed_recipe
from sod.front.runs import Run
from sod.front.showing import OnStep, run_job, run_quietly
from sod.recipe import Recipe
from sod.records import SodError
from sod.report.console import StepLines, notice

if TYPE_CHECKING:
    from sod.build.job import Job


def train(
    recipe: Given | None = None,
    overrides: Sequence[str] = (),
    *,
    tools: Tools = (),
    reward: Any = None,
    environment: Any = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    allow_code: bool = False,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> Run:
    """Distil, as `sod train` does: the student plays, the teacher scores, the method updates. Returns the finished run.

    `recipe` is a `Recipe`, a YAML file, the name of a shipped recipe, or a recipe's content as a mapping; `overrides`
    are `key=value`. `tools` are functions or classes beside the recipe's own tools: `[sql]`, or by name,
    `{"sql": sql}`, or with other keys of the section, `{"sql": {"call": sql, ...}}`. `reward` is a function or several,
    or the keys of the recipe's section; so is `environment`. What is passed in is recorded in the run's manifest by
    name and by the hash of its source, and `resume` and `sod.evaluate` have to be given it again.

    `run` is the run's directory, runs/NAME-METHOD by default. `resume` goes on with a run from its newest checkpoint,
    by its own recipe where none is given; code that this one names is imported with `allow_code` only. `progress`
    prints what the run is made of and a line for each step; `on_step` hears of each step. Works in notebooks and in any
    thread. Raises SodError, before anything is loaded where possible.
    """
    from sod.build.training import prepare_train
    from sod.preflight.before import memory_facts

    passed = Passed(tools, reward, environment)
    spec = _recipe(recipe, overrides, resume, allow_code, "train", passed)
    directory = _directory(spec, spec.method.name, run, resume)
    memory = memory_facts(spec, sft=False, notice=notice)
    job = prepare_train(spec, directory, resume is not None, notice)
    return _finished(spec, spec.method.name, job, memory, progress, on_step)


def sft(
    recipe: Given | None = None,
    overrides: Sequence[str] = (),
    *,
    tools: Tools = (),
    environment: Any = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    allow_code: bool = False,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> Run:
    """Fine-tune the recipe's student on the conversations of `data.sft`, as `sod sft` does. Arguments as of `train`.

    `tools` are those that conversations show and do not declare themselves. Raises SodError.
    """
    from sod.build.supervised import prepare_sft
    from sod.preflight.before import memory_facts

    spec = _recipe(recipe, overrides, resume, allow_code, "sft", Passed(tools, None, environment))
    directory = _directory(spec, "sft", run, resume)
    memory = memory_facts(spec, sft=True, notice=notice)
    job = prepare_sft(spec, directory, resume is not None, notice)
    return _finished(spec, "sft", job, memory, progress, on_step)


def _recipe(
    recipe: Given | None,
    overrides: Sequence[str],
    resume: str | Path | None,
    allow_code: bool,
    call: str,
    passed: Passed,
) -> Recipe:
    refuse_text(overrides)
    if recipe is not None:
        return given_recipe(recipe, overrides, passed, notice)
    if resume is None:
        raise SodError(f'name a recipe, e.g. sod.{call}("recipes/quickstart.yaml"), or resume="RUN"')
    return resumed_recipe(Path(resume), overrides, allow_code, notice, call, passed)


def _directory(spec: Recipe, stage: str, run: str | Path | None, resume: str | Path | None) -> Path:
    if run is not None and resume is not None and Path(run) != Path(resume):
        raise SodError("run and resume name different directories; give resume alone")
    return Path(resume or run or Path("runs") / f"{spec.name}-{stage}")


def _finished(
    spec: Recipe,
    title: str,
    job: Job,
    memory: Sequence[tuple[str, str]],
    progress: bool,
    on_step: OnStep | None,
) -> Run:
    """The job's run, once it is over."""
    if progress:
        run_job(spec, title, job, StepLines(), memory, on_step)
    else:
        run_quietly(spec, title, job, *([] if on_step is None else [on_step]))
    return Run(job.log.path)
