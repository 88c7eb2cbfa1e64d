"""Benchmarks for `sod eval`: all that can be refused is refused before the model is loaded, once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from sod.front.evaluating import asked_changes, recipe_of, write
from sod.front.recipes import Given
from sod.front.tracking import trackers
from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.report.console import progress

if TYPE_CHECKING:
    from sod.build.benchmarks import Asked, Play
    from sod.build.evaluated import Evaluated
    from sod.evaluation.runner import Evaluation
    from sod.evaluation.styles.base import Style

DEFAULT_STYLE = "sod"


@final
@dataclass(frozen=True)
class Wanted:
    """What the user asked for: names with commas between them, a style, a folder, and what is not as the style has it.

    `to` is the directory of one benchmark's results, or the one with a directory for each of several.
    """

    benchmarks: str
    style: str = DEFAULT_STYLE
    data_dir: Path | None = None
    k: int | None = None
    tasks: int | None = None
    device: str | None = None
    recipe: Given | None = None
    overrides: Sequence[str] = ()
    to: Path | None = None
    allow_code: bool = False


@final
@dataclass(frozen=True)
class Answered:
    """The figures of one benchmark, and where they were written."""

    name: str
    result: Evaluation
    directory: Path


def evaluate_benchmarks(model: str, wanted: Wanted, notice: Notice) -> list[Answered]:
    """Evaluate a model on benchmarks, and write a directory for each as it is done. Raises SodError."""
    from sod.build.benchmarks import asked, loaded_player, read_sets, refuse_unasked, style_named
    from sod.build.evaluated import find_evaluated
    from sod.evaluation.benchmarks.catalogue import benchmarks_named

    benchmarks, style = benchmarks_named(wanted.benchmarks), style_named(wanted.style)
    refuse_unasked(style, benchmarks)
    about = find_evaluated(model, notice)
    recipes = {benchmark.name: _recipe(about, wanted, style, benchmark.name, notice) for benchmark in benchmarks}
    places = {name: _place(about, wanted, name, recipe) for name, recipe in recipes.items()}
    if len(places) > 1 and wanted.to is not None:
        places = {name: wanted.to / name for name in places}
    _refuse_taken(places.values(), wanted)
    sets = read_sets(benchmarks, wanted.data_dir, notice)
    all_asked = [asked(recipes[read.benchmark.name], style, read, notice) for read in sets]
    with loaded_player(all_asked, notice) as play:
        return [_answered(one, play, about, model, places[one.name], wanted) for one in all_asked]


def _recipe(about: Evaluated, wanted: Wanted, style: Style, name: str, notice: Notice) -> Recipe:
    """The recipe that a benchmark is played by: the model's, sampling as the style does, but for the user's word."""
    from sod.build.benchmarks import style_changes

    said = asked_changes(wanted.k, wanted.tasks, wanted.device, wanted.overrides)
    return recipe_of(about, wanted.recipe, [*style_changes(style, name), *said], wanted.allow_code, notice)


def _place(about: Evaluated, wanted: Wanted, name: str, recipe: Recipe) -> Path:
    return wanted.to or about.place(f"{name}-{wanted.style}", recipe.evaluation)


def _refuse_taken(places: Iterable[Path], wanted: Wanted) -> None:
    """Raises SodError where --out has something in it, which the last benchmark must not find out when others ran."""
    for place in places:
        if wanted.to is not None and place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise SodError(f"{place}: not empty, and nothing is overwritten; choose another --out")


def _answered(one: Asked, play: Play, about: Evaluated, model: str, place: Path, wanted: Wanted) -> Answered:
    from sod.build.evaluated import claimed

    with claimed(place, exact=wanted.to is not None) as target:
        result = _played(one, play, about, target)
        write(target, one.recipe, model, one.name, result, one.about())
    return Answered(one.name, result, target)


def _played(one: Asked, play: Play, about: Evaluated, target: Path) -> Evaluation:
    """Play a benchmark, with a progress bar, and give the recipe's trackers the figures as `eval/BENCHMARK/...`."""
    shared = target.parent if about.run is None else about.run.absolute().parent
    run_name = target.name if about.run is None else f"{about.name}-{target.name}"
    with (
        trackers(one.recipe, run_name, target, shared) as opened,
        progress(f"evaluating {about.name} on {one.name}", total=0, unit="tasks") as bar,
    ):
        task = bar.task_ids[0]
        result = play(one, lambda done, total: bar.update(task, completed=done, total=total))
        figures = {name.replace("eval/", f"eval/{one.name}/", 1): value for name, value in result.metrics().items()}
        for tracker in opened:
            tracker.log(figures, about.step or 0)
    return result
