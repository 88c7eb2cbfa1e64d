"""The main job from nothing: a world, a teacher, a student, SFT, then step-wise on-policy distillation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sod.build.evaluation import evaluate_model
from sod.build.job import Job, Notice
from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.quickstart.world import data_paths, make_data, make_models
from sod.recipe import ModelSpec, Recipe
from sod.records import SodError
from sod.runlog import write_json_atomic

RunJob = Callable[[str, Job], None]
"""Runs a job to its end, showing its progress under a title."""


def quickstart(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, Any]:
    """Run every stage below `out` and return the summary that is written to `out/summary.json`.

    The summary's keys `vanilla`, `sft`, `sod` and `teacher` hold the figures of the same held-out test
    tasks, which no training saw; `seconds` tells how long each stage took. Raises SodError when the
    recipe has no `world` section, or `out` holds an earlier quickstart.
    """
    if recipe.world is None:
        raise SodError("this recipe has no world section; start from recipes/quickstart.yaml")
    if (out / "data").exists():
        raise SodError(f"{out}: holds an earlier quickstart; move it away or choose another directory with --out")
    seconds = make_world(recipe, out, run_job, notice)
    with _timed(seconds, "distillation"):
        run_job(recipe.method.name.upper(), prepare_train(in_world(recipe, out), out / "sod", False, notice))
    summary: dict[str, Any] = {}
    with _timed(seconds, "evaluation"):
        for label, name in (
            ("vanilla", "student-init"),
            ("sft", "student-sft"),
            ("sod", "sod"),
            ("teacher", "teacher-sft"),
        ):
            spec = in_world(recipe, out, name)
            summary[label] = evaluate_model(spec, str(out / "data" / "test.parquet"), notice).as_dict()
    summary["seed"] = recipe.seed
    summary["seconds"] = seconds
    write_json_atomic(out / "summary.json", summary)
    return summary


def make_world(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, float]:
    """Write the recipe's world below `out`: `data`, `teacher-init`, `student-init`, `teacher-sft`, `student-sft`.

    Returns the seconds of each stage. Raises SodError when the recipe has no `world` section.
    """
    world = recipe.world
    if world is None:
        raise SodError("this recipe has no world section")
    seconds: dict[str, float] = {}
    with _timed(seconds, "data and models"):
        conversations = make_data(world, recipe.seed, out / "data")
        make_models(world, recipe, conversations, {name: out / name for name in ("teacher-init", "student-init")})
    base = in_world(recipe, out, "student-init")
    with _timed(seconds, "teacher sft"):
        traces = base.data.model_copy(update={"sft": str(out / "data" / "sft-teacher.parquet")})
        teacher = _at(recipe.teacher or recipe.student, out / "teacher-init")
        spec = base.model_copy(update={"student": teacher, "sft": world.teacher_sft, "data": traces})
        run_job("teacher SFT", prepare_sft(spec, out / "teacher-sft", False, notice))
    with _timed(seconds, "student sft"):
        run_job("student SFT", prepare_sft(base, out / "student-sft", False, notice))
    return seconds


def in_world(recipe: Recipe, out: Path, student: str = "student-sft") -> Recipe:
    """The recipe with the data and the teacher of the world below `out`, and one of its models as the student."""
    return recipe.model_copy(
        update={
            "student": _at(recipe.student, out / student),
            "teacher": _at(recipe.teacher or recipe.student, out / "teacher-sft"),
            "data": recipe.data.model_copy(update=data_paths(out / "data")),
        }
    )


def _at(spec: ModelSpec, path: Path) -> ModelSpec:
    return ModelSpec(path=str(path), dtype=spec.dtype)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 1)
