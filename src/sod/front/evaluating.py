"""A model on held-out tasks, for `sod eval` and `sod.evaluate`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sod.front.passed import NOTHING, Passed
from sod.front.recipes import Given, given_recipe, runs_own
from sod.front.tracking import trackers
from sod.recipe import Notice, Recipe, code_in, read_yaml, resolved
from sod.records import SodError
from sod.report.console import progress
from sod.runlog import RunLog

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated
    from sod.build.evaluation import Prepared
    from sod.build.kept import Kept
    from sod.evaluation.runner import Evaluation
    from sod.evaluation.stored import Plan
    from sod.report.trackers import Tracker

TEACHERS = ("teacher", "teachers")
"""Sections that an evaluation does not read."""
ENVIRONMENT = "environment"
"""What an evaluation is called that plays an environment's own tasks."""


def asked_changes(k: int | None, tasks: int | None, device: str | None, overrides: Sequence[str]) -> list[str]:
    """The overrides that the arguments of an evaluation stand for, and those given. Raises SodError for a device."""
    from sod.models.device import find_device

    asked = {"evaluation.k": k, "evaluation.tasks": tasks}
    changes = [f"{key}={value}" for key, value in asked.items() if value is not None] + list(overrides)
    if device is not None:
        find_device(device, "--device")
        changes.append(f"student.device={device}")
    return changes


def recipe_of(
    about: Evaluated,
    recipe: Given | None,
    changes: Sequence[str],
    allow_code: bool,
    notice: Notice,
    passed: Passed = NOTHING,
    unread: Collection[str] = TEACHERS,
) -> Recipe:
    """The recipe that a model is evaluated as: the one given, its run's, or a plain one.

    Of a run's own, sections in `unread` are of no use to the command, so that nobody has to allow them.
    """
    changes = [f"student.path={json.dumps(about.path)}", *changes]  # quoted: a path is not YAML
    if recipe is not None:
        given = recipe.model_dump(exclude_unset=True) if isinstance(recipe, Recipe) else recipe
        return given_recipe(given, changes, passed, notice)
    if about.run is not None:
        from sod.build.own_code import tell_changed

        kept = str(about.run / "recipe.yaml")
        again = f'sod.evaluate("{about.path}", data, {{}})'
        spec = runs_own(read_yaml(kept), changes, kept, allow_code, notice, again, passed, unread)
        if list(code_in(spec)):
            tell_changed(RunLog.open(about.run).manifest(), spec, about.run, notice)
        return spec
    plain = {"student": {"path": about.path, "dtype": "bfloat16"}, "evaluation": {"tasks": 0}}
    return given_recipe(plain, changes, passed, notice)


@final
@dataclass(frozen=True)
class Request:
    """What is evaluated, and how: `model` as it was named, `data` or else the environment's own tasks.

    `to` is the directory, None for one of its own. `workers` processes play; `by` are keys that figures are broken
    down by. `counted` is whether a number of tasks was asked for.
    """

    model: str
    data: str
    to: Path | None = None
    workers: int = 1
    by: Sequence[str] = ()
    counted: bool = False

    @property
    def named(self) -> str:
        """What the tasks are called."""
        return self.data or ENVIRONMENT


@final
@dataclass(frozen=True)
class Answer:
    """The figures of an evaluation, which checkpoint they are of, and where they were written."""

    about: Evaluated
    result: Evaluation
    directory: Path


def evaluated(spec: Recipe, about: Evaluated, request: Request, notice: Notice) -> Answer:
    """Evaluate, or go on with it, or give the figures of one that is finished.

    There is a progress bar, and the recipe's trackers get the figures. Raises SodError.
    """
    from sod.build.evaluated import pinned
    from sod.build.evaluation import prepare_evaluation
    from sod.build.fingerprints import settings_of
    from sod.build.playing import refuse_unfit_workers
    from sod.runlog import differences

    refuse_unfit_workers(spec, request.workers)
    refuse_no_tasks(spec, request.data)
    if request.to is None:
        mine = settings_of(spec)

        def like(plan: Plan) -> bool:
            return not differences(plan.settings, mine)

        about = pinned(about, request.model, request.named, spec.evaluation, like, notice)
        spec = of_model(spec, about.path)
    prepared = prepare_evaluation(spec, request.data, notice, by=request.by)
    tell_subset(prepared, request, notice)
    return answered(prepared, about, request, notice)


