"""A run whose next episodes are played while it learns: `rollout.max_staleness: 1`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from sod.clock import Clock
from sod.engines.beside import BesideEngine
from sod.objective.methods import Method
from sod.objective.needs import Need
from sod.recipe import Recipe
from sod.records import SodError
from sod.training.ahead import Ahead
from sod.training.step import Run, gather


def refuse_unfit_staleness(recipe: Recipe, method: Method) -> None:
    """Raises SodError for what cannot be played while the student learns."""
    if not recipe.rollout.max_staleness:
        return
    if Need.TEACHER_EPISODES in method.needs:
        raise SodError(
            f"method {method.name} begins with episodes of the teacher, which scores meanwhile; set "
            "rollout.max_staleness=0"
        )
    if recipe.train.profile:
        raise SodError("train.profile measures one phase at a time; set rollout.max_staleness=0, or leave it out")


def play_ahead(run: Run, engine: BesideEngine | None, resources: ExitStack) -> None:
    """Have `run` play ahead with its `engine`, where it has one that does.

    What must be closed before the engine is left to `resources`.
    """
    if engine is None:
        return
    # A run of its own, which shares with `run` what playing needs, and not its clock.
    apart, plan = replace(run, clock=Clock(settle=run.settle)), run.recipe.train
    run.ahead = Ahead(partial(gather, apart), engine, plan.steps, plan.checkpoint_every)
    resources.callback(run.ahead.close)
