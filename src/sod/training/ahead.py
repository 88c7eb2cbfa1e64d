"""Bounded staleness: the next step's episodes are played while this step learns (`rollout.max_staleness: 1`).

Weights that have learned from n steps are version n. Step s learns with version s - 1, from episodes that version
s - 2 has played beside step s - 1. Weights are pushed to the engine between two batches only, so that none is mixed.

The first step, and each that comes after a checkpoint of the plan, is played when it is its turn, by version s - 1: a
checkpoint then has nothing under way, and a run that goes on from it has the steps of one that was never interrupted.
Of a run that is stopped in between the episodes that wait are dropped: they are played again, by the newest version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, final

from sod.clock import Clock
from sod.engines.beside import BesideEngine
from sod.records import SodError, Trajectory

if TYPE_CHECKING:
    from sod.training.step import Gathered

MAX_STALENESS = 1


@final
class Ahead:
    """Plays steps in a thread of its own, which lives as long as the run: processes that tools start die with it.

    `play` gives a step's episodes, from the `engine`; it must touch nothing that learning touches. The run has `steps`,
    with a checkpoint after every `checkpoint_every`.
    """

    def __init__(
        self, play: Callable[[int], Gathered], engine: BesideEngine, steps: int, checkpoint_every: int
    ) -> None:
        self._play = play
        self._engine = engine
        self._steps = steps
        self._checkpoint_every = checkpoint_every
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sod-ahead")
        self._next: tuple[int, Future[Gathered]] | None = None

    def take(self, step: int, clock: Clock) -> Gathered:
        """The episodes of `step`, played by now or waited for; those of the next are begun, if it may be ahead.

        Time that was waited is in the `clock`. Raises as `play`, and SodError for episodes of several versions, or
        older than one.
        """
        with clock.timed("wait"):
            played = self._begun(step).result()
        self._next = None
        refuse_stale(played.collected.trajectories, self._engine.version, step)
        if step < self._steps and step % self._checkpoint_every:
            self._begun(step + 1)
        return played

    def finish(self, clock: Clock) -> None:
        """Wait for the episodes under way: weights are pushed after. What went wrong with them is raised by `take`."""
        if self._next is not None:
            with clock.timed("wait"):
                self._next[1].exception()

    def close(self) -> None:
        """Stop what is under way, and wait for its last tokens and tools. Safe to call twice."""
        self._engine.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begun(self, step: int) -> Future[Gathered]:
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._play, step)
        return self._next[1]


def staleness(trajectories: Sequence[Trajectory], version: int) -> int:
    """By how many versions the oldest turn is behind `version`, the trainer's; 0 where nothing was sampled."""
    sampled = [turn for trajectory in trajectories for turn in trajectory.versions]
    return version - min(sampled, default=version)


def refuse_stale(trajectories: Sequence[Trajectory], version: int, step: int) -> None:
    """Raises SodError for a batch of several versions of the weights, or of one that is too old to learn from."""
    versions = sorted({turn for trajectory in trajectories for turn in trajectory.versions})
    if len(versions) > 1:
        raise SodError(
            f"step {step}: its episodes were sampled by versions {versions[0]} to {versions[-1]} of the weights, which "
            "must not be mixed; set rollout.max_staleness=0, and report this"
        )
    age = staleness(trajectories, version)
    if not 0 <= age <= MAX_STALENESS:
        raise SodError(
            f"step {step}: its episodes are {age} versions of the weights behind, {MAX_STALENESS} at most are learned "
            "from; set rollout.max_staleness=0, and report this"
        )
