"""What is done when: the order of units that a request leads to, what each waits for, and its learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from sod.compare.order import learning_rate, needs, order_of_work
from sod.compare.units import Comparison, Unit
from sod.recipe import apply_overrides, parse_recipe
from sod.records import SodError

METHODS = ["start", "opd", "sod"]
SEEDS = [0, 1, 2]
SEVERAL_LRS, ONE_LR = "compare.lrs=[1.0e-4,1.0e-3]", "compare.lrs=[1.0e-3]"
NOTHING: list[Unit] = []
SOME = [Unit("cell", 0, "sod"), Unit("cell", 0, "start"), Unit("cell", 1, "start"), Unit("trial", 9, "sod", 1e-4)]
TRIALS = [Unit("trial", 9, method, lr) for method in ("opd", "sod") for lr in (1e-4, 1e-3)]
EVERYTHING = [Unit("cell", seed, method) for seed in SEEDS for method in METHODS]
# By name of the case: learning rates, what is done, jobs; then the order, a stretch of work a line.
ORDERS: dict[str, tuple[str, list[Unit], int, list[str]]] = {
    "one job": (
        SEVERAL_LRS,
        NOTHING,
        1,
        [
            "world s9, opd lr 0.0001, opd lr 0.001, sod lr 0.0001, sod lr 0.001",
            "world s0, start s0, opd s0, sod s0",
            "world s1, start s1, opd s1, sod s1",
            "world s2, start s2, opd s2, sod s2",
        ],
    ),
    "two jobs": (
        SEVERAL_LRS,
        NOTHING,
        2,
        [
            "world s9",
            "world s0, opd lr 0.0001, opd lr 0.001, sod lr 0.0001, sod lr 0.001",
            "world s1, start s0, opd s0, sod s0",
            "world s2, start s1, opd s1, sod s1",
            "start s2, opd s2, sod s2",
        ],
    ),
    "one learning rate, one job": (
        ONE_LR,
        NOTHING,
        1,
        [
            "world s0, start s0, opd s0, sod s0",
            "world s1, start s1, opd s1, sod s1",
            "world s2, start s2, opd s2, sod s2",
        ],
    ),
    "one learning rate, three jobs": (
        ONE_LR,
        NOTHING,
        3,
        [
            "world s0",
            "world s1, start s0, opd s0, sod s0",
            "world s2, start s1, opd s1, sod s1",
            "start s2, opd s2, sod s2",
        ],
    ),
    "some done, one job": (
        SEVERAL_LRS,
        SOME,
        1,
        [
            "world s9, opd lr 0.0001, opd lr 0.001, sod lr 0.001",
            "world s0, opd s0",
            "world s1, opd s1, sod s1",
            "world s2, start s2, opd s2, sod s2",
        ],
    ),
    "some done, two jobs": (
        SEVERAL_LRS,
        SOME,
        2,
        [
            "world s9",
            "world s0, opd lr 0.0001, opd lr 0.001, sod lr 0.001",
            "world s1, opd s0",
            "world s2, opd s1, sod s1",
            "start s2, opd s2, sod s2",
        ],
    ),
    "one learning rate, some done, two jobs": (
        ONE_LR,
        SOME,
        2,
        [
            "world s0",
            "world s1, opd s0",
            "world s2, opd s1, sod s1",
            "start s2, opd s2, sod s2",
        ],
    ),
    "every trial done, two jobs": (
        SEVERAL_LRS,
        TRIALS,
        2,
        [
            "world s0",
            "world s1, start s0, opd s0, sod s0",
            "world s2, start s1, opd s1, sod s1",
            "start s2, opd s2, sod s2",
        ],
    ),
    "every cell done": (
        SEVERAL_LRS,
        EVERYTHING,
        2,
        [],
    ),
}


def comparison(*overrides: str) -> Comparison:
    values = {"name": "tiny", "student": {"path": "a"}, "world": {"test": 4}, "compare": {"tuning_seed": 9}}
    recipe = parse_recipe(apply_overrides(values, (SEVERAL_LRS, *overrides), "here"), "here")
    return Comparison(recipe, Path("out"), Path("work"), 1, {"revision": None, "dirty": None})


def labels(lrs: str, methods: list[str], done: list[Unit], jobs: int) -> list[str]:
    return [unit.label for unit in order_of_work(comparison(lrs), methods, SEEDS, dict.fromkeys(done), jobs)]


@pytest.mark.parametrize(("lrs", "done", "jobs", "lines"), ORDERS.values(), ids=ORDERS)
def test_the_order_of_work(lrs: str, done: list[Unit], jobs: int, lines: list[str]) -> None:
    assert labels(lrs, METHODS, done, jobs) == [label for line in lines for label in line.split(", ")]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (1, "world s0, start s0, teacher s0, world s1, start s1, teacher s1, world s2, start s2, teacher s2"),
        (2, "world s0, world s1, start s0, teacher s0, world s2, start s1, teacher s1, start s2, teacher s2"),
    ],
)
def test_methods_that_train_nothing_need_no_trials(jobs: int, expected: str) -> None:
    assert ", ".join(labels(SEVERAL_LRS, ["start", "teacher"], NOTHING, jobs)) == expected


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("done", [NOTHING, SOME, TRIALS])
def test_everything_stands_after_what_it_needs(done: list[Unit], jobs: int) -> None:
    asked = comparison()
    order = order_of_work(asked, METHODS, SEEDS, dict.fromkeys(done), jobs)
    for number, unit in enumerate(order):
        assert set(needs(asked, unit)) <= {*order[:number], *done}


def test_a_seed_that_is_done_costs_no_world_and_a_trial_that_is_done_is_not_repeated() -> None:
    done = [Unit("cell", 0, "sod"), Unit("cell", 0, "start"), Unit("trial", 9, "sod", 1e-4)]
    order = order_of_work(comparison(), ["start", "sod"], [0, 1], dict.fromkeys(done), 1)
    assert [unit.label for unit in order] == ["world s9", "sod lr 0.001", "world s1", "start s1", "sod s1"]
    assert order_of_work(comparison(), ["start", "sod"], [0], dict.fromkeys(done), 1) == []


def test_what_a_unit_needs() -> None:
    asked, world = comparison(), Unit("world", 0)
    trials = [Unit("trial", 9, "sod", 1e-4), Unit("trial", 9, "sod", 1e-3)]
    assert needs(asked, world) == []
    assert needs(asked, trials[0]) == [Unit("world", 9)]
    assert needs(asked, Unit("cell", 0, "sod")) == [world, *trials]
    assert needs(asked, Unit("cell", 0, "start")) == [world]
    assert needs(comparison(ONE_LR), Unit("cell", 0, "sod")) == [world]


def test_the_learning_rate_is_the_best_on_validation_tasks_and_the_smaller_of_equals() -> None:
    asked, cell = comparison("compare.lrs=[1.0e-3,1.0e-4,1.0e-5]"), Unit("cell", 0, "sod")
    trials = [n for n in needs(asked, cell) if n.kind == "trial"]

    def chosen(*scores: float | None) -> float | None:
        results = {t: {"figures": s if s is None else {"avg_at_k": s}} for t, s in zip(trials, scores, strict=True)}
        return learning_rate(asked, cell, results)

    assert chosen(0.1, 0.3, 0.2) == 1e-4
    assert chosen(0.3, 0.3, 0.2) == 1e-4
    assert chosen(0.0, None, None) == 1e-3
    with pytest.raises(SodError, match="diverged at every learning rate"):
        chosen(None, None, None)
    assert learning_rate(asked, Unit("cell", 0, "start"), {}) is None
    assert learning_rate(comparison("compare.lrs=[0.5]"), cell, {}) == 0.5
