"""What every run is made of: its place on disk, the model being trained, and the job that runs it to its end."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from sod.build.allocation import warn_of_slow_allocation
from sod.build.devices import Devices
from sod.build.own_code import code_rows, tell_changed
from sod.build.ranks import Brief, gatherer, whole_copy
from sod.chat.render import Chat
from sod.models.adapters import base_source, is_adapter
from sod.models.compiled import compile_model, wants_compiling, why_not
from sod.models.device import repeat_exactly
from sod.models.load import load_model, save_model
from sod.models.lora import load_adapter, merged, new_adapter, second_model, set_adapter, shared_copy
from sod.models.memory import naming_phase
from sod.models.meter import Meter
from sod.models.peaks import peaks_by_role
from sod.models.ranks import ALONE, Ranks
from sod.models.recompute import recompute_layers
from sod.models.support import Support
from sod.models.zoo import hub_id_of
from sod.recipe import Notice, OptimSpec, Recipe, parse_recipe, resolved
from sod.records import SodError
from sod.runlog import RunLog, guard_hash, locked, refuse_other_recipe
from sod.seeds import derive
from sod.tasks.loaded import Loaded
from sod.training.checkpoint import (
    MODEL,
    ResumePoint,
    State,
    is_checkpoint,
    model_of,
    newest_good,
    restore,
    verify,
    write_nothing,
)
from sod.training.loop import Listener, Plan, Trainee, clear_way, resume_point, run_steps
from sod.training.optim import Optimizer
from sod.training.report import StepReport
from sod.training.shards import has_shards, read_shards, write_shards


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

    def brief(self, recipe: Recipe, world_tools: Sequence[Mapping[str, Any]] = ()) -> Brief:
        """What other ranks are told of it, and of the run's `located` recipe."""
        resumed = None if self.resume is None else self.resume.directory
        return Brief(self.directory, self.recipe_hash, resumed, recipe, world_tools)

    @classmethod
    def of(cls, brief: Brief) -> Place:
        """Where rank 0's run lives, for another rank, which writes nothing but its pieces there."""
        return cls(brief.directory, brief.recipe_hash, RunLog(brief.directory), brief.resume())

    def make(self, recipe: Recipe) -> None:
        """Write the directory of a new run, or make that of an old one ready to go on.

        The first to write there, under the lock of `find_place`. Raises SodError where it cannot be done.
        """
        if self.log is None:
            RunLog.create(self.directory, resolved(recipe), recipe.seed, code_rows(recipe))
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

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks: the only one, or rank 0."""
        return self.trainee.ranks.first

    def start(self, listeners: list[Listener]) -> None:
        """Run it to its end; on all ranks, where there are several. Raises as `run_steps` and the step do.

        What fails before its first step is over leaves no run behind: the same command can be given again.
        """
        self.make()
        try:
            with long_lived_set_apart():
                run_steps(self.plan, self.log, self.done, self.take_step, self.trainee, listeners, self.evaluate)
        except Exception:
            if self.first:
                self.log.forget_unbegun()
            raise
        if self.meter.on and self.first:
            peaks = peaks_by_role(self.models)
            self.log.write_profile(self.meter.rows(peaks), {role: asdict(peak) for role, peak in peaks.items()})

    def close(self) -> None:
        """Close what was opened for it. Safe to call twice."""
        self.resources.close()


@contextmanager
def long_lived_set_apart() -> Iterator[None]:
    """What is there now is not looked at by Python's garbage collector inside.

    A run's tokenizers and tasks are millions of objects, which live as long as it does: going over them again and again
    took a third of the time of matching turns. Where the program that we are part of has set its own apart
    (`gc.freeze`), that is left as it is, as what is set apart together is given back together.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def final_model(path: str, notice: Notice = warnings.warn) -> str:
    """The model directory behind `path`: a run (its newest good checkpoint), a checkpoint, its `model/`, or a model.

    A short name of a released model (`sod models list`) gives its hub id.

    `notice` hears of checkpoints passed over because they are broken. Raises SodError where a run has no good one, and
    for a checkpoint that was named and is broken.
    """
    path = hub_id_of(path)
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
    """The recipe with the directories that its student and teachers are loaded from. Raises as `final_model`."""
    teachers = {key: spec.path for key, spec in recipe.local_teachers.items()}
    found = {path: final_model(path, notice) for path in dict.fromkeys([recipe.student.path, *teachers.values()])}
    return recipe.with_paths(found[recipe.student.path], {key: found[path] for key, path in teachers.items()})


