"""The loop around a step: log, evaluate, checkpoint, stop cleanly. The same for SFT and for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from sod.models.ranks import ALONE, Ranks
from sod.recipe import Notice
from sod.records import SodError
from sod.runlog import RunLog, writing
from sod.training import checkpoint
from sod.training.checkpoint import Position, ResumePoint, State, write_nothing
from sod.training.report import StepReport
from sod.training.signals import on_stop_request


class InterruptedRunError(SodError):
    """The user (or the scheduler) asked the run to stop; the checkpoint has been written."""

    on_all_ranks = True

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Listener(Protocol):
    """Hears of every step; a progress display or a tracker."""

    def __call__(self, report: StepReport) -> None: ...


@final
@dataclass(frozen=True)
class Plan:
    """How long to run and when to do what, in steps; 0 means never."""

    steps: int
    checkpoint_every: int
    keep_checkpoints: int
    recipe_hash: str
    kind: str = "train"
    trajectories_every: int = 0
    evaluate_every: int = 0


@final
@dataclass(frozen=True)
class Trainee:
    """What a checkpoint needs: the state of the run's parts by namespace, and a way to write the model.

    With several `ranks`, `write_shards` writes the pieces of all of them: each has its own trainee and calls it.
    """

    state: Callable[[], State]
    save_model: Callable[[Path], None]
    write_shards: Callable[[Path], None] = write_nothing
    ranks: Ranks = ALONE


def run_steps(
    plan: Plan,
    log: RunLog,
    done: int,
    take_step: Callable[[int], StepReport],
    trainee: Trainee,
    listeners: list[Listener],
    evaluate: Callable[[int], dict[str, float]] | None = None,
) -> None:
    """Run the steps after `done` up to `plan.steps`.

    With several ranks all run it, and rank 0 logs, evaluates and writes. Raises InterruptedRunError after Ctrl-C,
    SIGTERM or SIGHUP, on all ranks after the same step though one alone was asked, with a checkpoint of it.
    """
    requests: list[int] = []
    ranks = trainee.ranks

    def note(number: int) -> None:
        """The step under way can finish; a second request stops at once."""
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    with on_stop_request(note), ranks.naming_losses():
        for step in range(done + 1, plan.steps + 1):
            report = take_step(step)
            if ranks.first:
                _tell(report, plan, log, listeners, evaluate)
            last, request = step == plan.steps, ranks.most(requests[0] if requests else 0)
            if step % plan.checkpoint_every == 0 or last or request:
                _save(plan, log, step, trainee)
            if request and not last:
                raise InterruptedRunError(
                    f"stopped after step {step} of {plan.steps}; go on with --resume {log.path}", request
                )
            del report  # its rows hold on to the step's tensors, which the next step needs the room of


def _tell(
    report: StepReport,
    plan: Plan,
    log: RunLog,
    listeners: list[Listener],
    evaluate: Callable[[int], dict[str, float]] | None,
) -> None:
    """Evaluate where it is time for it, write down what a step gave, and tell the listeners."""
    step = report.step
    if evaluate and plan.evaluate_every and (step % plan.evaluate_every == 0 or step == plan.steps):
        report.metrics.update(evaluate(step))
    log.log({"step": step, "kind": plan.kind, **report.metrics})
    if plan.trajectories_every and step % plan.trajectories_every == 0:
        log.write_trajectories(step, report.trajectories)
    for listener in listeners:
        listener(report)


def resume_point(log: RunLog, recipe_hash: str, notice: Notice) -> ResumePoint | None:
    """The newest good checkpoint; None when there is none of any kind yet. Broken ones that are newer are told.

    Raises SodError when all are broken, or the newest good one belongs to another recipe.
    """
    found = log.checkpoints()
    if not found:
        return None
    return checkpoint.newest_good(found, lambda directory: checkpoint.load(directory, recipe_hash), notice)


def clear_way(log: RunLog, done: int) -> None:
    """Make the directory that of a run which stands after step `done` and goes on from there.

    Rows of steps that will be played again are taken out, and checkpoints of such steps, which are broken, are set
    aside. Raises SodError where that cannot be done.
    """
    for step, directory in log.checkpoints():
        if step > done:
            with writing(directory):
                checkpoint.set_aside(directory)
    log.rewind(done)


def _save(plan: Plan, log: RunLog, step: int, trainee: Trainee) -> None:
    directory = log.checkpoint_dir(step)
    if trainee.ranks.first:
        position, more = Position(step, plan.recipe_hash), trainee.write_shards
        checkpoint.save(directory, position, trainee.state(), trainee.save_model, more)
        checkpoint.prune([found for found in log.checkpoints() if found[0] <= step], plan.keep_checkpoints)
    else:
        checkpoint.write_beside(directory, trainee.write_shards)
