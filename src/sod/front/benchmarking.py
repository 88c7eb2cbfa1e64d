"""Benchmarks for `sod eval`: all that can be refused is refused before the model is loaded, once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sod.front.evaluating import Answer, Request, answered, asked_changes, recipe_of
from sod.front.every import CURVE, Curve, checkpoints_of, still_there, written_curve
from sod.front.recipes import Given
from sod.front.tracking import trackers
from sod.recipe import Notice, Recipe

if TYPE_CHECKING:
    from sod.build.evaluated import Evaluated
    from sod.build.evaluation import Prepared
    from sod.evaluation.styles.base import Style
    from sod.report.trackers import Tracker

DEFAULT_STYLE = "sod"


@final
@dataclass(frozen=True)
class Wanted:
    """What the user asked for: names with commas between them, a style, a folder, and what is not as the style has it.

    `to` is the directory of one benchmark's results, or that with a directory for each of several; `workers` and `by`
    are as of `Request`.
    """

    benchmarks: str
    style: str = DEFAULT_STYLE
    data_dir: Path | None = None
    max_tokens: int | None = None
    k: int | None = None
    tasks: int | None = None
    device: str | None = None
    recipe: Given | None = None
    overrides: Sequence[str] = ()
    to: Path | None = None
    allow_code: bool = False
    workers: int = 1
    by: Sequence[str] = ()

    def changes(self) -> list[str]:
        """The overrides that the user's own words stand for."""
        limits = ("rollout.max_response_tokens", "rollout.max_turn_tokens")
        longest = [] if self.max_tokens is None else [f"{key}={self.max_tokens}" for key in limits]
        return [*longest, *asked_changes(self.k, self.tasks, self.device, self.overrides)]


def evaluate_benchmarks(
    model: str, wanted: Wanted, notice: Notice, shared: Sequence[Tracker] | None = None
) -> dict[str, Answer]:
    """Evaluate a model on benchmarks, each in its directory: new, gone on with, or finished before.

    Figures go to the `shared` trackers, or else to the recipe's. Raises SodError.
    """
    from sod.build.benchmarks import SharedStudent, prepare_benchmark, read_sets, refuse_unasked, style_named
    from sod.build.evaluated import find_evaluated
    from sod.build.playing import refuse_unfit_workers
    from sod.evaluation.benchmarks.catalogue import benchmarks_named

    notice = _once(notice)
    benchmarks, style = benchmarks_named(wanted.benchmarks), style_named(wanted.style)
    refuse_unasked(style, benchmarks)
    about = find_evaluated(model, notice)
    recipes = {benchmark.name: _recipe(about, wanted, style, benchmark.name, notice) for benchmark in benchmarks}
    first = next(iter(recipes.values()))
    refuse_unfit_workers(first, wanted.workers)
    about, recipes = _at_begun_checkpoint(about, model, wanted, recipes, notice)
    sets = read_sets(benchmarks, wanted.data_dir, notice)
    student = SharedStudent()
    prepared = {
        read.benchmark.name: prepare_benchmark(recipes[read.benchmark.name], style, read, student, notice, by=wanted.by)
        for read in sets
    }
    requests = {name: _request(model, wanted, name, several=len(recipes) > 1) for name in recipes}
    _refuse_taken(prepared, requests, about)
    with _trackers(first, about, wanted) if shared is None else nullcontext(shared) as opened:
        answers = {}
        for name, one in prepared.items():
            answers[name] = answered(one, about, requests[name], notice, tracked=False)
            for tracker in opened:
                tracker.log(_figures_of(name, answers[name]), about.step or 0)
    return answers


