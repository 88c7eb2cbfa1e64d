"""Recorded outputs scored on a benchmark in a style: no model is asked, and none is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, final

from sod.build.tools import make_code_verifier
from sod.evaluation.benchmarks.loading import ProblemSet
from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.benchmarks.reward import StyleReward
from sod.evaluation.recorded.episodes import judged, task_of
from sod.evaluation.recorded.letters import with_right
from sod.evaluation.recorded.reading import Recorded
from sod.evaluation.runner import Evaluation, summed
from sod.evaluation.styles.base import Means, Style
from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.tasks.formats.base import BadRowError

OF_TEXT = ("accuracy", "unreadable", "faults")
"""The figures of episodes that texts alone have: nothing is known of tokens, turns and tools."""
BY = "difficulty"


@final
@dataclass(frozen=True)
class Scoring:
    """What is scored: the problems that have outputs, in the style's order, and `k` samples of each."""

    style: Style
    read: ProblemSet
    problems: Sequence[Problem]
    recorded: Recorded
    k: int

    def about(self) -> dict[str, Any]:
        """What a result says of where its figures come from, and what is known against them."""
        name = self.read.benchmark.name
        style = {"name": self.style.name, "known_flaws": list(self.style.flaws(name))}
        return {"benchmark": self.read.about(), "style": style, "outputs": self.recorded.about()}


def scoring(
    style: Style, read: ProblemSet, recorded: Recorded, k: int | None, partial: bool, seed: int, notice: Notice
) -> Scoring:
    """The recorded outputs as they will be scored; `k` None takes as many samples as every problem has.

    Raises SodError where problems have no output, unless `partial` says that these are left out, and where `k` is more
    than a problem has.
    """
    name = read.benchmark.name
    with_outputs = [problem for problem in read.problems if problem.id in recorded.outputs]
    without = [problem.id for problem in read.problems if problem.id not in recorded.outputs]
    if without and not partial:
        raise SodError(
            f"{recorded.source}: no output for {len(without):,} of the {len(read.problems):,} problems of {name}, the "
            f"first of them {without[0]}; --partial scores the others, which is another figure"
        )
    if without:
        notice(f"{len(without):,} of {len(read.problems):,} problems of {name} have no output and are left out")
    draw = _samples(recorded, with_outputs, k, notice)
    return Scoring(style, read, _arranged(style, with_outputs, recorded, seed), recorded, draw)


def _arranged(style: Style, problems: Sequence[Problem], recorded: Recorded, seed: int) -> list[Problem]:
    """The problems with options in the order in which they were asked, as far as the outputs tell."""
    if not recorded.letters:
        return style.arranged(problems, seed)
    try:
        return [with_right(problem, recorded.letters[problem.id]) for problem in problems]
    except BadRowError as error:
        raise SodError(f"{recorded.source}: {error}") from error


def _samples(recorded: Recorded, problems: Sequence[Problem], k: int | None, notice: Notice) -> int:
    counts = {problem.id: len(recorded.outputs[problem.id]) for problem in problems}
    fewest = min(counts, key=lambda name: counts[name])
    if k is not None and k > counts[fewest]:
        have = counts[fewest]
        raise SodError(
            f"{recorded.source}: -k {k} needs {k} outputs of every problem, and {fewest} has {have}; -k {have} at most"
        )
    most = max(counts.values())
    if k is None and most > counts[fewest]:
        notice(f"{recorded.source}: {counts[fewest]} to {most} outputs per problem; k is the fewest, {counts[fewest]}")
    return counts[fewest] if k is None else k


def score_recorded(recipe: Recipe, asked: Scoring) -> Evaluation:
    """The figures of the outputs; programs run in the sandbox of the recipe's `tools.python`."""
    tasks = [task_of(problem, asked.style) for problem in asked.problems]
    with ExitStack() as resources:
        means = Means(lambda: make_code_verifier(recipe, resources), recipe.reward.workers, recipe.reward.math_seconds)
        verifier = asked.style.verifier(asked.problems, means)
        resources.callback(verifier.close)
        reward = StyleReward(verifier, recipe.rollout.fault_retries)
        groups = judged(tasks, asked.recorded, reward)
        keys = [BY] if len({task.extra.get(BY) for task in tasks}) > 1 else []
        result = summed(tasks, groups, asked.k, reward.votes, keys)
    return replace(result, episodes=_of_text(result.episodes))


def _of_text(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: figures[name] for name in OF_TEXT}
