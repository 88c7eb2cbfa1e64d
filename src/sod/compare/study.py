"""`sod compare`: methods against each other over many seeds, each at its own best learning rate.

A seed is a world of its own (tasks, teacher and student) where the recipe has one; else all seeds have the recipe's.
All methods start from the same student, take as many steps and are evaluated on the same test tasks, so that they
differ in the method alone. A method's learning rate is chosen on validation tasks with a seed that takes no part in the
comparison.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from sod.build.idle import idle_in_all, refuse_idle
from sod.build.method import check_knobs, refuse_unknown
from sod.build.workers import Ended, WorkerPool
from sod.compare.cells import method_spec, read_result, run_unit
from sod.compare.eta import about, seconds_left, work_line
from sod.compare.order import learning_rate, needs, order_of_work
from sod.compare.own import also_tuned_on, refuse_unfit_request, refuse_unready, setting_of
from sod.compare.sources import changed_sources, sources_of
from sod.compare.table import write_comparison
from sod.compare.units import UNTRAINED, Comparison, Unit
from sod.recipe import MethodSpec, Recipe
from sod.records import SodError
from sod.report import console
from sod.runlog import git_state
from sod.training.loop import InterruptedRunError
from sod.training.signals import on_stop_request

Tell = Callable[[str], None]
"""Shows the user a line."""


@final
@dataclass
class Progress:
    """What is finished, under way, failed (and why) and still to do, in the order of work; `total` counts all."""

    results: dict[Unit, dict[str, Any]]
    pending: list[Unit]
    total: int
    failed: dict[Unit, str] = field(default_factory=dict)
    running: set[Unit] = field(default_factory=set)


def compare(
    recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], out: Path, work: Path, jobs: int, tell: Tell
) -> dict[str, Any]:
    """Run every cell of `methods` x `seeds` that `out` does not hold yet, and report on all that it holds then.

    Returns the summary that is written to `out/summary.json`. Raises SodError before anything is loaded where the
    request or an earlier result is wrong, and at the end, with everything else done, when something failed;
    InterruptedRunError after Ctrl-C or SIGTERM.
    """
    check_request(recipe, methods, seeds)
    comparison = _comparison(recipe, out, work, jobs, sources_of(recipe))
    results = _as_they_stand(comparison, read_results(comparison), tell)
    pending = order_of_work(comparison, methods, seeds, results, jobs)
    if pending and not comparison.in_worlds:
        refuse_unready(recipe, methods, _trained(recipe, methods))
        if also_tuned_on(recipe):
            tell("compare.test is not set: the figures are on data.validation, as the choice of learning rates is")
    tell(f"{recipe.name}: {len(pending)} to do with {jobs} x {comparison.threads} threads, {len(results)} done earlier")
    progress = Progress(results, pending, len(results) + len(pending))
    if pending:
        tell(f"to do: {work_line(comparison, pending)}")
        _run(comparison, progress, jobs, tell)
    summary = _report(comparison, progress.results, methods) if _of_kind(progress.results, "cell") else {}
    if progress.failed:
        for unit, error in progress.failed.items():
            tell(f"failed: {unit.label}: {error}")
        raise SodError(
            f"{len(progress.failed)} of {progress.total} failed ({', '.join(u.label for u in progress.failed)}); "
            "what is finished is kept, and the same command tries the rest again"
        )
    return summary


def report_only(recipe: Recipe, methods: Sequence[str], out: Path) -> dict[str, Any]:
    """Report on the cells in `out`, `methods` first. Raises SodError when there is none, or of another recipe."""
    comparison = _comparison(recipe, out, out, 1, {})
    results = read_results(comparison)
    if not _of_kind(results, "cell"):
        raise SodError(f"{out}: no finished cell of a comparison; run `sod compare` without --report-only first")
    return _report(comparison, results, methods)


def parse_methods(text: str) -> list[str]:
    """`sod,opd` as a list. Raises SodError for an empty or unknown name, or one given twice."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise SodError(f"--methods {text!r}: names separated by commas, e.g. start,opd,sod")
    refuse_unknown(names, list(UNTRAINED))
    _refuse_twice("--methods", names)
    return names


def parse_seeds(text: str) -> list[int]:
    """`0,1,5-7` as a list. Raises SodError where it is malformed, or names a seed twice."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise SodError(f"--seeds {text!r}: whole numbers and ranges separated by commas, e.g. 0,1,2 or 0-4")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    _refuse_twice("--seeds", seeds)
    return seeds


def check_request(recipe: Recipe, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Raises SodError for what can be known to be wrong before any model is made or loaded."""
    spec = recipe.compare
    lrs = spec.lrs or []
    _refuse_twice("compare.lrs", lrs)
    if len(lrs) > 1 and spec.tuning_seed in seeds:
        raise SodError(
            f"--seeds: {spec.tuning_seed} is compare.tuning_seed; learning rates are chosen on it, so it cannot take "
            "part in the comparison"
        )
    check_knobs(recipe.method, f"recipe {recipe.name}")  # also those that none of the methods here has
    if recipe.world is not None and spec.test is not None:
        raise SodError("compare.test does nothing here: a world has test tasks of its own; leave it out")
    trained = _trained(recipe, methods)
    if recipe.world is None:
        refuse_unfit_request(recipe, methods, trained)
    refuse_idle(idle_in_all(recipe, trained), recipe, False, console.notice)


