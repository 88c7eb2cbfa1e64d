"""The main job from nothing: a world, a teacher, a student, SFT, then step-wise on-policy distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sod.build.evaluation import evaluate_model
from sod.build.idle import idle_keys, refuse_idle, without_idle
from sod.build.job import Job
from sod.build.method import make_method
from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.clock import Clock
from sod.objective.methods import Method
from sod.quickstart.world import data_paths, make_data, make_models
from sod.recipe import Notice, PythonSpec, Recipe, StudentSpec, TeacherSpec, TeachersSpec
from sod.records import SodError
from sod.runlog import locked, write_json_atomic
from sod.tools.python import python_schema

RunJob = Callable[[str, Job], None]
"""Runs a job to its end, showing its progress under a title."""
EVALUATED = {"vanilla": "student-init", "sft": "student-sft", "sod": "sod", "teacher": "teacher-sft"}
"""What a quickstart evaluates: the key in its summary, and the directory of the model."""


def quickstart(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, Any]:
    """Run every stage below `out` and return the summary that is written to `out/summary.json`.

    The summary's keys `vanilla`, `sft`, `sod` and `teacher` hold the figures of the same held-out test
    tasks, which no training saw; `seconds` holds the seconds of each stage, to 0.1. Raises SodError when the
    recipe has no `world` section, `out` holds an earlier quickstart, or another process writes there.
    """
    if recipe.world is None:
        raise SodError(
            f"{recipe.name}: no world section to make data and models from; start from recipes/quickstart.yaml"
        )
    method = make_method(recipe.method)
    refuse_other_teachers(recipe)
    refuse_idle(idle_keys(recipe.without_teachers(), method), recipe, False, notice)
    with locked(out):  # the stages lock their own directories; the data and the summary lie beside them
        if (out / "data").exists():
            raise SodError(f"{out}: holds an earlier quickstart; move it away or choose another directory with --out")
        return _quickstart(recipe, method, out, run_job, notice)


def _quickstart(recipe: Recipe, method: Method, out: Path, run_job: RunJob, notice: Notice) -> dict[str, Any]:
    clock = Clock(make_world(recipe, out, run_job, notice))
    spec = without_idle(in_world(recipe, out), method)  # the world has a teacher, whether the method asks it or not
    with clock.timed("distillation"):
        run_job(recipe.method.name.upper(), prepare_train(spec, out / "sod", False, notice))
    summary: dict[str, Any] = {}
    with clock.timed("evaluation"):
        for label, directory in EVALUATED.items():
            spec = in_world(recipe, out, directory)
            told = partial(_told_of, label, notice)
            summary[label] = evaluate_model(spec, str(out / "data" / "test.parquet"), told).as_dict()
    summary["seed"] = recipe.seed
    summary["seconds"] = rounded(clock.seconds)
    write_json_atomic(out / "summary.json", summary)
    return summary


def make_world(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, float]:
    """Write the recipe's world below `out`: `data`, `teacher-init`, `student-init`, `teacher-sft`, `student-sft`.

    Both models begin with random weights, so all of them are trained here, whatever `student.lora` says. Returns the
    seconds of each stage, to 0.1. Raises SodError when the recipe has no `world` section.
    """
    world = recipe.world
    if world is None:
        raise SodError("this recipe has no world section")
    refuse_other_teachers(recipe)
    clock = Clock()
    with clock.timed("data and models"):
        python = recipe.tools.python or PythonSpec()
        tool = python_schema(False, python.name, python.argument)
        conversations = make_data(world, recipe.seed, out / "data", tool)
        make_models(world, recipe, conversations, {name: out / name for name in ("teacher-init", "student-init")})
    whole = recipe.student.model_copy(update={"lora": None})
    base = in_world(recipe.model_copy(update={"student": whole}), out, "student-init")
    with clock.timed("teacher sft"):
        traces = base.data.model_copy(update={"sft": str(out / "data" / "sft-teacher.parquet")})
        local = _teacher(recipe, out / "teacher-init").local
        assert local is not None
        teacher = StudentSpec(**local.model_dump())
        spec = base.model_copy(update={"student": teacher, "sft": world.teacher_sft, "data": traces})
        run_job("teacher SFT", prepare_sft(spec, out / "teacher-sft", False, notice))
    with clock.timed("student sft"):
        run_job("student SFT", prepare_sft(base, out / "student-sft", False, notice))
    return rounded(clock.seconds)


def in_world(recipe: Recipe, out: Path, student: str = "student-sft") -> Recipe:
    """The recipe with the data and the teacher of the world below `out`, and one of its models as the student."""
    return recipe.model_copy(
        update={
            "student": recipe.student.model_copy(update={"path": str(out / student)}),
            "teacher": _teacher(recipe, out / "teacher-sft"),
            "teachers": TeachersSpec(),
            "data": recipe.data.model_copy(update=data_paths(out / "data")),
        }
    )


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """The seconds of each stage to 0.1, as results on disk hold them."""
    return {stage: round(value, 1) for stage, value in seconds.items()}


def _told_of(label: str, notice: Notice, text: str) -> None:
    """What there is to tell of one of the models."""
    notice(f"{label}: {text}")


def refuse_other_teachers(recipe: Recipe) -> None:
    """Raises SodError where a recipe with a world names teachers that are served, or several."""
    for key, spec in recipe.teaching.items():
        if spec.path is None or key != "teacher":
            raise SodError(f"{recipe.name}: {key}={spec.shown}: a world makes its own teacher; leave {key} out (=null)")


def _teacher(recipe: Recipe, path: Path) -> TeacherSpec:
    """The teacher at `path`, trained where it will teach; where the recipe has none, one that runs as the student."""
    spec = recipe.local_teachers.get("teacher") or recipe.student.whole
    device = recipe.student.device if spec.device == "auto" else spec.device
    return TeacherSpec(path=str(path), dtype=spec.dtype, device=device)
