"""One training step. Read this first.

`gather`: the student plays and is rewarded. `learn`: the teacher scores what it sampled, the method turns both into an
advantage per token, and the clipped surrogate (with a dense divergence, where the method has one) moves the student.
Everything but the update's own forward is detached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sod.clock import Clock, nothing_to_wait_for
from sod.engines.base import Sampling
from sod.evaluation.hints import Hints
from sod.models.lora import dropping
from sod.models.memory import naming_phase
from sod.models.meter import Meter
from sod.models.ranks import ALONE, Ranks
from sod.models.score import score
from sod.objective.batch import TokenBatch, aligned_scores, pack, with_prompts
from sod.objective.importance import ImportanceLevel, importance_figures
from sod.objective.methods import Method, Signal, rated
from sod.objective.needs import Need
from sod.objective.scores import OldSource, TeacherScores
from sod.recipe import Recipe
from sod.records import Fault, SodError, Task
from sod.rollout.collect import Collected, Collector
from sod.rollout.health import FaultWindow
from sod.tasks.base import draw_tasks
from sod.teachers.base import LocalModel, Teacher
from sod.training.ahead import Ahead, staleness
from sod.training.measured import StepMeter
from sod.training.optim import Optimizer
from sod.training.report import StepReport, describe
from sod.training.spans import SpanMeasure
from sod.training.stage import RolloutStage
from sod.training.stored import StoredEpisodes
from sod.training.tool_use import ToolUse
from sod.training.update import Updater

PrivilegedPrompt = Callable[[Task], Sequence[int]]
"""Token ids of the prompt that the teacher reads instead of the student's."""


@final
@dataclass
class Run:
    """The live objects of a training run; `sod.build` makes it from a recipe.

    `model_teacher` is the teacher where the method needs its whole model (a dense loss, a self-teacher), else None;
    `teacher_models` are the models of all teachers in this process, by role.
    `privileged` is set where the teacher reads another prompt than the student; `expert` plays the teacher's episodes
    where the student takes over from it. `tools` are the schemas that the model is shown, for the record.
    `span_measure` is the loss over spans of a teacher with another tokenizer, where the method has one.
    `stored` are the episodes of a run that plays none.
    `ahead` plays the next step's episodes while this one learns; without it a step plays its own. `began` are the
    steps that the weights had behind them as the engine began with them. With several `ranks` each has a run: rank 0's
    gathers and reports, and all learn. Of the others no `rollout` is ever asked to play.
    `deaths` says how often servers that the student is sampled with have failed, `deaths_told` how many steps tell of.
    `hints` looks at the episodes of every step, `tool_use` at its figures. `teacher_health` stops the run where the
    teacher too often cannot score. `settle` waits for the devices, so that phases hold their own work
    (`sod.models.settle`).
    """

    recipe: Recipe
    tasks: Sequence[Task]
    student: Any
    teacher: Teacher | None
    rollout: Collector
    method: Method
    optimizer: Optimizer
    dumps: Path
    model_teacher: LocalModel | None = None
    privileged: PrivilegedPrompt | None = None
    expert: Collector | None = None
    meter: Meter = field(default_factory=Meter)
    clock: Clock = field(default_factory=Clock)
    tools: Sequence[Mapping[str, Any]] | None = None
    hints: Hints | None = None
    tool_use: ToolUse | None = None
    span_measure: SpanMeasure | None = None
    teacher_models: Mapping[str, Any] = field(default_factory=dict)
    stored: StoredEpisodes | None = None
    ahead: Ahead | None = None
    began: int = 0
    settle: Callable[[], None] = nothing_to_wait_for
    ranks: Ranks = ALONE
    deaths: Callable[[], int] | None = None
    deaths_told: int = 0
    teacher_health: FaultWindow = field(init=False)

    def __post_init__(self) -> None:
        rollout = self.recipe.rollout
        self.teacher_health = FaultWindow(rollout.max_fault_rate, rollout.fault_window)

    @property
    def measured(self) -> StepMeter:
        """Counts the student's arithmetic."""
        return StepMeter.of(self.meter, self.student, self.recipe.optim.recompute)


@final
@dataclass(frozen=True)
class Gathered:
    """A step's episodes as the batch to learn from; and for its report all that was collected, with its tasks.

    `teacher_episodes` are the figures of what the teacher played, where it played.
    """

    batch: TokenBatch
    collected: Collected
    tasks: Sequence[Task]
    teacher_episodes: Mapping[str, float]


@final
@dataclass(frozen=True)
class Learned:
    """What came of a step's batch: its scores, what the method made of them, and the figures of the updates.

    `faults` are those of the teacher: the trajectories that it could not score are not in the batch any more.
    """

    batch: TokenBatch
    signal: Signal
    updates: dict[str, float]
    faults: tuple[Fault, ...]