def told(loaded: Loaded[Any], source: str, notice: Notice) -> list[Any]:
    """The usable items of a source; skipped rows are told, and so are fields that nobody used."""
    if loaded.skipped:
        notice(f"{source}: {loaded.summary()}")
    for remark, count in loaded.remarks.items():
        notice(f"{source}: {remark}: {count:,} of {len(loaded.items):,} rows")
    if loaded.unused:
        notice(f"{source}: nothing is made of these fields: {loaded.unused_line()}; data.columns can say what they are")
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
    tell_changed(log.manifest(), recipe, directory, notice)
    hashed = log.recipe_sha256()
    return Place(directory, hashed, log, resume_point(log, hashed, notice))


def common_place(ranks: Ranks, recipe: Recipe, find: Callable[[], Place]) -> Place:
    """Where the run of all ranks goes: rank 0 finds it, and keeps others away, and the others read its checkpoint."""
    own: list[Place] = []

    def brief() -> Brief:
        own.append(find())
        return own[0].brief(recipe)

    told = ranks.shared(brief)
    return own[0] if own else Place.of(told)


@final
@dataclass(frozen=True)
class Learner:
    """The model that a run trains, and its optimizer.

    With an adapter `start` is the model as the run began, over the same weights; None where all weights are trained.
    `playing` is what plays while `model` learns, with weights of its own; None where they take turns.
    Over several `ranks` the model is sharded, and rank 0 has a `whole` copy.
    """

    model: Any
    optimizer: Optimizer
    start: Any | None = None
    playing: Any | None = None
    whole: Any | None = None
    ranks: Ranks = ALONE

    @property
    def sampled(self) -> Any:
        """The model that an engine samples with."""
        apart = self.whole if self.playing is None else self.playing
        return self.model if apart is None else apart

    def trainee(self, state: Callable[[], State], chat: Chat) -> Trainee:
        """What a checkpoint is made of, `state` beside the model."""
        save = saver(self.model if self.whole is None else self.whole, chat)
        # Not a method of ours, which would keep `start` alive: with an adapter the whole weights on every rank.
        pieces = partial(_write_pieces, self.model, self.optimizer, self.whole, self.ranks)
        return Trainee(state, save, write_nothing if self.ranks.count == 1 else pieces, self.ranks)


def _write_pieces(model: Any, optimizer: Optimizer, whole: Any | None, ranks: Ranks, directory: Path) -> None:
    write_shards(directory, optimizer, ranks)
    gatherer(whole)(model)


