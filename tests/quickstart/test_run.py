"""The stages of a world, in their order, with what each leaves and its seconds."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sod.build.job import Job
from sod.quickstart.run import make_world, quickstart, rounded
from sod.recipe import Recipe, parse_recipe
from sod.records import SodError
from sod.runlog import locked

SHAPE = {"layers": 1, "hidden": 32, "heads": 2, "ffn": 64}
SFT = {"steps": 1, "batch_size": 2, "checkpoint_every": 1}


def tiny(**more: Any) -> Recipe:
    sizes = {"sft": 16, "train": 4, "validation": 2, "test": 2, "shortest": 1, "longest": 2}
    world = {**sizes, "vocab_size": 400, "context": 512, "teacher": SHAPE, "student": SHAPE, "teacher_sft": SFT}
    values = {"student": {"path": "unused"}, "chat": {"template": "hermes"}, "sft": SFT, "world": world}
    return parse_recipe({**values, **more}, "here")


def test_a_world_is_made_stage_by_stage(tmp_path: Path) -> None:
    jobs: list[tuple[str, Path]] = []

    def run_job(title: str, job: Job) -> None:
        jobs.append((title, job.log.path))
        with closing(job):
            job.start([])

    seconds = make_world(tiny(), tmp_path, run_job, lambda text: None)
    assert list(seconds) == ["data and models", "teacher sft", "student sft"]
    assert all(value >= 0.0 and value == round(value, 1) for value in seconds.values())
    assert jobs == [("teacher SFT", tmp_path / "teacher-sft"), ("student SFT", tmp_path / "student-sft")]
    assert {path.name for path in tmp_path.iterdir()} >= {"data", "teacher-init", "student-init"}


def test_seconds_are_told_to_a_tenth() -> None:
    assert rounded({"a": 1.26, "b": 0.04}) == {"a": 1.3, "b": 0.0}


def test_an_earlier_quickstart_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SodError, match="holds an earlier quickstart"):
        quickstart(tiny(), tmp_path, lambda title, job: None, lambda text: None)
    with pytest.raises(SodError, match="no world section"):
        quickstart(tiny(world=None), tmp_path, lambda title, job: None, lambda text: None)


def test_two_quickstarts_do_not_share_a_directory(tmp_path: Path) -> None:
    """Whoever comes second is refused before any data is written, and by a stage of the first one too."""
    out = tmp_path / "out"
    with locked(out), pytest.raises(SodError, match=f"{out}: process {os.getpid()} on .* is writing here"):
        quickstart(tiny(), out, lambda title, job: None, lambda text: None)
    assert not out.exists()
    with locked(out / "teacher-sft"), pytest.raises(SodError, match=f"{out}/teacher-sft: process"):
        quickstart(tiny(), out, lambda title, job: None, lambda text: None)