def train_step(run: Run, step: int) -> StepReport:
    """Step `step` (from 1): rollout, scores, advantage, update. A pure function of weights, seed and step.

    Raises SodError when every episode faulted, and NonFiniteError (with the batch dumped) before a
    non-finite gradient could move a weight.
    """
    run.clock, whole = Clock(settle=run.settle), Clock(settle=run.settle)
    with whole.timed("step"):
        with naming_phase("sampling"):
            gathered, batch = handed_out(run, step)
        stale = {} if run.ahead is None or gathered is None else aged(run, gathered.collected)
        if run.hints is not None and gathered is not None:
            run.hints.look(gathered.tasks, gathered.collected.groups)
        with run.ranks.in_common():
            learned = learn(run, batch, step)
    if gathered is None:
        return StepReport(step, learned.updates)
    report = describe(
        step=step,
        tasks=gathered.tasks,
        collected=gathered.collected,
        batch=learned.batch,
        signal=learned.signal,
        updates=stale | learned.updates | died(run),
        teacher_episodes=gathered.teacher_episodes,
        teacher_faults=learned.faults,
        clock=run.clock.seconds,
        seconds=whole.total,
        tools=run.tools,
        began=run.began,
    )
    if run.tool_use is not None:
        run.tool_use.look(step, report.metrics)
    return report


def died(run: Run) -> dict[str, float]:
    """How often servers that sample have failed since the step before; nothing where there are none."""
    if run.deaths is None:
        return {}
    before, run.deaths_told = run.deaths_told, run.deaths()
    return {"engine_deaths": float(run.deaths_told - before)}


def handed_out(run: Run, step: int) -> tuple[Gathered | None, TokenBatch]:
    """What rank 0 has played, None on the others, and its batch on all of them. Raises as `gather`, on all."""
    own: list[Gathered] = []

    def batch() -> TokenBatch:
        own.append(played(run, step))
        return own[0].batch

    shared = run.ranks.shared(batch)
    return (own[0] if own else None), shared


def played(run: Run, step: int) -> Gathered:
    """The episodes of a step: played now, or ahead."""
    return gather(run, step) if run.ahead is None else run.ahead.take(step, run.clock)


def gather(run: Run, step: int) -> Gathered:
    """Tasks drawn by (seed, step), their episodes played with real tools and rewarded, as one batch.

    Raises SodError when every episode faulted.
    """
    rollout = run.recipe.rollout
    tasks = draw_tasks(run.tasks, rollout.prompts, run.recipe.seed, step)
    source = run.rollout if run.stored is None else run.stored
    stage = RolloutStage(tasks, rollout.samples, sampling_of(run.recipe), step, source, run.expert, run.clock)
    collected: Collected = run.method.episodes.play(stage, step)
    for phase, seconds in collected.seconds.items():
        run.clock.add(phase, seconds)
    run.meter.add("tools", collected.seconds["tools"])
    if not collected.trajectories:
        raise SodError(f"step {step}: every episode faulted; nothing to train on")
    # What came before a fault is good for the teacher's signal alone.
    before_fault = rollout.distill_before_fault and Need.TEACHER in run.method.needs
    return Gathered(pack(collected.groups, before_fault, tasks), collected, tasks, stage.figures)


def learn(run: Run, batch: TokenBatch, step: int) -> Learned:
    """Score the batch, weigh it, update the student and push its weights.

    Raises NonFiniteError (with the batch dumped) before a non-finite gradient could move a weight.
    """
    batch, faults = scored(run, batch)
    batch = rated(run.method, batch)  # with all of the step's trajectories, before any split
    updates, signal = updater(run), None
    if batch.scores is not None and batch.scores.old_BT is not None:
        batch, signal = updates.weighed(batch, step)
    seed = run.ranks.seed(run.recipe.seed)
    with run.clock.timed("update"), dropping(run.student, seed, step), naming_phase("the update"):
        updated = updates.update(batch, step)
    if signal is None:  # only now are the old log-probabilities known
        batch, signal = updates.weighed(updated.batch, step)
    if run.ahead is not None:
        run.ahead.finish(run.clock)
    run.rollout.engine.sync(run.student)
    if run.model_teacher is not None and (fraction := run.method.teacher_rule.pull(step)):
        run.model_teacher.follow(run.student, fraction)
    figures = updated.figures | weighted(run, batch)
    figures |= {"kappa": run.method.kappa(step), "rho": run.method.rho(step)}
    return Learned(batch, signal, figures, faults)


def weighted(run: Run, batch: TokenBatch) -> dict[str, float]:
    """The figures of the importance weights, where there are any."""
    level, old_BT = importance_of(run.recipe), None if batch.scores is None else batch.scores.old_BT
    return {} if level is None or old_BT is None else importance_figures(old_BT, batch, level)


def aged(run: Run, collected: Collected) -> dict[str, float]:
    """How stale the episodes are, and the seconds that playing them took, beside the step before where it was one."""
    figures = {"staleness": float(staleness(collected.trajectories, run.rollout.engine.version))}
    return figures | {f"seconds_beside/{phase}": seconds for phase, seconds in collected.seconds.items()}


