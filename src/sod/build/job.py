"""What every run is made of: its place on disk, the model being trained, and the job that runs it to its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from sod.build.allocation import warn_of_slow_allocation
from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.models.memory import naming_phase
from sod.models.meter import Meter
from sod.models.peaks import peaks_by_role
from sod.models.recompute import recompute_layers
from sod.models.support import Support
from sod.recipe import Notice, OptimSpec, Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.runlog import RunLog, guard_hash, locked, refuse_other_recipe
from sod.seeds import derive
from sod.tasks.files import Loaded
from sod.training.checkpoint import MODEL, ResumePoint, is_checkpoint, model_of, newest_good, restore, verify
from sod.training.loop import Listener, Plan, Trainee, clear_way, resume_point, run_steps
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
        """Write the directory of a new run, or make that of an old one ready to go on.

        The first to write there, under the lock of `find_place`. Raises SodError where it cannot be done.
        """
        if self.log is None:
            RunLog.create(self.directory, resolved(recipe), recipe.seed)
        else:
            clear_way(self.log, self.done)


@final
@dataclass(frozen=True)
class Job:
    """A run that is ready to go; `make` writes its directory as it starts.

    `evaluate` gives the figures of an evaluation after a step, None for no evaluations. `meter` counts what `models`,
    the student and a teacher in this process, do.
    `facts` say what it is made of, a name and a text each. What was opened for it is in `resources`; close it when it
    is over.
    """

    log: RunLog
    make: Callable[[], None]
    plan: Plan
    done: int
    take_step: Callable[[int], StepReport]
    trainee: Trainee
    evaluate: Callable[[int], dict[str, float]] | None = None
    meter: Meter = field(default_factory=Meter)
    models: Mapping[str, Any] = field(default_factory=dict)
    resources: ExitStack = field(default_factory=ExitStack)
    facts: Sequence[tuple[str, str]] = ()

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
            peaks = peaks_by_role(self.models)
            self.log.write_profile(self.meter.rows(peaks), {role: asdict(peak) for role, peak in peaks.items()})

    def close(self) -> None:
        """Close what was opened for it. Safe to call twice."""
        self.resources.close()


def final_model(path: str, notice: Notice = warnings.warn) -> str:
    """The model directory behind `path`: a run (its newest good checkpoint), a checkpoint, its `model/`, or a model.

    `notice` hears of checkpoints passed over because they are broken. Raises SodError where a run has no good one, and
    for a checkpoint that was named and is broken.
    """
    directory = Path(path)
    if RunLog.is_at(directory):
        found = RunLog.open(directory).checkpoints()
        if not found:
            raise SodError(f"{path}: this run has no checkpoint yet")
        return str(newest_good(found, _verified, notice))
    if is_checkpoint(directory):
        return str(_verified(directory))
    whole = directory.resolve()  # `model` and `.` are names of a model directory too
    if whole.name == MODEL and whole.is_dir() and is_checkpoint(whole.parent):
        verify(whole.parent)
    return path


def _verified(directory: Path) -> Path:
    """The model directory of a checkpoint. Raises SodError where it is broken."""
    verify(directory)
    return model_of(directory)


def located(recipe: Recipe, notice: Notice) -> Recipe:
    """The recipe with the directories that its student and teacher are loaded from. Raises as `final_model`."""
    models = {"student": recipe.student} | ({} if recipe.teacher is None else {"teacher": recipe.teacher})
    found = {spec.path: final_model(spec.path, notice) for spec in models.values()}
    return recipe.model_copy(
        update={role: spec.model_copy(update={"path": found[spec.path]}) for role, spec in models.items()}
    )


def told(loaded: Loaded[Any], source: str, notice: Notice) -> list[Any]:
    """The usable items of a source; skipped rows are told."""
    if loaded.skipped:
        notice(f"{source}: {loaded.summary()}")
    return list(loaded.items)


def find_place(recipe: Recipe, directory: Path, resume: bool, kind: str, resources: ExitStack, notice: Notice) -> Place:
    """Where the run goes, or goes on; nobody else may write there until `resources` are closed.

    A resumed run keeps to the recipe it was started with, except where `recipe` sets neutral keys anew
    (`runlog.NEUTRAL_KEYS`). Raises SodError for any other difference, where a new run would overwrite another, for a
    run of another kind, where another process writes, and where no checkpoint of those there are can be gone on from.
    """
    if not resume:
        resources.enter_context(locked(directory))
        RunLog.refuse_existing(directory)
        return Place(directory, guard_hash(resolved(recipe)))
    log = RunLog.open(directory)
    resources.enter_context(locked(directory))
    others = {row["kind"] for row in log.metrics()} - {kind}
    if others:
        raise SodError(f"{directory}: a run of `sod {others.pop()}`; it cannot be resumed as `sod {kind}`")
    own = parse_recipe(log.recipe(), str(directory / "recipe.yaml"))
    refuse_other_recipe(directory, resolved(own), resolved(recipe))
    hashed = log.recipe_sha256()
    return Place(directory, hashed, log, resume_point(log, hashed, notice))


def trained_model(
    recipe: Recipe, spec: OptimSpec, steps: int, support: Support, resume: ResumePoint | None
) -> tuple[Any, Optimizer]:
    """`(model over the support, its optimizer)`, from the student of a `located` recipe, or from a checkpoint."""
    path = recipe.student.path if resume is None else str(resume.model)
    with naming_phase("loading the student"):
        student = load_model(path, recipe.student.dtype, support)
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
