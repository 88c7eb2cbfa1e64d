"""Several named sets of validation tasks: figures of each during training, checks of each before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sod.build.training import prepare_train
from sod.compare.own import tuning_tasks
from sod.models.load import save_model
from sod.recipe import Recipe, apply_overrides, parse_recipe
from sod.records import SodError
from sod.tasks import chain
from sod.tasks.files import load_tasks, write_tasks


def quiet(text: str) -> None:
    """What is told is not the point here."""


@pytest.fixture
def make_recipe(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Callable[..., Recipe]:
    """`make_recipe(section={...})`: a recipe of a run without a teacher over real files below `tmp_path`."""
    save_model(clone(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    chains = chain.splits({"train": 4}, 2, 3, seed=1)["train"]
    write_tasks(tmp_path / "train.parquet", [chain.as_task(c, n) for n, c in enumerate(chains)])

    def make(**sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "student": {"path": str(tmp_path / "model")},
            "chat": {"template": "hermes"},
            "data": {"train": str(tmp_path / "train.parquet")},
            "rollout": {"prompts": 1, "samples": 2, "max_turns": 1, "max_prompt_tokens": 200}
            | {"max_turn_tokens": 16, "max_response_tokens": 64},
            "tools": {"python": None},
            "method": "grpo",
            "train": {"steps": 2, "checkpoint_every": 1},
        }
        for key, value in sections.items():
            content[key] = {**content.get(key, {}), **value}
        return Recipe.model_validate(content)

    return make


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, str]:
    """Two files of three tasks each, all with other questions."""
    splits = chain.splits({"easy": 3, "hard": 3}, 2, 3, seed=8)
    for name, chains in splits.items():
        write_tasks(tmp_path / f"{name}.parquet", [chain.as_task(c, n) for n, c in enumerate(chains)])
    return {name: str(tmp_path / f"{name}.parquet") for name in splits}


def metrics(make_recipe: Any, directory: Path, validation: Any, resume: bool = False, **more: Any) -> list[Any]:
    """The rows of a run that evaluates at its end."""
    evaluating = {"evaluate_every": 2, "steps": 2} | more
    recipe = make_recipe(data={"validation": validation}, train=evaluating, evaluation={"k": 2, "tasks": 0})
    with closing(prepare_train(recipe, directory, resume, quiet)) as job:
        facts = [text for name, text in job.facts if name == "held out"]
        job.start([])
    return [facts, *job.log.metrics()]


@pytest.mark.slow
def test_each_set_has_the_figures_that_it_has_alone(make_recipe: Any, sets: dict[str, str], tmp_path: Path) -> None:
    """And the figures without a name are their means; a run with one set that has no name is as it was."""
    facts, _, together = metrics(make_recipe, tmp_path / "both", sets)
    assert facts == [f"{name}, {path}: 3 tasks, every 2 steps" for name, path in sets.items()]
    alone = {name: metrics(make_recipe, tmp_path / name, path)[-1] for name, path in sets.items()}
    for figure in ("avg_at_k", "pass_at_k", "maj_at_k"):
        for name, row in alone.items():
            assert together[f"eval/{name}/{figure}"] == row[f"eval/{figure}"]
            assert f"eval/{name}/{figure}" not in row
        assert together[f"eval/{figure}"] == pytest.approx(fmean(row[f"eval/{figure}"] for row in alone.values()))


@pytest.mark.slow
def test_a_run_with_sets_is_gone_on_with(make_recipe: Any, sets: dict[str, str], tmp_path: Path) -> None:
    """With the same ones; with others it is refused."""
    metrics(make_recipe, tmp_path / "run", sets, steps=2, checkpoint_every=1)
    (tmp_path / "run" / "checkpoints" / "step-000002" / "COMPLETE.json").unlink()
    _, _, again = metrics(make_recipe, tmp_path / "run", sets, resume=True, steps=2, checkpoint_every=1)
    assert "eval/hard/avg_at_k" in again
    with pytest.raises(SodError, match=r"was started with another recipe: data\.validation"):
        metrics(make_recipe, tmp_path / "run", sets | {"more": sets["easy"]}, resume=True)


@pytest.mark.slow
def test_tasks_at_fault_are_left_out_of_their_own_set(make_recipe: Any, sets: dict[str, str], tmp_path: Path) -> None:
    """What is left out is written down by set."""
    sound = {"prompt": "", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 2\n"}
    tasks = load_tasks(sets["easy"]).items
    good = [replace(task, extra=sound) for task in tasks[:2]]
    at_fault = replace(tasks[2], extra={**sound, "test": "def checks(candidate): pass"})
    named = {name: str(tmp_path / f"{name}.parquet") for name in ("code", "good")}
    write_tasks(named["code"], [good[0], at_fault])
    write_tasks(named["good"], good)
    notes: list[str] = []
    recipe = make_recipe(
        data={"train": named["good"], "validation": named},
        reward={"verifier": "code"},
        train={"evaluate_every": 2},
        evaluation={"k": 1, "tasks": 0},
    )
    with closing(prepare_train(recipe, tmp_path / "run", False, notes.append)) as job:
        job.make()
        assert [text for name, text in job.facts if name == "held out"] == [
            f"code, {named['code']}: 1 task, every 2 steps",
            f"good, {named['good']}: 2 tasks, every 2 steps",
        ]
    left_out = json.loads((tmp_path / "run" / "left_out.json").read_text())
    assert list(left_out["data.validation.code"]) == [at_fault.id]
    assert not left_out["data.validation.good"]


def test_what_is_wrong_with_a_set_is_found_before_the_run(
    make_recipe: Any, sets: dict[str, str], tmp_path: Path
) -> None:
    """By its key."""
    with pytest.raises(SodError, match=r"gone\.parquet: no such data file"):
        metrics(make_recipe, tmp_path / "run", sets | {"third": "gone.parquet"})
    with pytest.raises(SodError, match=r"data\.validation\.third=environment@test: there is no environment"):
        metrics(make_recipe, tmp_path / "run", sets | {"third": "environment@test"})
    assert not (tmp_path / "run").exists()


NAMES = {
    "a slash": ({"aime/24": "a.parquet"}, "'aime/24' is no name of a set"),
    "a figure": ({"avg_at_k": "a.parquet"}, "'avg_at_k' is no name of a set"),
    "a number": ({24: "a.parquet"}, "24 is no name of a set"),
    "case alone": ({"aime24": "a.parquet", "AIME24": "b.parquet"}, "aime24 and AIME24 differ in case alone"),
    "nothing": ({}, "names no set"),
    "null": ({"aime24": None}, r"data.validation.aime24: names no source"),
    "an empty list": ({"aime24": []}, r"data.validation.aime24=\[\]: name a file"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_are_none_are_refused(case: str) -> None:
    named, said = NAMES[case]
    with pytest.raises(SodError, match=said):
        parse_recipe({"student": {"path": "m"}, "data": {"validation": named}}, "recipe")


def test_sets_are_given_one_by_one_and_read_as_one_by_a_comparison() -> None:
    """On a command line too; `sod compare` chooses learning rates on all of them together."""
    content = {"student": {"path": "m"}, "data": {"validation": {"aime24": "a.parquet"}}}
    given = ["data.validation.aime25=[b.parquet,a.parquet]"]
    recipe = parse_recipe(apply_overrides(content, given, "recipe", quiet), "recipe")
    assert recipe.data.validation_sets == {"aime24": "a.parquet", "aime25": ["b.parquet", "a.parquet"]}
    assert tuning_tasks(recipe).named == ["a.parquet", "b.parquet"]
    single = parse_recipe({"student": {"path": "m"}, "data": {"validation": ["a.parquet", "b.parquet"]}}, "recipe")
    assert single.data.validation_sets == {"": ["a.parquet", "b.parquet"]}