def make_learner(
    recipe: Recipe,
    spec: OptimSpec,
    steps: int,
    support: Support,
    resume: ResumePoint | None,
    device: torch.device,
    notice: Notice,
    ranks: Ranks = ALONE,
    whole_on: torch.device | None = None,
) -> Learner:
    """The student of a `located` recipe over the support, or where it stands in a checkpoint, and its optimizer.

    Over several `ranks` it is sharded, and rank 0 has a whole copy of it, on `whole_on` or its own device. Where the
    recipe lets it play beside the learning a second one does. Raises SodError for weights that cannot be loaded.
    """
    student = _whole_student if recipe.student.lora is None else _adapted_student
    with naming_phase("loading the student"):
        model, start = student(recipe, support, resume, device)
        whole = None if ranks.count == 1 else whole_copy(model, ranks, whole_on or device)
        # Servers have weights of their own, and so has the whole copy of a sharded model.
        apart = recipe.rollout.max_staleness and recipe.engine.kind == "torch" and ranks.count == 1
        playing = second_model(model) if apart else None
        compile_where_wanted(model, spec, notice)
        if spec.recompute:
            recompute_layers(model)
        if ranks.count > 1:
            from sod.models.parallel import shard

            shard(model, ranks)
        optimizer = Optimizer(model, spec, steps)
        if resume is not None:
            pieces = partial(_read_pieces, resume.directory, optimizer, ranks)
            restore(resume, "optimizer", pieces if has_shards(resume.directory) else optimizer.load)
    return Learner(model, optimizer, start, playing, whole, ranks)


def _read_pieces(directory: Path, optimizer: Optimizer, ranks: Ranks, state: Any) -> None:
    read_shards(directory, optimizer, ranks)


def _whole_student(
    recipe: Recipe, support: Support, resume: ResumePoint | None, device: torch.device
) -> tuple[Any, None]:
    """The student with all of its weights to be trained; an adapter that it comes with becomes part of them."""
    path = recipe.student.path if resume is None else str(resume.model)
    model = load_model(path, recipe.student.dtype, support, device)
    return (merged(model) if is_adapter(path) else model), None


def _adapted_student(
    recipe: Recipe, support: Support, resume: ResumePoint | None, device: torch.device
) -> tuple[Any, Any]:
    """The student with an adapter to be trained, a new one or the one that it comes with; and it as it began."""
    spec, path = recipe.student, recipe.student.path
    lora = spec.lora
    if lora is None:
        raise ValueError("the recipe's student has no adapter")
    # A run keeps to the weights that it began with, also where its student's path means others by now.
    base = base_source(path if resume is None else str(resume.model)).path
    model = load_model(base, spec.dtype, support, device)
    if is_adapter(path):
        load_adapter(model, path, lora.dropout)
    else:
        new_adapter(model, lora, recipe.seed, path)
    start = shared_copy(model)
    if resume is not None:
        set_adapter(model, str(resume.model))
    return model, start


def compile_where_wanted(model: Any, spec: OptimSpec, notice: Notice) -> None:
    """Compile the model's layers and projection where `optim.compile` says so and the machine can."""
    if not wants_compiling(spec.compile, model):
        return
    reason = why_not(model.device)
    if reason is None:
        compile_model(model)
    else:
        notice(f"optim.compile: torch.compile does not work here ({reason}); going on without, which is slower")


def tell_other_device(resume: ResumePoint | None, device: torch.device, notice: Notice) -> None:
    """Tell of a run that goes on where it was not: there its numbers round in another way."""
    if resume is not None and resume.device != device.type:
        notice(
            f"{resume.directory}: written on {resume.device}, and the run goes on on {device.type}, where sums "
            f"round in another way; with student.device={resume.device} it goes on bit for bit"
        )


def saver(model: Any, chat: Chat) -> Callable[[Path], None]:
    """Writes the model and its tokenizer into a directory."""
    return lambda directory: save_model(model, chat.tokenizer, chat.template, chat.saved_end, directory)


def prepare_torch(recipe: Recipe, devices: Devices, resumed: bool = False) -> None:
    """Seed torch's global generators, set the number of threads, and see to it that what runs on CUDA repeats.

    A `resumed` run keeps the random state that its checkpoint has restored.
    """
    if "cpu" in devices.kinds:
        warn_of_slow_allocation()
    if "cuda" in devices.kinds:
        torch.set_float32_matmul_precision("highest")  # no TF32: float32 is what the engine's proof takes it for
        if recipe.deterministic:
            repeat_exactly()
    if not resumed:
        # Nothing of ours draws from the generators; a model with dropout would.
        torch.manual_seed(derive(recipe.seed, "torch"))
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
