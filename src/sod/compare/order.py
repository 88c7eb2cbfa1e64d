"""Which work comes before which: what a unit needs, the order of what is to do, and the learning rate of a cell.

Decisions only: they depend on the recipe, the request and the results so far, and nothing is run or read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, final

from sod.compare.units import UNTRAINED, Comparison, Unit
from sod.records import SodError


def trials_of(comparison: Comparison, method: str) -> dict[float, Unit]:
    """The trials that decide a method's learning rate, by learning rate, in the order of `Comparison.lrs`.

    Empty where nothing is to be decided: the method trains nothing, or the recipe has a single learning rate.
    """
    if method in UNTRAINED or len(comparison.lrs) == 1:
        return {}
    seed = comparison.recipe.compare.tuning_seed
    return {lr: Unit("trial", seed, method, lr) for lr in comparison.lrs}


def needs(comparison: Comparison, unit: Unit) -> list[Unit]:
    """What must be finished before the unit can run: its seed's world if it has one, and a cell's method's trials."""
    if unit.kind == "world":
        return []
    worlds = [Unit("world", unit.seed)] if comparison.in_worlds else []
    return worlds if unit.kind == "trial" else [*worlds, *trials_of(comparison, unit.method).values()]


def learning_rate(comparison: Comparison, unit: Unit, results: Mapping[Unit, Mapping[str, Any]]) -> float | None:
    """The learning rate of a cell: that of its method's best trial by avg@k, the smallest of equally good ones.

    None for a world, a trial, and the cell of a method that trains nothing. `results` must hold all that the cell
    needs. Raises SodError when every trial diverged.
    """
    if unit.kind != "cell" or unit.method in UNTRAINED:
        return None
    trials = trials_of(comparison, unit.method)
    if not trials:
        return comparison.lrs[0]
    scores: dict[float, float] = {}
    for lr, trial in trials.items():
        figures = results[trial]["figures"]
        if figures is not None:  # a trial that diverged has none
            scores[lr] = figures["avg_at_k"]
    if not scores:
        raise SodError(f"{unit.method} diverged at every learning rate of compare.lrs; add smaller ones")
    return min(scores, key=lambda lr: (-scores[lr], lr))


@final
@dataclass(frozen=True)
class _Stretch:
    """Work that needs the same world: the trials, or the cells of one seed. There is at least one unit."""

    units: Sequence[Unit]

    @property
    def world(self) -> Unit:
        return Unit("world", self.units[0].seed)


def order_of_work(
    comparison: Comparison, methods: Sequence[str], seeds: Sequence[int], done: Mapping[Unit, Any], jobs: int
) -> list[Unit]:
    """What is still to do for the cells of `methods` x `seeds`, each unit once, in the order in which to do it.

    First the trials, because all cells that train wait for them; then all methods of a seed before the next seed, so
    that a comparison that is stopped early has whole seeds. Each of these stretches of work needs a world of its own,
    where the recipe has one. One job makes it just before the stretch. Several jobs make it one stretch ahead, so that
    it is ready when its stretch begins and no job waits for it. Left out are units in `done`, and the worlds and trials
    that no cell needs any more. The request must have passed `check_request`.
    """
    stretches = _stretches(comparison, methods, seeds, done)
    if not comparison.in_worlds:
        return list(chain.from_iterable(stretch.units for stretch in stretches))
    return _each_world_one_ahead(stretches) if jobs > 1 else _each_world_before(stretches)


def _stretches(
    comparison: Comparison, methods: Sequence[str], seeds: Sequence[int], done: Mapping[Unit, Any]
) -> list[_Stretch]:
    """The trials, then the cells seed by seed; only what is not done, and only trials that such a cell needs."""
    cells_by_seed = [_missing([Unit("cell", seed, method) for method in methods], done) for seed in seeds]
    methods_left = dict.fromkeys(cell.method for cell in chain.from_iterable(cells_by_seed))
    trials = chain.from_iterable(trials_of(comparison, method).values() for method in methods_left)
    return [_Stretch(units) for units in (_missing(trials, done), *cells_by_seed) if units]


def _each_world_before(stretches: Sequence[_Stretch]) -> list[Unit]:
    order: list[Unit] = []
    for stretch in stretches:
        order += [stretch.world, *stretch.units]
    return order


def _each_world_one_ahead(stretches: Sequence[_Stretch]) -> list[Unit]:
    order = [first.world for first in stretches[:1]]  # the first stretch has none before it
    for stretch, following in zip_longest(stretches, stretches[1:]):
        if following is not None:
            order.append(following.world)
        order += stretch.units
    return order


def _missing(units: Iterable[Unit], done: Mapping[Unit, Any]) -> list[Unit]:
    return [unit for unit in units if unit not in done]
