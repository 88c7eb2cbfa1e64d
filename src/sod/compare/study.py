"""`sod compare`: methods against each other over many seeds, each at its own best learning rate.

A seed is a world of its own: tasks, teacher and student. All methods start from that student, take as many steps
and are evaluated on the same test tasks, so that they differ in the method alone. A method's learning rate is chosen
on validation tasks of a seed that takes no part in the comparison.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from sod.build.method import check_knobs, make_method, refuse_unknown
from sod.compare.cells import UNTRAINED, Comparison, Unit, method_spec, read_result, run_unit
from sod.compare.table import write_comparison
from sod.compare.workers import Ended, Workers
from sod.recipe import Recipe
from sod.records import SodError
from sod.runlog import git_state
from sod.training.loop import InterruptedRunError

Tell = Callable[[str], None]
"""Shows the user a line."""


@dataclass
class Progress:
    """What is finished, what failed and what is still to do."""

    results: dict[Unit, dict[str, Any]]
    pending: list[Unit]
    total: int
    failed: dict[Unit, str] = field(default_factory=dict)


def compare(
    recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], out: Path, work: Path, jobs: int, tell: Tell
) -> dict[str, Any]:
    """Run every cell of `methods` x `seeds` that `out` does not hold yet, and report on all that it holds then.

    Returns the summary that is written to `out/summary.json`. Raises SodError before anything is loaded where the
    request or an earlier result is wrong, and at the end, with everything else done, when something failed;
    InterruptedRunError after Ctrl-C or SIGTERM.
    """
    check_request(recipe, methods, seeds)
    comparison = _comparison(recipe, out, work, jobs)
    results = read_results(comparison)
    pending = plan(comparison, methods, seeds, results, jobs)
    tell(f"{recipe.name}: {len(pending)} to do with {jobs} x {comparison.threads} threads, {len(results)} done earlier")
    progress = Progress(results, pending, len(results) + len(pending))
    if pending:
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
    comparison = _comparison(recipe, out, out, 1)
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
    if recipe.world is None:
        raise SodError("this recipe has no world section; start from recipes/compare-chain.yaml")
    spec = recipe.compare
    _refuse_twice("compare.lrs", spec.lrs)
    if len(spec.lrs) > 1 and spec.tuning_seed in seeds:
        raise SodError(
            f"--seeds: {spec.tuning_seed} is compare.tuning_seed; learning rates are chosen on it, so it cannot take "
            "part in the comparison"
        )
    check_knobs(recipe.method, f"recipe {recipe.name}")  # also those that none of the methods here has
    for name in methods:
        if name not in UNTRAINED:
            make_method(method_spec(recipe, name))


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


def plan(
    comparison: Comparison, methods: Sequence[str], seeds: Sequence[int], done: Mapping[Unit, Any], jobs: int
) -> list[Unit]:
    """What is still to do, in the order to do it: trials, then all methods of a seed before the next seed.

    With several jobs the next seed's world is prepared beside the cells of a seed.
    """
    cells = [[c for m in methods if (c := Unit("cell", seed, m)) not in done] for seed in seeds]
    cells = [row for row in cells if row]
    worlds = [Unit("world", row[0].seed) for row in cells]
    trials = [n for row in cells for c in row for n in needs(comparison, c) if n.kind == "trial" and n not in done]
    ahead = int(jobs > 1)
    units = [n for trial in trials[:1] for n in needs(comparison, trial)] + worlds[:ahead] + trials
    for number, row in enumerate(cells):
        units += [*worlds[number + ahead : number + ahead + 1], *row]
    return list(dict.fromkeys(units))


def needs(comparison: Comparison, unit: Unit) -> list[Unit]:
    """What must be finished before the unit can run."""
    spec = comparison.recipe.compare
    if unit.kind == "world":
        return []
    needed = [Unit("world", unit.seed)]
    if unit.kind == "cell" and unit.method not in UNTRAINED and len(spec.lrs) > 1:
        needed += [Unit("trial", spec.tuning_seed, unit.method, lr) for lr in spec.lrs]
    return needed


def learning_rate(comparison: Comparison, unit: Unit, results: Mapping[Unit, Mapping[str, Any]]) -> float | None:
    """The learning rate of a cell: the best of its method's trials by avg@k, the smallest of equal ones.

    None for a method that trains nothing. Raises SodError when every trial diverged.
    """
    if unit.kind != "cell" or unit.method in UNTRAINED:
        return None
    trials = [n for n in needs(comparison, unit) if n.kind == "trial"]
    if not trials:
        return comparison.recipe.compare.lrs[0]
    scored = {lr: result["figures"]["avg_at_k"] for t in trials if (lr := t.lr) and (result := results[t])["figures"]}
    if not scored:
        raise SodError(f"{unit.method} diverged at every learning rate of compare.lrs; add smaller ones")
    return min(scored, key=lambda lr: (-scored[lr], lr))


def _comparison(recipe: Recipe, out: Path, work: Path, jobs: int) -> Comparison:
    revision, dirty = git_state(Path.cwd())
    threads = recipe.threads or max(1, (os.cpu_count() or 1) // jobs)
    return Comparison(recipe, out, work, threads, {"revision": revision, "dirty": dirty})


def _run(comparison: Comparison, progress: Progress, jobs: int, tell: Tell) -> None:
    """Run what is pending, first things first, as many at a time as there are jobs."""
    with _stop_requests(), closing(Workers(jobs)) as workers:
        while progress.pending or workers.busy:
            _drop_impossible(comparison, progress)
            ready = [u for u in progress.pending if all(n in progress.results for n in needs(comparison, u))]
            for unit in ready[: workers.idle]:
                progress.pending.remove(unit)
                try:
                    lr = learning_rate(comparison, unit, progress.results)
                except SodError as error:
                    progress.failed[unit] = str(error)
                    continue
                workers.submit(unit, run_unit, comparison, unit, lr)
            if workers.busy:
                _settle(progress, workers.wait(), tell)


def _drop_impossible(comparison: Comparison, progress: Progress) -> None:
    for unit in list(progress.pending):
        if lost := [n.label for n in needs(comparison, unit) if n in progress.failed]:
            progress.pending.remove(unit)
            progress.failed[unit] = f"not run, because {lost[0]} failed"


def _settle(progress: Progress, ended: Ended, tell: Tell) -> None:
    unit: Unit = ended.key
    if ended.error is not None:
        progress.failed[unit] = ended.error
        tell(f"{unit.label} failed")
        return
    progress.results[unit] = ended.value
    seconds = sum(ended.value["seconds"].values())
    tell(f"{unit.label}: {_found(unit, ended.value)}{seconds:.0f} s ({len(progress.results)}/{progress.total})")


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
    return write_comparison(comparison.out, comparison.recipe.name, cells, trials, methods, list(UNTRAINED))


def _of_kind(results: Mapping[Unit, Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [result for unit, result in results.items() if unit.kind == kind]


def _refuse_twice(where: str, values: Sequence[Any]) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise SodError(f"{where}: {value} stands there twice")


@contextmanager
def _stop_requests() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the waiting at once, by an exception."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError("stopped; what is finished is kept, and the same command goes on", number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
