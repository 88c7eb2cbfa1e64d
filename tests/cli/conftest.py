"""A tiny world made by `sod quickstart` itself, and ways to run `sod`: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sod.cli import main as cli
from sod.report.metrics import PANELS
from sod.runlog import RunLog
from sod.tasks.files import load_tasks, write_tasks
from support import made_once
from warm import WarmProcess, start_warm
from warm_server import HEAVY

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "student": "",  # filled in by `World.recipe`
    "chat": {"template": "hermes"},
    "tools": {
        "python": {
            "timeout_seconds": 5.0,
            "memory_mb": 256,
            "max_code_chars": 14,
            "max_output_chars": 64,
            "preload": [],
        }
    },
    "rollout": {
        "prompts": 2,
        "samples": 2,
        "max_turns": 4,
        "max_prompt_tokens": 128,
        "max_turn_tokens": 24,
        "max_response_tokens": 160,
    },
    "method": "sod",
    "optim": {"lr": 1e-3, "warmup_steps": 1, "micro_batch_tokens": 256},
    "train": {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 2, "trajectories_every": 1},
    "sft": {"steps": 70, "batch_size": 8, "checkpoint_every": 1000, "optim": {"lr": 1e-2, "warmup_steps": 5}},
    "evaluation": {"k": 2, "tasks": 0},
    "world": {
        "shortest": 2,
        "longest": 3,
        "sft": 64,
        "train": 24,
        "validation": 4,
        "test": 6,
        "vocab_size": 400,
        "context": 512,
        "teacher": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 64},
        "student": {"layers": 1, "hidden": 32, "heads": 2, "ffn": 64},
        "teacher_sft": {"steps": 100, "batch_size": 8, "optim": {"lr": 1e-2, "warmup_steps": 5, "schedule": "cosine"}},
    },
}


multiprocessing.set_forkserver_preload(["sod", *HEAVY])
WARM_WORKERS = SimpleNamespace(get_context=lambda _method: multiprocessing.get_context("forkserver"))


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class World:
    """The directory of a finished tiny quickstart."""

    path: Path

    def data(self, name: str) -> str:
        """A split: `sft`, `train`, `validation`, `test`, or `reachable` (see `make_reachable`)."""
        return str(self.path / "data" / f"{name}.parquet")

    @property
    def student(self) -> str:
        """The student after a little SFT: it calls the tool, often wrongly."""
        return str(self.path / "student-sft")

    @property
    def teacher(self) -> str:
        return str(self.path / "teacher-sft")

    def recipe(self, directory: Path) -> Path:
        """A recipe file that trains this world's student with its teacher."""
        content = {
            **RECIPE,
            # No answer of the first 14 steps needs the math verifier's interpreter, which starts longer than a run
            # takes, and in the first four the rewards of some group differ.
            "seed": 7,
            "student": {"path": self.student, "dtype": "float32"},
            "teacher": {"path": self.teacher, "dtype": "float32"},
            "data": {"sft": self.data("sft"), "train": self.data("reachable"), "validation": self.data("validation")},
        }
        path = directory / "recipe.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


def run_sod(*arguments: str | Path) -> Outcome:
    """`sod ARGUMENTS` in this process, through its real entry point. What `main` does not catch is raised.

    The picture of a run has few of its panels, and workers of a comparison begin with PyTorch imported.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["sod", *map(str, arguments)])
        patch.setenv("SOD_ALLOCATOR", "off")
        # A picture of all panels would take longer than most of these runs: tests/report draws those.
        patch.setattr("sod.report.curves.PANELS", PANELS[:2])
        patch.setattr("sod.build.workers.multiprocessing", WARM_WORKERS)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


Process = subprocess.Popen[str] | WarmProcess


def start_sod(arguments: Sequence[str | Path], cwd: Path | None = None) -> subprocess.Popen[str]:
    """The real command, `sod ARGUMENTS`, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sod", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off"},
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: Process, seconds: float = 300.0) -> None:
    """Poll until `condition` holds; fails when the process ends before that."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"the process ended with {process.returncode} too early:\n{out}\n{err}")
        if time.monotonic() > limit:
            process.kill()
            pytest.fail(f"nothing happened within {seconds} s:\n{process.communicate()}")
        time.sleep(0.001)


def make_reachable(world: World, scratch: Path) -> None:
    """Write the training tasks with answers that the student sometimes gives, so that rewards differ.

    So small a student is never right; its first sample of each task in a run that hardly moves becomes the
    ground truth, so that a run of the same seed meets it again.
    """
    shutil.copy(world.data("train"), world.data("reachable"))
    count = RECIPE["world"]["train"] // RECIPE["rollout"]["prompts"]
    changes = (f"train.steps={count}", "optim.lr=1e-12", "train.checkpoint_every=1000")
    ended = run_sod("train", world.recipe(scratch), *changes, "--run", scratch / "still")
    assert ended.code == 0, ended.err
    rows = [row for step in range(1, count + 1) for row in RunLog.open(scratch / "still").trajectories(step)]
    given = {row["task_id"]: row["answer"] for row in rows if row["answer"] and row["sample"] == 0}
    tasks = load_tasks(world.data("train")).items
    write_tasks(world.data("reachable"), [replace(t, ground_truth=given.get(t.id, t.ground_truth)) for t in tasks])


@pytest.fixture(scope="session")
def sod() -> Callable[..., Outcome]:
    """See `run_sod`."""
    return run_sod


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """See `wait_for`."""
    return wait_for


@pytest.fixture
def start() -> Iterator[Callable[..., WarmProcess]]:
    """`start(*arguments)`: `sod ARGUMENTS` in a process of its own that has PyTorch already (`warm.py`)."""
    with _started(lambda arguments, cwd: start_warm(["-m", "sod", *arguments], cwd)) as begin:
        yield begin


@pytest.fixture
def start_anew() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """As `start`, but the real command (`start_sod`)."""
    with _started(start_sod) as begin:
        yield begin


@contextlib.contextmanager
def _started(start: Callable[[Sequence[str | Path], Path | None], Process]) -> Iterator[Callable[..., Any]]:
    """Starts processes; those that still run at the end are killed."""
    started: list[Process] = []

    def begin(*arguments: str | Path, cwd: Path | None = None) -> Process:
        started.append(start(arguments, cwd))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, teacher, student and a finished three-step run, from `sod quickstart`. No test may change it."""
    return World(made_once(tmp_path_factory, "world", make_world) / "qs")


def make_world(directory: Path) -> None:
    recipe = directory / "quickstart.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "student": {"path": "replaced"}}), encoding="utf-8")
    ended = run_sod("quickstart", recipe, "--out", directory / "qs")
    assert ended.code == 0, ended.err
    make_reachable(World(directory / "qs"), directory)


@pytest.fixture
def recipe(world: World, tmp_path: Path) -> Path:
    """A recipe file of the test's own."""
    return world.recipe(tmp_path)


@pytest.fixture(scope="session")
def finished(world: World) -> RunLog:
    """The distillation run of the quickstart."""
    return RunLog.open(world.path / "sod")
