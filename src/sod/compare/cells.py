"""The cells of a comparison, and the trials and worlds that they need: how each is made.

A result is one small file with all that the report needs. It is written atomically and after everything else, so a
result that exists is complete, and neither the report nor a repeated command needs WORK for it.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from sod.build.evaluation import evaluate_model
from sod.build.idle import without_idle
from sod.build.method import can_align, make_method
from sod.build.training import prepare_train
from sod.clock import Clock
from sod.compare.own import Judged, judged_tasks, tuning_tasks, untrained
from sod.compare.units import UNTRAINED, Comparison, Unit
from sod.evaluation.runner import Evaluation
from sod.objective.needs import Need
from sod.objective.presets import PRESETS, knobs
from sod.quickstart.run import in_world, make_world, rounded
from sod.recipe import MethodSpec, Notice, Recipe
from sod.records import SodError, Task
from sod.report import console
from sod.runlog import RunLog, write_json_atomic
from sod.tasks.files import load_tasks
from sod.training.optim import NonFiniteError

CURVES = ("accuracy", "tool_error_rate", "response_tokens", "reward")
PREPARED = "prepared.json"


def run_unit(comparison: Comparison, unit: Unit, lr: float | None = None) -> dict[str, Any]:
    """Do a unit's work, write its result and return it; `lr` is the learning rate of a cell that trains.

    Raises SodError, with nothing written in OUT.
    """
    path = comparison.result(unit)
    notice = partial(_labelled, unit.label)
    if unit.kind == "world":
        facts = _prepare_world(comparison, unit.seed, notice)
    elif unit.kind == "trial":
        facts = _trial(comparison, unit, notice)
    else:
        facts = _cell(comparison, unit, lr, notice)
    own = {
        "recipe": comparison.recipe.name,
        "recipe_sha256": comparison.recipe_sha256,
        "world": comparison.world_hash if comparison.in_worlds else None,
        "sources": dict(comparison.sources),
    }
    result = {**own, "seed": unit.seed, **facts, "threads": comparison.threads, "git": dict(comparison.git)}
    write_json_atomic(path, result)
    return result


def method_spec(recipe: Recipe, name: str) -> MethodSpec:
    """The recipe's `method` section for the method of that name: knobs that it does not have are left out.

    So `method: {epsilon: 0.5}` holds for every method with an epsilon. `sod.build.method` checks the values.
    """
    known = {*MethodSpec.model_fields, *knobs(name)}
    if Need.TEACHER not in PRESETS[name]().needs:
        known.remove("divergence")
    if not can_align(PRESETS[name]()):
        known.remove("alignment")
    return MethodSpec.model_validate(recipe.method.model_dump(include=known, exclude_unset=True) | {"name": name})


def read_result(path: Path, recipe_sha256: str) -> dict[str, Any]:
    """A result. Raises SodError when it is none, or was made with another recipe."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = value["recipe_sha256"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise SodError(f"{path}: not a result of `sod compare` ({error!r}); delete it") from None
    if found != recipe_sha256:
        raise SodError(f"{path}: was made with another recipe; choose another --out, or delete it")
    return dict(value)


def _prepare_world(comparison: Comparison, seed: int, notice: Notice) -> dict[str, Any]:
    """Make the world of a seed, unless it is there. An unfinished one is made anew."""
    directory = comparison.world(seed)
    marker = directory / PREPARED
    with _locked(directory):
        if not marker.exists():
            if directory.exists():
                shutil.rmtree(directory)
            recipe = comparison.recipe.model_copy(update={"seed": seed, "threads": comparison.threads})
            seconds = make_world(recipe, directory, _run_quietly, notice)
            write_json_atomic(marker, {"seconds": seconds})
    return dict(json.loads(marker.read_text(encoding="utf-8")))


def _trial(comparison: Comparison, unit: Unit, notice: Notice) -> dict[str, Any]:
    """A short run with one learning rate, judged on validation tasks. One that diverges has no figures."""
    steps = comparison.recipe.compare.tuning_steps
    facts: dict[str, Any] = {"method": unit.method, "lr": unit.lr, "steps": steps, "diverged": None}
    try:
        log, seconds = _trained(comparison, unit, unit.lr, steps, notice)
    except NonFiniteError as error:
        return facts | {"diverged": str(error), "figures": None, "seconds": {}}
    spec = _cell_recipe(comparison, unit, unit.lr, steps)
    judged = _tuning_tasks(comparison, unit.seed)
    clock = Clock({"training": seconds})
    with clock.timed("evaluation"):
        figures = evaluate_model(_playing(spec, log.path), judged.named, notice, key=judged.key).as_dict()
    return facts | {"figures": figures, "curve": _curve(log), "seconds": rounded(clock.seconds)}


