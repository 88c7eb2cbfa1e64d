"""How much there is to do, and how long that will take, by what the finished part of it has taken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from statistics import fmean
from typing import Any

from sod.compare.units import UNTRAINED, Comparison, Unit

Result = Mapping[str, Any]


def steps_of(comparison: Comparison, unit: Unit) -> int:
    """Optimizer steps of a unit; a world's are its own matter."""
    if unit.kind == "world" or unit.method in UNTRAINED:
        return 0
    recipe = comparison.recipe
    return recipe.compare.tuning_steps if unit.kind == "trial" else recipe.train.steps


def work_line(comparison: Comparison, pending: Iterable[Unit]) -> str:
    """The size of what is to be done, in words."""
    steps = dict.fromkeys(("trial", "cell"), 0)
    counts = dict.fromkeys(steps, 0)
    for unit in pending:
        if unit.kind != "world":
            counts[unit.kind] += 1
            steps[unit.kind] += steps_of(comparison, unit)
    parts = [f"{counts[kind]} {kind}s" if counts[kind] > 1 else f"1 {kind}" for kind in counts if counts[kind]]
    return f"{', '.join(parts) or 'a world'}; {sum(steps.values()):,} optimizer steps"


def seconds_left(
    comparison: Comparison,
    results: Mapping[Unit, Result],
    pending: Iterable[Unit],
    running: Collection[Unit],
    jobs: int,
) -> float | None:
    """Seconds until `pending` and `running` are done, of which the latter are taken for half done.

    None while nothing is known of some part of them.
    """
    total, longest = 0.0, 0.0
    for unit in [*pending, *running]:
        expected = _expected(comparison, results, unit)
        if expected is None:
            return None
        share = expected / 2 if unit in running else expected
        total, longest = total + share, max(longest, share)
    return max(total / jobs, longest)


def about(seconds: float) -> str:
    """A duration in words, as exact as a guess deserves."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _expected(comparison: Comparison, results: Mapping[Unit, Result], unit: Unit) -> float | None:
    if unit.kind == "world":
        made = [_total(result) for other, result in results.items() if other.kind == "world"]
        return fmean(made) if made else None
    steps, judging = steps_of(comparison, unit), _judging(results, unit)
    each = _step_seconds(results, unit.method) if steps else 0.0
    return None if each is None or judging is None else steps * each + judging


def _step_seconds(results: Mapping[Unit, Result], method: str) -> float | None:
    """Seconds of a step of this method, or where it is not known yet of any."""
    known: dict[str, list[float]] = {}
    for result in results.values():
        if result.get("steps") and result["seconds"].get("training"):
            known.setdefault(result["method"], []).append(result["seconds"]["training"] / result["steps"])
    every = [value for values in known.values() for value in values]
    return fmean(known.get(method) or every) if every else None


def _judging(results: Mapping[Unit, Result], unit: Unit) -> float | None:
    """Seconds of an evaluation after a unit of this kind, or where none is known yet of any."""
    known: dict[str, list[float]] = {}
    for other, result in results.items():
        if "evaluation" in result["seconds"]:
            known.setdefault(other.kind, []).append(result["seconds"]["evaluation"])
    every = [value for values in known.values() for value in values]
    return fmean(known.get(unit.kind) or every) if every else None


def _total(result: Result) -> float:
    return float(sum(result["seconds"].values()))
