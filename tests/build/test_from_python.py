"""A run from Python, outside of the `sod` command: in any thread, and nothing half-made is left behind."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.build.supervised import prepare_sft
from sod.models.load import save_model
from sod.recipe import Recipe, parse_recipe
from sod.records import SodError
from sod.runlog import RunLog
from sod.tasks.files import write_conversations


@pytest.fixture
def recipe(tmp_path: Path, random_model: Callable[..., Any], chat: Any, conversations: Any) -> Recipe:
    """Two steps of SFT of a tiny model."""
    save_model(random_model(), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "model")
    write_conversations(tmp_path / "sft.parquet", conversations[:8])
    content = {
        "student": {"path": str(tmp_path / "model")},
        "data": {"sft": str(tmp_path / "sft.parquet")},
        "sft": {"steps": 2, "batch_size": 2},
    }
    return parse_recipe(content, "a test")


def test_a_run_starts_outside_of_the_main_thread(recipe: Recipe, tmp_path: Path) -> None:
    """Prepared and run there; signals are left alone."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            prepare_sft(recipe, tmp_path / "run", False, print).start([])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    assert [row["step"] for row in RunLog.open(tmp_path / "run").metrics()] == [1, 2]


def test_preparing_alone_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """A run that is never started can be prepared again."""
    for _ in range(2):
        prepare_sft(recipe, tmp_path / "run", False, print).close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fails", ["prepare", "start"])
def test_a_failure_before_the_first_step_leaves_no_run(
    fails: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call works once its cause is gone."""
    with monkeypatch.context() as patch:

        def broken(*given: Any, **options: Any) -> Any:
            raise RuntimeError("no memory")

        where = "sod.build.job.Optimizer.__init__" if fails == "prepare" else "sod.training.sft.action_logps"
        patch.setattr(where, broken)
        with pytest.raises(RuntimeError, match="no memory"):
            prepare_sft(recipe, tmp_path / "run", False, print).start([])
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    prepare_sft(recipe, tmp_path / "run", False, print).start([])
    assert len(RunLog.open(tmp_path / "run").metrics()) == 2


def test_a_failure_after_a_step_keeps_the_run(recipe: Recipe, tmp_path: Path) -> None:
    """What was done can be gone on from."""

    def stop(report: Any) -> None:
        raise SodError("enough")

    with pytest.raises(SodError, match="enough"):
        prepare_sft(recipe, tmp_path / "run", False, print).start([stop])
    prepare_sft(recipe, tmp_path / "run", True, print).start([])
    assert len(RunLog.open(tmp_path / "run").metrics()) == 2


# Prepares nothing: what starts training or evaluation asks twice, as two runs of a process would. Each setting has a
# fork of its own, so that what is slow to import is imported once.
CHILD = """
import json, os, sys, warnings
from sod.build.devices import find_devices
from sod.build.job import prepare_torch
from sod.recipe import parse_recipe
recipe = parse_recipe({"student": {"path": "x", "device": "cpu"}}, "a test")
for setting in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update([setting])
        devices = find_devices(recipe, warnings.warn)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            devices = find_devices(recipe, warnings.warn)
            prepare_torch(recipe, devices)
            prepare_torch(recipe, devices)
        print(json.dumps([str(one.message) for one in seen if "GLIBC_TUNABLES" in str(one.message)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.slow
def test_slow_allocation_is_warned_of_once() -> None:
    """With the command line that sets the tunables; not where the user has decided."""
    settings = [("X", "x"), ("SOD_ALLOCATOR", "off"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")]
    decided = ("SOD_ALLOCATOR", "GLIBC_TUNABLES", "LD_PRELOAD")
    env = {name: given for name, given in os.environ.items() if name not in decided}
    command = [sys.executable, "-c", CHILD, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    undecided, *others = map(json.loads, done.stdout.splitlines())
    (line,) = undecided
    assert "    GLIBC_TUNABLES=glibc.malloc" in line
    assert sys.executable in line
    assert others == [[], []]
