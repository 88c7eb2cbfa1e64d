"""The order in which a style shows the options of a choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sod.evaluation.benchmarks.problem import Problem


def shuffled(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """The options of each problem in an order that the seed and its id decide."""
    return [_in_order(problem, _order(problem, random.Random(f"{seed}:{problem.id}"))) for problem in problems]


def as_simple_evals(problems: Sequence[Problem], _: int) -> list[Problem]:
    """The orders of OpenAI's simple-evals, of its first repetition: one generator with seed 0 for all problems."""
    numbers = random.Random(0)
    return [_in_order(problem, _order(problem, numbers)) for problem in problems]


def _order(problem: Problem, numbers: random.Random) -> list[int]:
    return numbers.sample(range(len(problem.choices)), len(problem.choices))


def _in_order(problem: Problem, order: Sequence[int]) -> Problem:
    if not order:
        return problem
    return replace(problem, choices=tuple(problem.choices[at] for at in order), right=order.index(problem.right))
