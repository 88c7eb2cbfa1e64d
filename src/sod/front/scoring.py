"""Recorded outputs of other harnesses, for `sod score`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from sod.front.passed import NOTHING
from sod.front.recipes import given_recipe
from sod.recipe import Notice, resolved
from sod.records import SodError

if TYPE_CHECKING:
    from sod.build.recorded import Scoring
    from sod.evaluation.benchmarks.base import Benchmark
    from sod.evaluation.runner import Evaluation
    from sod.recipe import Recipe

PLAIN = {"student": {"path": "none"}}
"""A recipe of defaults: judging looks at its sandbox, its limits and its seed alone."""


@final
@dataclass(frozen=True)
class Wanted:
    """What the user asked for; `column` None looks for the outputs under the usual names, `k` None takes all."""

    outputs: str
    benchmark: str
    style: str
    data_dir: Path | None = None
    k: int | None = None
    column: str | None = None
    partial: bool = False
    overrides: Sequence[str] = ()
    to: Path | None = None


@final
@dataclass(frozen=True)
class Scored:
    """The figures, what is known against them, and where they were written."""

    result: Evaluation
    flaws: Sequence[str]
    directory: Path


def score(wanted: Wanted, notice: Notice) -> Scored:
    """Score recorded outputs, and write figures and outputs with their verdicts. Raises SodError."""
    from sod.build.evaluated import claimed
    from sod.build.recorded import score_recorded, scoring
    from sod.evaluation.benchmarks.catalogue import benchmarks_named
    from sod.evaluation.benchmarks.loading import load_problems
    from sod.evaluation.recorded.reading import read_recorded
    from sod.evaluation.recorded.styles import scoring_style, style_limits

    benchmark = _one(benchmarks_named(wanted.benchmark))
    changes = [*style_limits(wanted.style, benchmark.name), *wanted.overrides]
    recipe = given_recipe(PLAIN, changes, NOTHING, notice)
    read = load_problems(benchmark, wanted.data_dir, notice)
    recorded = read_recorded(wanted.outputs, read.problems, notice, wanted.column)
    style = scoring_style(wanted.style, recorded)
    if benchmark.name not in style.benchmarks:
        raise SodError(f"--style {style.name} does not have {benchmark.name}; it has {', '.join(style.benchmarks)}")
    asked = scoring(style, read, recorded, wanted.k, wanted.partial, recipe.seed, notice)
    place = wanted.to or _place(wanted, asked.k)
    with claimed(place, exact=wanted.to is not None) as target:
        result = score_recorded(recipe, asked)
        _write(target, recipe, asked, result)
    return Scored(result, style.flaws(benchmark.name), target)


def _one(benchmarks: Sequence[Benchmark]) -> Benchmark:
    if len(benchmarks) > 1:
        raise SodError("--benchmark: outputs are scored on one benchmark at a time; name one")
    return benchmarks[0]


def _place(wanted: Wanted, k: int) -> Path:
    stem = re.sub(r"[^\w.]+", "-", Path(wanted.outputs).stem).strip("-") or "outputs"
    return Path("runs") / "evaluations" / f"{stem}-{wanted.benchmark}-{wanted.style}-k{k}"


def _write(target: Path, recipe: Recipe, asked: Scoring, result: Evaluation) -> None:
    from sod.runlog import trajectory_row, write_evaluation

    figures = {**result.as_dict(), "model": asked.recorded.source, **asked.about(), "recipe": resolved(recipe)}
    by_id = {task.id: task for task in result.played}
    write_evaluation(target, figures, (trajectory_row(one, by_id[one.task_id]) for one in result.trajectories))