def scored(run: Run, batch: TokenBatch) -> tuple[TokenBatch, tuple[Fault, ...]]:
    """The batch with its old log-probabilities and the teacher's scores; and why trajectories have left it.

    What the teacher could not score leaves the batch, baseline and loss alike. Raises SodError where that is too much
    of the latest episodes, or all of the batch.
    """
    source = run.ranks.shared(partial(old_logps_source, run, batch))
    with run.clock.timed("old"), naming_phase("scoring by the student"):
        old_BT = old_logps(run, batch, source)
    if run.teacher is None:
        return batch.scored(old_BT, old_source=source), ()
    with run.clock.timed("teacher"), naming_phase("scoring by the teacher"):
        view = batch if run.privileged is None else privileged_view(batch, run.privileged)
        k = run.method.choices if run.model_teacher is None else 0
        scores = taught(run.teacher, run.method, batch, view, k)
    batch = batch.scored(old_BT, scores, source)
    faults = tuple(scores.faults.values())
    run.teacher_health.add(len(batch), list(faults))
    kept = [row for row in range(len(batch)) if row not in scores.faults]
    if not kept:
        raise SodError(f"the teacher could not score any trajectory: {faults[0].kind}: {faults[0].detail}")
    return (batch.rows(kept) if faults else batch), faults


def taught(teacher: Teacher, method: Method, batch: TokenBatch, view: TokenBatch, k: int = 0) -> TeacherScores:
    """The teacher's scores of the batch, as much as the method needs; its `k` most probable tokens for an update that
    has not its model.

    `view` is what the teacher reads: the batch itself, or the same trajectories after other prompts.
    """
    scores = teacher.score(view, batch.episodes, replace(method.score_need, k=k))
    return scores if view is batch else aligned_scores(scores, view, batch)


def privileged_view(batch: TokenBatch, privileged: PrivilegedPrompt) -> TokenBatch:
    """The batch after the prompts that a self-teacher reads: one per group, as all of a group have one task."""
    prompts: dict[int, Sequence[int]] = {}
    for group, episode in zip(batch.group_B.tolist(), batch.episodes, strict=True):
        if group not in prompts:
            prompts[group] = privileged(episode.task)
    return with_prompts(batch, prompts)


def old_logps_source(run: Run, batch: TokenBatch) -> OldSource:
    """Whose log-probabilities of the sampled tokens count as the old ones.

    The engine's own where those are the trainer's up to rounding: an exact engine, and nothing truncated. The update
    checks them against its first forward, which must have no dropout then. Else the trainer's under the weights that
    sampled: from the update's own forward, where that has no dropout, the batch is one update, and turn weights need
    one trajectory at a time; or from one before it.
    """
    rollout, lora = run.recipe.rollout, run.recipe.student.lora
    truncated = rollout.top_p < 1.0 or rollout.top_k > 0
    dropped = lora is not None and lora.dropout > 0.0
    if run.rollout.engine.exact and not truncated and not dropped and run.stored is None:
        return "engine"
    groups = len(torch.unique(batch.group_B))
    updates_once = groups <= (run.recipe.optim.mini_batch_prompts or groups)
    return "update" if updates_once and not dropped and run.method.scope == "trajectory" else "trainer"


def old_logps(run: Run, batch: TokenBatch, source: OldSource) -> Tensor | None:
    """The old log-probabilities of the batch (B x T) as far as they are known before the update."""
    if source == "update":
        return None
    return batch.sampled_BT if source == "engine" else trainer_logps(run, batch)


def trainer_logps(run: Run, batch: TokenBatch) -> Tensor:
    """The trainer's log-probabilities of the batch under the weights that sampled it. Shape B x T."""
    with run.measured.old(batch):
        return score(run.student, batch, run.recipe.optim.micro_batch_tokens, run.recipe.rollout.temperature, run.ranks)


def updater(run: Run) -> Updater:
    """What turns the run's batches into updates."""
    privileged = run.privileged
    return Updater(
        student=run.student,
        optimizer=run.optimizer,
        method=run.method,
        optim=run.recipe.optim,
        temperature=run.recipe.rollout.temperature,
        teacher=run.model_teacher,
        teacher_view=None if privileged is None else lambda micro: privileged_view(micro, privileged),
        dumps=run.dumps,
        measured=run.measured,
        span_measure=run.span_measure,
        importance=importance_of(run.recipe),
        ranks=run.ranks,
    )


def importance_of(recipe: Recipe) -> ImportanceLevel | None:
    """What is weighted by importance: tokens or trajectories, or nothing."""
    given = recipe.rollout.importance
    if given is None:
        return "token" if recipe.rollout.max_staleness else None
    return None if given == "off" else given


def sampling_of(recipe: Recipe) -> Sampling:
    """The distribution that training episodes are sampled from."""
    rollout = recipe.rollout
    return Sampling(rollout.temperature, rollout.top_p, rollout.top_k)