def evaluate_benchmarks_every(model: str, wanted: Wanted, every: int, notice: Notice) -> dict[str, Curve]:
    """A curve for each benchmark over the checkpoints of a run whose steps are multiples of `every`.

    What is done is not played again. Figures go to the recipe's trackers as one run, at their steps. Raises SodError as
    `evaluate_benchmarks`, for what is no run, and for a run without such checkpoints.
    """
    from sod.build.benchmarks import style_named
    from sod.build.evaluated import find_evaluated
    from sod.evaluation.benchmarks.catalogue import benchmarks_named

    about = find_evaluated(model, notice)
    run, found = checkpoints_of(about, model, every)
    names = [benchmark.name for benchmark in benchmarks_named(wanted.benchmarks)]
    style = style_named(wanted.style)
    recipes = {name: _recipe(about, wanted, style, name, notice) for name in names}
    whole = replace(about, step=None)
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    with _trackers(recipes[names[0]], whole, wanted) as opened:
        for one in still_there(found, notice):
            to = None if wanted.to is None else wanted.to / f"step{one.step}"
            for name, answer in evaluate_benchmarks(one.path, replace(wanted, to=to), notice, opened).items():
                answers[name].append(answer)
    curves = {}
    for name in names:
        place = whole.place(_named(name, wanted), recipes[name].evaluation)
        file = (wanted.to or place.parent) / f"{place.name}-{CURVE}.json"
        curves[name] = written_curve(run, _named(name, wanted), answers[name], file)
    return curves


def _once(notice: Notice) -> Notice:
    """A notice that says the same but once: what holds for a recipe is found for each of its benchmarks."""
    told: set[str] = set()

    def heard(text: str) -> None:
        if text not in told:
            told.add(text)
            notice(text)

    return heard


def _recipe(about: Evaluated, wanted: Wanted, style: Style, name: str, notice: Notice) -> Recipe:
    """The recipe that a benchmark is played by: the model's, sampling as the style does, but for the user's word."""
    from sod.build.benchmarks import benchmark_recipe, style_changes

    changes = [*style_changes(style, name), *wanted.changes()]
    return benchmark_recipe(recipe_of(about, wanted.recipe, changes, wanted.allow_code, notice), style, notice)


def _request(model: str, wanted: Wanted, name: str, several: bool) -> Request:
    to = wanted.to if wanted.to is None or not several else wanted.to / name
    return Request(model, _named(name, wanted), to, wanted.workers, wanted.by)


def _named(name: str, wanted: Wanted) -> str:
    return f"{name}-{wanted.style}"


def _at_begun_checkpoint(
    about: Evaluated, model: str, wanted: Wanted, recipes: Mapping[str, Recipe], notice: Notice
) -> tuple[Evaluated, dict[str, Recipe]]:
    """The checkpoint at which these benchmarks were begun and not finished, and the recipes with it as the student.

    A run in progress has newer ones by then.
    """
    from sod.build.evaluated import pinned
    from sod.front.evaluating import of_model

    if wanted.to is None:
        for name, recipe in recipes.items():
            found = pinned(about, model, _named(name, wanted), recipe.evaluation, lambda _: True, notice)
            if found != about:
                return found, {name: of_model(recipe, found.path) for name, recipe in recipes.items()}
    return about, dict(recipes)


def _refuse_taken(prepared: Mapping[str, Prepared], requests: Mapping[str, Request], about: Evaluated) -> None:
    """Raises SodError where --out holds something else, which the last benchmark is not to find when others ran."""
    from sod.build.kept import plan_of, refuse_unlike

    for name, one in prepared.items():
        to = requests[name].to
        if to is not None:
            refuse_unlike(to, plan_of(one, about.name, requests[name].named, about.step))


@contextmanager
def _trackers(recipe: Recipe, about: Evaluated, wanted: Wanted) -> Iterator[Sequence[Tracker]]:
    """The recipe's trackers, as one run for all benchmarks of the call."""
    place = about.place(f"benchmarks-{wanted.style}", recipe.evaluation) if wanted.to is None else wanted.to
    run_name = place.name if about.run is None else f"{about.name}-{place.name}"
    shared = place.parent if about.run is None else about.run.absolute().parent
    with trackers(recipe, run_name, place, shared) as opened:
        yield opened


def _figures_of(name: str, answer: Answer) -> dict[str, float]:
    figures: dict[str, Any] = answer.result.metrics()
    return {key.replace("eval/", f"eval/{name}/", 1): value for key, value in figures.items()}
