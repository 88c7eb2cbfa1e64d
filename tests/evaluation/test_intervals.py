"""The interval against exact binomial tails, against sampled weights, and by how often it covers the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from sod.evaluation.intervals import mean_interval
from sod.evaluation.metrics import avg_per_problem, maj_per_problem, pass_per_problem

Floats = NDArray[np.float64]
Law = dict[float, float]
"""The probability of each value that a problem can have."""


def binomial_tail(successes: int, problems: int, chance: Fraction) -> float:
    """The probability of at least so many successes, exactly."""
    terms = (
        math.comb(problems, n) * chance**n * (1 - chance) ** (problems - n) for n in range(successes, problems + 1)
    )
    return float(sum(terms))


@pytest.mark.parametrize(
    ("successes", "problems"), [(0, 1), (1, 1), (0, 8), (1, 8), (4, 8), (8, 8), (3, 64), (64, 64), (2, 256), (250, 256)]
)
def test_of_values_that_are_all_zero_or_one_it_is_clopper_and_pearsons(successes: int, problems: int) -> None:
    """Each end is where the binomial tail is 2.5%: the definition, not a formula for it."""
    low, high = mean_interval([1.0] * successes + [0.0] * (problems - successes))
    if successes:
        assert binomial_tail(successes, problems, Fraction(low)) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0.0
    if successes < problems:
        assert 1.0 - binomial_tail(successes + 1, problems, Fraction(high)) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1.0


@pytest.mark.parametrize("values", [[0.25], [0.0, 0.5, 1.0], [0.1, 0.2, 0.2, 0.9, 0.35, 0.7], [0.5] * 30 + [0.75] * 5])
def test_of_other_values_it_is_the_quantile_of_their_mean_under_random_weights(values: list[float]) -> None:
    """By drawing the weights, with one wholly right problem more for the upper end and a wholly wrong one below."""
    weight = np.random.default_rng(0).dirichlet(np.ones(len(values) + 1), size=400_000)
    low, high = mean_interval(values)
    assert high == pytest.approx(np.quantile(weight @ [*values, 1.0], 0.975), abs=2e-3)
    assert low == pytest.approx(np.quantile(weight @ [*values, 0.0], 0.025), abs=2e-3)


def test_it_brackets_the_mean_and_shrinks_with_its_level() -> None:
    values = [0.0, 0.25, 1.0, 0.5, 0.75, 1.0, 0.0, 0.5]
    wide, narrow = mean_interval(values), mean_interval(values, level=0.5)
    assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    for bad in (1.5, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="between 0 and 1"):
            mean_interval([0.5, bad])
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="level"):
            mean_interval([1.0], level=level)


# --- coverage: four samples a problem, a chance of success that differs between problems -----------------------------

WRONG = 3  # wrong answers that a sample may give, each as often


def law_of(metric: str, chance: float) -> Law:
    """The law of a problem's figure where each of its four samples is right with this chance: all 4^4 outcomes."""
    law: Law = {}
    for outcome in itertools.product(range(WRONG + 1), repeat=4):
        weight = math.prod(chance if answer == 0 else (1.0 - chance) / WRONG for answer in outcome)
        value = FIGURES[metric](outcome)
        law[value] = law.get(value, 0.0) + weight
    return law


def _figure(metric: str, outcome: tuple[int, ...]) -> float:
    right = [float(answer == 0) for answer in outcome]
    if metric == "avg":
        return avg_per_problem([right])[0]
    if metric.startswith("pass"):
        return pass_per_problem([right], int(metric.removeprefix("pass")))[0]
    return maj_per_problem([[str(answer) for answer in outcome]], [right])[0]


FIGURES: dict[str, Callable[[tuple[int, ...]], float]] = {
    metric: partial(_figure, metric) for metric in ("avg", "pass2", "pass4", "maj")
}


def chances(world: str, level: float) -> Law:
    """How likely which chance of success is: the same for all problems, or from a beta law that favours extremes."""
    if world == "same":
        return {level: 1.0}
    grid = (np.arange(40) + 0.5) / 40
    density = grid ** (0.6 * level - 1.0) * (1.0 - grid) ** (0.6 * (1.0 - level) - 1.0)
    return dict(zip(grid.tolist(), (density / density.sum()).tolist(), strict=True))


def law_with_mean(metric: str, world: str, mean: float) -> tuple[Floats, Floats]:
    """`(values, probabilities)` of a problem's figure in such a world, at the level that gives this mean."""
    low, high = 1e-9, 1.0 - 1e-9
    for _ in range(30):
        level = 0.5 * (low + high)
        law: Law = {}
        for chance, share in chances(world, level).items():
            for value, weight in laws(metric, chance).items():
                law[value] = law.get(value, 0.0) + share * weight
        if sum(value * weight for value, weight in law.items()) < mean:
            low = level
        else:
            high = level
    weights = np.array(list(law.values()))
    return np.array(list(law)), weights / weights.sum()


_LAWS: dict[tuple[str, float], Law] = {}


def laws(metric: str, chance: float) -> Law:
    """`law_of`, each once."""
    if (metric, chance) not in _LAWS:
        _LAWS[metric, chance] = law_of(metric, chance)
    return _LAWS[metric, chance]


def covered_and_width(metric: str, world: str, mean: float, problems: int, trials: int) -> tuple[float, float, float]:
    """The share of evaluations whose interval holds the mean, its mean width, and Clopper-Pearson's at that mean."""
    values, weights = law_with_mean(metric, world, mean)
    truth = float(values @ weights)
    rng = np.random.default_rng(7)
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    covered, width, exact_width = 0, 0.0, 0.0
    for count in rng.multinomial(problems, weights, size=trials):
        key = tuple(count.tolist())
        if key not in known:
            known[key] = mean_interval(np.repeat(values, count).tolist())
        low, high = known[key]
        covered += low <= truth <= high
        width += high - low
    for successes in rng.binomial(problems, truth, size=trials):
        low, high = exact_interval(int(successes), problems)
        exact_width += high - low
    return covered / trials, width / trials, exact_width / trials


_EXACT: dict[tuple[int, int], tuple[float, float]] = {}


def exact_interval(successes: int, problems: int) -> tuple[float, float]:
    """Clopper and Pearson's, proven above to be the interval of zeros and ones."""
    if (successes, problems) not in _EXACT:
        _EXACT[successes, problems] = mean_interval([1.0] * successes + [0.0] * (problems - successes))
    return _EXACT[successes, problems]


@pytest.mark.parametrize(("metric", "problems"), [("avg", 8), ("pass2", 16), ("pass4", 32), ("maj", 64)])
def test_it_holds_near_zero_where_the_bootstrap_did_not(metric: str, problems: int) -> None:
    """The percentile bootstrap covered .06 to .87 here."""
    covered, width, exact_width = covered_and_width(metric, "same", 0.02, problems, trials=300)
    assert covered >= 0.93
    assert width <= 1.2 * exact_width


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["avg", "pass2", "pass4", "maj"])
@pytest.mark.parametrize("world", ["same", "beta"])
@pytest.mark.parametrize("mean", [0.02, 0.1, 0.5, 0.95])
def test_it_holds_everywhere(metric: str, world: str, mean: float) -> None:
    """At 8 to 256 problems; at 400 trials two standard errors of 95% are 2 points."""
    for problems in (8, 32, 64, 256):
        covered, width, exact_width = covered_and_width(metric, world, mean, problems, trials=400)
        assert covered >= 0.93, problems
        assert width <= 1.2 * exact_width, problems
