"""The main job from nothing: a world, a teacher, a student, SFT, then step-wise on-policy distillation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sod.build import Job, Notice, evaluate_model, prepare_sft, prepare_train
from sod.recipe import ModelSpec, Recipe
from sod.records import SodError
from sod.runlog import write_json_atomic
from sod.world import data_paths, make_data, make_models

RunJob = Callable[[str, Job], None]
"""Runs a job to its end, showing its progress under a title."""


def quickstart(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, Any]:
    """Run every stage below `out` and return the summary that is written to `out/summary.json`.

    The summary's keys `vanilla`, `sft`, `sod` and `teacher` hold the figures of the same held-out test
    tasks, which no training saw; `seconds` tells how long each stage took. Raises SodError when the
    recipe has no `world` section, or `out` holds an earlier quickstart.
    """
    world = recipe.world
    if world is None:
        raise SodError("this recipe has no world section; start from recipes/quickstart.yaml")
    if (out / "data").exists():
        raise SodError(f"{out}: holds an earlier quickstart; move it away or choose another directory with --out")
    paths = {name: out / name for name in ("data", "teacher-init", "student-init", "teacher-sft", "student-sft", "sod")}
    seconds: dict[str, float] = {}
    with _timed(seconds, "data and models"):
        conversations = make_data(world, recipe.seed, paths["data"])
        make_models(world, recipe, conversations, paths)
    base = recipe.model_copy(update={"data": recipe.data.model_copy(update=data_paths(paths["data"]))})
    with _timed(seconds, "teacher sft"):
        traces = base.data.model_copy(update={"sft": str(paths["data"] / "sft-teacher.parquet")})
        update = {"student": _at(recipe, paths["teacher-init"]), "sft": world.teacher_sft, "data": traces}
        spec = base.model_copy(update=update)
        run_job("teacher SFT", prepare_sft(spec, paths["teacher-sft"], False, notice))
    with _timed(seconds, "student sft"):
        spec = base.model_copy(update={"student": _at(recipe, paths["student-init"])})
        run_job("student SFT", prepare_sft(spec, paths["student-sft"], False, notice))
    with _timed(seconds, "distillation"):
        spec = base.model_copy(
            update={"student": _at(recipe, paths["student-sft"]), "teacher": _at(recipe, paths["teacher-sft"])}
        )
        run_job(recipe.method.name.upper(), prepare_train(spec, paths["sod"], False, notice))
    summary: dict[str, Any] = {}
    with _timed(seconds, "evaluation"):
        for label, name in (
            ("vanilla", "student-init"),
            ("sft", "student-sft"),
            ("sod", "sod"),
            ("teacher", "teacher-sft"),
        ):
            spec = base.model_copy(update={"student": _at(recipe, paths[name])})
            summary[label] = evaluate_model(spec, str(paths["data"] / "test.parquet"), notice).as_dict()
    summary["seed"] = recipe.seed
    summary["seconds"] = seconds
    write_json_atomic(out / "summary.json", summary)
    return summary


def _at(recipe: Recipe, path: Path) -> ModelSpec:
    return ModelSpec(path=str(path), dtype=recipe.student.dtype)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 1)
