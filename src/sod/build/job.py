"""What every run is made of: its place on disk, the model being trained, and the job that runs it to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.models.recompute import recompute_layers
from sod.recipe import OptimSpec, Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.runlog import RunLog, guard_hash, refuse_other_recipe
from sod.seeds import derive
from sod.tasks.files import Loaded
from sod.training.checkpoint import COMPLETE, verify
from sod.training.loop import Listener, Plan, resume_point
from sod.training.optim import Optimizer

Notice = Callable[[str], None]
"""Tells the user something that is not an error: skipped rows, what is being loaded."""


@dataclass
class Job:
    """A run that is ready to go: `start` runs it to its end."""

    log: RunLog
    plan: Plan
    done: int
    start: Callable[[list[Listener]], None]
    close: Callable[[], None]


def final_model(path: str) -> str:
    """The model directory behind a run (its newest checkpoint) or model path. Raises SodError for a broken one."""
    directory = Path(path)
    if (directory / "recipe.yaml").is_file():
        found = RunLog.open(directory).checkpoints()
        if not found:
            raise SodError(f"{path}: this run has no checkpoint yet")
        directory = found[-1][1]
    if (directory / COMPLETE).exists() or directory.parent.name == "checkpoints":
        verify(directory)
        return str(directory)
    return path


def told(loaded: Loaded[Any], source: str, notice: Notice) -> list[Any]:
    if loaded.skipped:
        notice(f"{source}: {loaded.summary()}")
    return list(loaded.items)


def place(recipe: Recipe, directory: Path, resume: bool, kind: str) -> tuple[Any, RunLog | None, str]:
    """`(resume point or None, the run's log if it exists, the hash that its checkpoints carry)`.

    A resumed run keeps to the recipe it was started with, except where `recipe` sets neutral keys anew
    (`runlog.NEUTRAL_KEYS`). Raises SodError for any other difference, for a run of another kind, and where the newest
    checkpoint cannot be gone on from.
    """
    if not resume:
        RunLog.refuse_existing(directory)
        return None, None, guard_hash(resolved(recipe))
    log = RunLog.open(directory)
    others = {row["kind"] for row in log.metrics()} - {kind}
    if others:
        raise SodError(f"{directory}: a run of `sod {others.pop()}`; it cannot be resumed as `sod {kind}`")
    own = parse_recipe(log.recipe(), str(directory / "recipe.yaml"))
    refuse_other_recipe(directory, resolved(own), resolved(recipe))
    hashed = log.recipe_sha256()
    return resume_point(log, hashed), log, hashed


def trainee(recipe: Recipe, spec: OptimSpec, steps: int, point: Any) -> tuple[Any, Optimizer, int]:
    """`(model, optimizer, steps done)`, from the recipe's student or from a checkpoint."""
    path = final_model(recipe.student.path) if point is None else str(point[0])
    student = load_model(path, recipe.student.dtype)
    if spec.recompute:
        recompute_layers(student)
    optimizer = Optimizer(student, spec, steps)
    if point is None:
        return student, optimizer, 0
    optimizer.load(point[2])
    return student, optimizer, point[1]


def saver(model: Any, chat: Chat) -> Callable[[Path], None]:
    return lambda directory: save_model(model, chat.tokenizer, chat.template, chat.end_id, directory)


def prepare_torch(recipe: Recipe) -> None:
    # Nothing of ours draws from torch's global generator; a model with dropout would.
    torch.manual_seed(derive(recipe.seed, "torch"))
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
