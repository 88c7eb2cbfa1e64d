"""What a comparison will do before it does it: requests, hashes, order, learning rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.compare.cells import by_task, method_spec
from sod.compare.study import (
    Comparison,
    Unit,
    check_request,
    learning_rate,
    needs,
    parse_methods,
    parse_seeds,
    plan,
    read_results,
)
from sod.evaluation.runner import Evaluation
from sod.recipe import Recipe, apply_overrides, load_recipe, parse_recipe
from sod.records import SodError, StopReason, Task, Trajectory

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "student": {"path": "a"},
    "method": {"name": "sod", "epsilon": 0.5, "delta": 0.1},
    "world": {"test": 4},
    "compare": {"lrs": [1e-4, 1e-3], "tuning_seed": 9},
}


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(apply_overrides(RECIPE, overrides, "here"), "here")


def comparison(*overrides: str, out: Path = Path("out")) -> Comparison:
    return Comparison(recipe(*overrides), out, Path("work"), 1, {"revision": None, "dirty": None})


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("0,1, 2", [0, 1, 2]), ("0-2,7", [0, 1, 2, 7])])
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0,", "a", "-1", "3-1", "1.5", "0,1,0", "0-2,1"])
def test_malformed_seeds_are_refused(text: str) -> None:
    with pytest.raises(SodError, match="--seeds"):
        parse_seeds(text)


def test_methods_are_presets_and_models_of_the_world() -> None:
    assert parse_methods("vanilla, start,teacher,opd,sod") == ["vanilla", "start", "teacher", "opd", "sod"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("sodd", "sod"), ("starrt", "start"), ("", "--methods"), ("sod,", "--methods"), ("sod,sod", "twice")],
)
def test_bad_methods_are_refused(text: str, said: str) -> None:
    with pytest.raises(SodError, match=said):
        parse_methods(text)


@pytest.mark.parametrize(
    ("overrides", "methods", "said"),
    [
        (["world=null"], ["start"], "no world section"),
        (["compare.tuning_seed=1"], ["sod"], "tuning_seed"),
        (["compare.lrs=[1.0e-3,0.001]"], ["sod"], "twice"),
        (["method.beta_min=-1"], ["sod"], "beta_min"),
        (["method.epsilonn=1"], ["sod"], "did you mean method.epsilon?"),
        (["method.epsilonn=1"], ["start"], "did you mean method.epsilon?"),
    ],
)
def test_bad_requests_are_refused(overrides: list[str], methods: list[str], said: str) -> None:
    with pytest.raises(SodError, match=said):
        check_request(recipe(*overrides), methods, [0, 1])


def test_the_tuning_seed_may_take_part_where_nothing_is_tuned() -> None:
    check_request(recipe("compare.tuning_seed=1", "compare.lrs=[1.0e-3]"), ["sod"], [0, 1])


def test_knobs_of_the_recipe_hold_for_the_methods_that_have_them() -> None:
    sod = method_spec(recipe(), "sod")
    assert (sod.name, sod.knobs) == ("sod", {"epsilon": 0.5, "delta": 0.1})
    no_clip = method_spec(recipe(), "sod_no_clip")
    assert no_clip.knobs == {"epsilon": 0.5}
    grpo = method_spec(recipe("method.divergence=jsd", "method.clip_low=0.1"), "grpo")
    assert (grpo.name, grpo.knobs, grpo.divergence, grpo.clip_low) == ("grpo", {}, None, 0.1)
    dense = method_spec(recipe("method.divergence={kind: jsd, top_k: 5}", "method.loss_aggregation=turn-mean"), "opd")
    assert dense.divergence is not None
    assert (dense.divergence.top_k, dense.loss_aggregation) == (5, "turn-mean")
    check_request(recipe(), ["sft", "grpo", "opd", "sod", "atod"], [0])


@pytest.mark.parametrize(
    "override",
    [
        "name=x",
        "seed=4",
        "threads=2",
        "student.path=b",
        "method.name=opd",
        "optim.lr=0.5",
        "data.train=f",
        "train.profile=true",
    ],
)
def test_the_recipe_hash_leaves_out_what_is_a_cells_own_or_changes_no_result(override: str) -> None:
    assert comparison(override).recipe_sha256 == comparison().recipe_sha256


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=7",
        "method.epsilon=0.1",
        "compare.tuning_steps=3",
        "evaluation.k=2",
        "world.slips=0.1",
        "optim.warmup_steps=9",
    ],
)
def test_the_recipe_hash_depends_on_what_changes_results(override: str) -> None:
    assert comparison(override).recipe_sha256 != comparison().recipe_sha256


def test_recipes_that_differ_in_tools_and_training_share_their_worlds() -> None:
    same = comparison(
        "tools.python.timeout_seconds=1", "tools.python.failure_rate=0.2", "train.steps=3", "rollout.samples=2"
    )
    assert same.world(3) == comparison().world(3)
    assert comparison().world(4) != comparison().world(3)
    for override in ("world.slips=0.1", "sft.steps=9", "student.dtype=bfloat16", "tools.python.stateful=true"):
        assert comparison(override).world(3) != comparison().world(3)


def test_both_recipes_of_the_repository_share_their_worlds_and_pass() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    chain, unreliable = (load_recipe(folder / f"compare-{name}.yaml") for name in ("chain", "unreliable"))
    hashes = {Comparison(r, Path(), Path(), 1, {}).world_hash for r in (chain, unreliable)}
    assert len(hashes) == 1
    check_request(chain, ["start", "sft", "grpo", "opd", "sod"], [0])
    assert unreliable.tools.python is not None
    assert unreliable.tools.python.failure_rate == 0.2


@pytest.mark.parametrize(
    ("results", "overrides"),
    [("", []), *((f"-epsilon-{e}", [f"method.epsilon={e}", "compare.lrs=[2.0e-4]"]) for e in (0.05, 0.5))],
)
@pytest.mark.parametrize("name", ["chain", "unreliable"])
def test_the_results_in_the_repository_are_still_those_of_its_recipes(
    name: str, results: str, overrides: list[str]
) -> None:
    """Whatever keys the recipe has gained or renamed since."""
    root = Path(__file__).parents[2]
    asked = load_recipe(root / "recipes" / f"compare-{name}.yaml", overrides)
    out = root / "docs" / "results" / "2026-11-22-comparison" / f"{name}{results}"
    assert len(read_results(Comparison(asked, out, Path("work"), 1, {}))) >= 5


def test_all_methods_of_a_seed_come_before_the_next_seed() -> None:
    asked = comparison()
    labels = [unit.label for unit in plan(asked, ["start", "sod"], [0, 1], {}, jobs=1)]
    tuning = ["world s9", "sod lr 0.0001", "sod lr 0.001"]
    assert labels == [*tuning, "world s0", "start s0", "sod s0", "world s1", "start s1", "sod s1"]


def test_with_several_jobs_the_next_world_is_prepared_ahead() -> None:
    labels = [unit.label for unit in plan(comparison("compare.lrs=[1.0e-3]"), ["sod"], [0, 1, 2], {}, jobs=2)]
    assert labels == ["world s0", "world s1", "sod s0", "world s2", "sod s1", "sod s2"]


def test_what_is_done_is_not_planned_nor_what_only_that_needed() -> None:
    done = {Unit("cell", 0, "sod"): {}, Unit("cell", 0, "start"): {}, Unit("trial", 9, "sod", 1e-4): {}}
    labels = [unit.label for unit in plan(comparison(), ["start", "sod"], [0, 1], done, jobs=1)]
    assert labels == ["world s9", "sod lr 0.001", "world s1", "start s1", "sod s1"]
    assert plan(comparison(), ["start", "sod"], [0], done, jobs=1) == []


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


def test_results_of_another_recipe_are_refused_by_name(tmp_path: Path) -> None:
    asked = comparison(out=tmp_path)
    unit = Unit("cell", 2, "sod")
    path = asked.result(unit)
    path.parent.mkdir()
    path.write_text(json.dumps({"recipe_sha256": asked.recipe_sha256, "seed": 2, "method": "sod"}))
    assert list(read_results(asked)) == [unit]
    with pytest.raises(SodError, match=r"sod-s2\.json: was made with another recipe; choose another --out"):
        read_results(comparison("train.steps=3", out=tmp_path))
    path.write_text('{"recipe_sha')
    with pytest.raises(SodError, match=r"sod-s2\.json: not a result"):
        read_results(asked)


def test_correctness_stands_in_the_order_of_the_file_and_gaps_are_none() -> None:
    def episode(task: str, correct: bool) -> Trajectory:
        return Trajectory(task, 0, 0, (), (), (), (), StopReason.ANSWER, correct=correct)

    episodes = [episode("c", True), episode("a", True), episode("a", False)]
    evaluation = Evaluation(2, 2, {}, {}, episodes)
    assert by_task(evaluation, [Task(name, (), "") for name in "abc"]) == [0.5, None, 1.0]