def _cell(comparison: Comparison, unit: Unit, lr: float | None, notice: Notice) -> dict[str, Any]:
    """Train with the method, unless it is one that trains nothing, and evaluate on the test tasks."""
    steps = 0 if unit.method in UNTRAINED else comparison.recipe.train.steps
    curve: dict[str, Any] = {}
    clock = Clock({"training": 0.0})
    if steps:
        log, seconds = _trained(comparison, unit, lr, steps, notice)
        clock.add("training", seconds)
        curve = _curve(log)
        spec = _playing(_cell_recipe(comparison, unit, lr, steps), log.path)
    else:
        spec = _untrained_recipe(comparison, unit)
    judged = _test_tasks(comparison, unit.seed)
    with clock.timed("evaluation"):
        evaluation = evaluate_model(spec, judged.named, notice, key=judged.key)
    return {
        "method": unit.method,
        "lr": lr,
        "steps": steps,
        "figures": evaluation.as_dict(),
        "correct": _correct(comparison, evaluation, judged),
        "curve": curve,
        "seconds": rounded(clock.seconds),
    }


def _trained(comparison: Comparison, unit: Unit, lr: float | None, steps: int, notice: Notice) -> tuple[RunLog, float]:
    """The finished run of a cell or trial and the seconds of all its steps; an interrupted one goes on."""
    spec = _cell_recipe(comparison, unit, lr, steps)
    directory = comparison.run(unit, spec)
    with _locked(directory):
        begun = (directory / "recipe.yaml").is_file()
        with closing(prepare_train(spec, directory, begun, notice)) as job:
            job.start([])
    return job.log, sum(float(row["seconds"]) for row in job.log.metrics())


def _cell_recipe(comparison: Comparison, unit: Unit, lr: float | None, steps: int) -> Recipe:
    recipe = comparison.recipe
    update = {
        "name": f"{recipe.name}-{unit.method}",
        "seed": unit.seed,
        "threads": comparison.threads,
        "method": method_spec(recipe, unit.method),
        "optim": recipe.optim.model_copy(update={"lr": lr}),
        "train": recipe.train.model_copy(update={"steps": steps}),
    }
    spec = recipe.model_copy(update=update)
    if comparison.in_worlds:
        spec = in_world(spec, comparison.world(unit.seed))
    return without_idle(spec, make_method(spec.method))


def _untrained_recipe(comparison: Comparison, unit: Unit) -> Recipe:
    seeded = comparison.recipe.model_copy(update={"seed": unit.seed, "threads": comparison.threads})
    if comparison.in_worlds:
        return in_world(seeded, comparison.world(unit.seed), UNTRAINED[unit.method])
    return untrained(seeded, unit.method)


def _tuning_tasks(comparison: Comparison, seed: int) -> Judged:
    if comparison.in_worlds:
        return Judged("--data", str(comparison.world(seed) / "data" / "validation.parquet"))
    return tuning_tasks(comparison.recipe)


def _test_tasks(comparison: Comparison, seed: int) -> Judged:
    if comparison.in_worlds:
        return Judged("--data", str(comparison.world(seed) / "data" / "test.parquet"))
    return judged_tasks(comparison.recipe)


def _playing(recipe: Recipe, model: Path) -> Recipe:
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"path": str(model)})})


def _curve(log: RunLog) -> dict[str, Any]:
    """Lists over steps; None where a method has no such figure."""
    rows = log.metrics()
    return {"step": [row["step"] for row in rows], **{key: [row.get(key) for row in rows] for key in CURVES}}


def _correct(comparison: Comparison, evaluation: Evaluation, judged: Judged) -> list[float | None] | dict[str, float]:
    """Mean correctness by task: in the order of a world's file, else by the task's name, by which cells are paired."""
    if comparison.in_worlds and judged.named is not None:
        return by_task(evaluation, load_tasks(judged.named, comparison.recipe.data.split).items)
    return by_name(evaluation)


def by_name(evaluation: Evaluation) -> dict[str, float]:
    """Mean correctness by the name of a task, without tasks that lost every episode to faults."""
    names = {task.id: _name(task) for task in evaluation.played}
    correct: dict[str, list[float]] = {}
    for trajectory in evaluation.trajectories:
        correct.setdefault(names[trajectory.task_id], []).append(float(trajectory.correct))
    return {name: fmean(row) for name, row in correct.items()}


def _name(task: Task) -> str:
    """Its id; of a task that an environment was given a number for, the number too: other seeds have other ones."""
    return f"{task.id}:{task.extra['seed']}" if task.extra.keys() == {"seed"} else task.id


def by_task(evaluation: Evaluation, tasks: Sequence[Task]) -> list[float | None]:
    """Mean correctness in the order of the file; None for a task not drawn, or that lost every episode to faults."""
    correct: dict[str, list[float]] = {task.id: [] for task in tasks}
    for trajectory in evaluation.trajectories:
        correct[trajectory.task_id].append(float(trajectory.correct))
    return [fmean(row) if row else None for row in correct.values()]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process works in `directory`; a lock ends with its process, however that ends."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f".{directory.name}.lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run_quietly(title: str, job: Any) -> None:
    with closing(job):
        job.start([])


def _labelled(label: str, text: str) -> None:
    console.notice(f"{label}: {text}")