def _trained(recipe: Recipe, methods: Sequence[str]) -> list[MethodSpec]:
    return [method_spec(recipe, name) for name in methods if name not in UNTRAINED]


def _as_they_stand(
    comparison: Comparison, results: dict[Unit, dict[str, Any]], tell: Tell
) -> dict[Unit, dict[str, Any]]:
    """The results that were made from what there is now. The user hears of the others, which count no more."""
    stale = {unit: changed_sources(result.get("sources", {}), comparison.sources) for unit, result in results.items()}
    changed = list(dict.fromkeys(key for keys in stale.values() for key in keys))
    if changed:
        count = sum(map(bool, stale.values()))
        tell(f"{', '.join(changed)}: changed since {count} of {len(results)} results were made, which count no more")
    return {unit: result for unit, result in results.items() if not stale[unit]}


def read_results(comparison: Comparison) -> dict[Unit, dict[str, Any]]:
    """Every finished trial and cell in OUT. Raises SodError for one of another recipe."""
    hashed = comparison.recipe_sha256
    results = {}
    for path in sorted((comparison.out / "trials").glob("*.json")):
        value = read_result(path, hashed)
        results[Unit("trial", value["seed"], value["method"], value["lr"])] = value
    for path in sorted((comparison.out / "cells").glob("*.json")):
        value = read_result(path, hashed)
        results[Unit("cell", value["seed"], value["method"])] = value
    return results


def _comparison(recipe: Recipe, out: Path, work: Path, jobs: int, sources: Mapping[str, str]) -> Comparison:
    revision, dirty = git_state(Path.cwd())
    threads = recipe.threads or max(1, (os.cpu_count() or 1) // jobs)
    return Comparison(recipe, out, work, threads, {"revision": revision, "dirty": dirty}, sources)


def _run(comparison: Comparison, progress: Progress, jobs: int, tell: Tell) -> None:
    """Run what is pending, first things first, as many at a time as there are jobs.

    Raises InterruptedRunError at Ctrl-C or SIGTERM, after the workers have stopped.
    """
    with on_stop_request(_stop), closing(WorkerPool(jobs)) as pool:
        while progress.pending or pool.busy:
            _drop_impossible(comparison, progress)
            for unit in _ready(comparison, progress)[: pool.idle]:
                _submit(comparison, progress, unit, pool)
            if pool.busy:
                _settle(comparison, progress, pool.wait(), jobs, tell)


def _stop(signal_number: int) -> None:
    raise InterruptedRunError("stopped; what is finished is kept, and the same command goes on", signal_number)


def _drop_impossible(comparison: Comparison, progress: Progress) -> None:
    """Give up every unit that needs one that failed. One pass is enough: a unit stands after what it needs."""
    for unit in list(progress.pending):
        lost = [needed for needed in needs(comparison, unit) if needed in progress.failed]
        if lost:
            progress.pending.remove(unit)
            progress.failed[unit] = f"not run, because {lost[0].label} failed"


def _ready(comparison: Comparison, progress: Progress) -> list[Unit]:
    """The pending units with everything finished that they need, in the order of work."""
    return [unit for unit in progress.pending if progress.results.keys() >= set(needs(comparison, unit))]


def _submit(comparison: Comparison, progress: Progress, unit: Unit, pool: WorkerPool) -> None:
    """Hand the unit to a worker; a cell for which no learning rate can be chosen has failed instead."""
    progress.pending.remove(unit)
    try:
        lr = learning_rate(comparison, unit, progress.results)
    except SodError as error:
        progress.failed[unit] = str(error)
    else:
        pool.submit(unit, run_unit, comparison, unit, lr)
        progress.running.add(unit)


def _settle(comparison: Comparison, progress: Progress, ended: Ended, jobs: int, tell: Tell) -> None:
    unit: Unit = ended.key
    progress.running.discard(unit)
    if ended.error is not None:
        progress.failed[unit] = ended.error
        tell(f"{unit.label} failed")
        return
    progress.results[unit] = ended.value
    seconds = sum(ended.value["seconds"].values())
    left = seconds_left(comparison, progress.results, progress.pending, progress.running, jobs)
    far = f"{len(progress.results)}/{progress.total}" + (f", {about(left)} left" if left else "")
    tell(f"{unit.label}: {_found(unit, ended.value)}{seconds:.0f} s ({far})")


def _found(unit: Unit, result: Mapping[str, Any]) -> str:
    if unit.kind == "world":
        return "ready, made in "
    figures = result["figures"]
    if figures is None:
        return "diverged, "
    where = "validation " if unit.kind == "trial" else ""
    return f"{where}avg@{figures['k']} {figures['avg_at_k']:.3f}, tool errors {figures['tool_error_rate']:.1%}, "


def _report(
    comparison: Comparison, results: Mapping[Unit, Mapping[str, Any]], methods: Sequence[str]
) -> dict[str, Any]:
    cells, trials = _of_kind(results, "cell"), _of_kind(results, "trial")
    setting = None if comparison.in_worlds else setting_of(comparison.recipe)
    return write_comparison(comparison.out, comparison.recipe.name, cells, trials, methods, list(UNTRAINED), setting)


def _of_kind(results: Mapping[Unit, Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [result for unit, result in results.items() if unit.kind == kind]


def _refuse_twice(where: str, values: Sequence[Any]) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise SodError(f"{where}: {value} stands there twice")
