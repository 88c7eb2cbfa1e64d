"""Requests, hashes and results of a comparison, and what its failures cost; a whole one is in tests/cli."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.compare.cells import PREPARED, by_name, by_task, method_spec
from sod.compare.study import check_request, compare, parse_methods, parse_seeds, read_results
from sod.compare.units import Comparison, Unit
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


@pytest.mark.slow
def test_what_needs_something_that_failed_is_not_run(tmp_path: Path) -> None:
    """The tuning world cannot be made, so that OPD gets no learning rate; SOD's trials are done, and all diverged."""
    asked = comparison(out=tmp_path / "out")
    for lr in asked.recipe.compare.lrs:
        path = asked.result(Unit("trial", 9, "sod", lr))
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {"recipe_sha256": asked.recipe_sha256, "seed": 9, "method": "sod", "lr": lr}
        own |= {"figures": None, "seconds": {}}
        path.write_text(json.dumps(own))
    worlds = Comparison(asked.recipe, asked.out, tmp_path / "work", 1, {})
    worlds.world(0).mkdir(parents=True)
    (worlds.world(0) / PREPARED).write_text(json.dumps({"seconds": {"data and models": 1.6}}))
    worlds.world(9).touch()
    lines: list[str] = []
    with pytest.raises(SodError, match="5 of 8 failed"):
        compare(recipe("threads=1"), ["opd", "sod"], [0], asked.out, tmp_path / "work", 1, lines.append)
    assert lines[:4] == [
        "tiny: 6 to do with 1 x 1 threads, 2 done earlier",
        "to do: 2 trials, 2 cells; 300 optimizer steps",
        "world s9 failed",
        "world s0: ready, made in 2 s (3/8)",
    ]
    reasons = {line.split(": ", 2)[1]: line.split(": ", 2)[2] for line in lines[4:]}
    assert "NotADirectoryError" in reasons.pop("world s9")
    assert reasons == {
        "opd lr 0.0001": "not run, because world s9 failed",
        "opd lr 0.001": "not run, because world s9 failed",
        "opd s0": "not run, because opd lr 0.0001 failed",
        "sod s0": "sod diverged at every learning rate of compare.lrs; add smaller ones",
    }
    assert [path.name for path in asked.out.rglob("*.json") if path.parent.name != "trials"] == ["s0.json"]


def test_correctness_stands_in_the_order_of_the_file_and_gaps_are_none() -> None:
    def episode(task: str, correct: bool) -> Trajectory:
        return Trajectory(task, 0, 0, (), (), (), (), StopReason.ANSWER, correct=correct)

    episodes = [episode("c", True), episode("a", True), episode("a", False)]
    evaluation = Evaluation(2, 2, {}, {}, episodes)
    assert by_task(evaluation, [Task(name, (), "") for name in "abc"]) == [0.5, None, 1.0]
    played = [Task("a", (), "", extra={"seed": 7}), Task("b", (), ""), Task("c", (), "", extra={"at": 1})]
    assert by_name(replace(evaluation, played=played)) == {"c": 1.0, "a:7": 0.5}  # a is another task in another seed