def tell_subset(prepared: Prepared, request: Request, notice: Notice) -> None:
    """Tell where the recipe's own number of tasks leaves some out."""
    limit = prepared.recipe.evaluation.tasks
    if limit and limit < prepared.of and not request.counted:
        notice(f"evaluation.tasks={limit}: so many of the {prepared.of:,} tasks are evaluated; --tasks 0 takes all")


def answered(prepared: Prepared, about: Evaluated, request: Request, notice: Notice, tracked: bool = True) -> Answer:
    """As `evaluated`, what is `prepared`; the recipe's trackers hear of it where it is `tracked` by itself."""
    from sod.build.kept import Place, directories_with_fewer, kept_evaluation, plan_of
    from sod.evaluation.stored import FIGURES
    from sod.runlog import write_json_atomic

    named, recipe = request.named, prepared.recipe
    settings = recipe.evaluation
    place = Place(request.to, exact=True) if request.to else Place(about.place(named, settings), exact=False)
    if not place.exact:
        with_k = {k: about.place(named, settings.model_copy(update={"k": k})) for k in range(1, settings.k)}
        place = replace(place, fewer=directories_with_fewer(with_k))
    plan = plan_of(prepared, about.name, named, about.step)
    with kept_evaluation(place, prepared, plan, notice) as kept:
        if kept.finished:
            notice(f"{kept.directory}: was evaluated before; nothing is played, and another --out plays it anew")
            result = kept.stored_result(notice)
            write_json_atomic(kept.directory / FIGURES, _figures(prepared, about, request, result))
            return Answer(about, result, kept.directory)
        hearing = recipe if tracked else recipe.model_copy(update={"trackers": []})
        with _trackers(hearing, about, kept.directory) as opened:
            result = _played(about, kept, request.workers, notice)
            for tracker in opened:
                tracker.log(result.metrics(), about.step or 0)
        kept.finish(result, _figures(prepared, about, request, result))
        return Answer(about, result, kept.directory)


def of_model(spec: Recipe, path: str) -> Recipe:
    """The recipe with the model at `path` as its student."""
    return spec.model_copy(update={"student": spec.student.model_copy(update={"path": path})})


def refuse_no_tasks(spec: Recipe, data: str) -> None:
    """Raises SodError where nothing says what to evaluate on."""
    if not data and spec.environment is None:
        raise SodError("--data is missing: name a file of RL tasks")


@contextmanager
def _trackers(spec: Recipe, about: Evaluated, target: Path) -> Iterator[Sequence[Tracker]]:
    """The recipe's trackers for an evaluation in `target`."""
    run_name = target.name if about.run is None else f"{about.name}-{target.name}"
    shared = target.parent if about.run is None else about.run.absolute().parent
    with trackers(spec, run_name, target, shared) as opened:
        yield opened


def _played(about: Evaluated, kept: Kept, workers: int, notice: Notice) -> Evaluation:
    from sod.build.playing import played

    with progress(f"evaluating {about.name}", total=len(kept.prepared.tasks), unit="tasks") as bar:
        task = bar.task_ids[0]
        bar.update(task, completed=kept.done())
        with played(kept, workers, notice, lambda done: bar.update(task, completed=done)) as votes_of:
            return kept.result(votes_of, notice)


def _figures(prepared: Prepared, about: Evaluated, request: Request, result: Evaluation) -> dict[str, Any]:
    """What is written of the figures, and where they come from."""
    recipe = resolved(prepared.recipe)
    origin = {"model": request.model, "data": request.named, "step": about.step, "recipe": recipe}
    return {**result.as_dict(), **origin, **prepared.said}
