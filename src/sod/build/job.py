"""What every run is made of: its place on disk, the model being trained, and the job that runs it to its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from sod.build.allocation import warn_of_slow_allocation
from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.models.meter import Meter
from sod.models.recompute import recompute_layers
from sod.recipe import Notice, OptimSpec, Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.runlog import RunLog, guard_hash, refuse_other_recipe
from sod.seeds import derive
from sod.tasks.files import Loaded
from sod.training.checkpoint import COMPLETE, ResumePoint, restore, verify
from sod.training.loop import Listener, Plan, Trainee, resume_point, run_steps
from sod.training.optim import Optimizer
from sod.training.report import StepReport


@final
@dataclass(frozen=True)
class Place:
    """Where a run lives: `log` is None for a new one until `make`, `resume` None where it begins at step 1."""

    directory: Path
    recipe_hash: str
    log: RunLog | None = None
    resume: ResumePoint | None = None

    @property
    def done(self) -> int:
        """Steps done."""
        return 0 if self.resume is None else self.resume.step

    def make(self, recipe: Recipe) -> None:
        """Make the directory of a new run. Raises SodError where it cannot be."""
        if self.log is None:
            RunLog.create(self.directory, resolved(recipe), recipe.seed)


@final
@dataclass(frozen=True)
class Job:
    """A run that is ready to go; `make` writes the directory of a new one as it starts.

    `evaluate` gives the figures of an evaluation after a step, None for no evaluations.

    What was opened for it is in `resources`; close it when it is over.
    """

    log: RunLog
    make: Callable[[], None]
    plan: Plan
    done: int
    take_step: Callable[[int], StepReport]
    trainee: Trainee
    evaluate: Callable[[int], dict[str, float]] | None = None
    meter: Meter = field(default_factory=Meter)
    resources: ExitStack = field(default_factory=ExitStack)

    def start(self, listeners: list[Listener]) -> None:
        """Run it to its end. Raises as `run_steps` and the step do.

        What fails before its first step is over leaves no run behind: the same command can be given again.
        """
        self.make()
        try:
            run_steps(self.plan, self.log, self.done, self.take_step, self.trainee, listeners, self.evaluate)
        except Exception:
            self.log.forget_unbegun()
            raise
        if self.meter.on:
            self.log.write_profile(self.meter.rows())

    def close(self) -> None:
        """Close what was opened for it. Safe to call twice."""
        self.resources.close()


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
    """The usable items of a source; skipped rows are told."""
    if loaded.skipped:
        notice(f"{source}: {loaded.summary()}")
    return list(loaded.items)


def find_place(recipe: Recipe, directory: Path, resume: bool, kind: str) -> Place:
    """Where the run goes, or goes on.

    A resumed run keeps to the recipe it was started with, except where `recipe` sets neutral keys anew
    (`runlog.NEUTRAL_KEYS`). Raises SodError for any other difference, where a new run would overwrite another, for a
    run of another kind, and where the newest checkpoint cannot be gone on from.
    """
    if not resume:
        RunLog.refuse_existing(directory)
        return Place(directory, guard_hash(resolved(recipe)))
    log = RunLog.open(directory)
    others = {row["kind"] for row in log.metrics()} - {kind}
    if others:
        raise SodError(f"{directory}: a run of `sod {others.pop()}`; it cannot be resumed as `sod {kind}`")
    own = parse_recipe(log.recipe(), str(directory / "recipe.yaml"))
    refuse_other_recipe(directory, resolved(own), resolved(recipe))
    hashed = log.recipe_sha256()
    return Place(directory, hashed, log, resume_point(log, hashed))


def trained_model(recipe: Recipe, spec: OptimSpec, steps: int, resume: ResumePoint | None) -> tuple[Any, Optimizer]:
    """`(model, its optimizer)`, from the recipe's student or from a checkpoint."""
    path = final_model(recipe.student.path) if resume is None else str(resume.directory)
    student = load_model(path, recipe.student.dtype)
    if spec.recompute:
        recompute_layers(student)
    optimizer = Optimizer(student, spec, steps)
    if resume is not None:
        restore(resume, "optimizer", optimizer.load)
    return student, optimizer


def saver(model: Any, chat: Chat) -> Callable[[Path], None]:
    """Writes the model and its tokenizer into a directory."""
    return lambda directory: save_model(model, chat.tokenizer, chat.template, chat.end_id, directory)


def prepare_torch(recipe: Recipe) -> None:
    """Seed torch's global generator and set the number of threads."""
    warn_of_slow_allocation()
    # Nothing of ours draws from the generator; a model with dropout would.
    torch.manual_seed(derive(recipe.seed, "torch"))
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
