"""Runs whose episodes are played in an environment that the recipe names by import path."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_declared_own_tools import TYPED

from environment_games import Counter
from sod.build.data import make_chat
from sod.build.environment import first_look, world_tasks
from sod.build.evaluation import evaluate_model
from sod.build.own_code import code_rows
from sod.build.tools import make_reward_function
from sod.build.training import prepare_train
from sod.build.worlds import environment_maker
from sod.models.load import save_model
from sod.recipe import EnvironmentSpec, Recipe, parse_recipe, resolved
from sod.recipe.reach import refuse_reaching
from sod.records import Message, SodError, Task
from sod.runlog.trajectories import read_trajectory_rows
from support import answered

PARROT = "environment_games:Parrot"
COUNTER = "environment_games:Counter"


@pytest.fixture
def make_recipe(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Callable[..., Recipe]:
    """`make_recipe(environment, section={...})`: a recipe of a tiny student in an environment, without data."""
    save_model(clone(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    rows = [{"id": f"row-{goal}", "question": "Play.", "goal": goal} for goal in (2, 3)]
    (tmp_path / "goals.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(environment: dict[str, Any], **sections: Any) -> Recipe:
        model = {"path": str(tmp_path / "model")}
        rollout = {"prompts": 1, "samples": 2, "max_turns": 2, "max_turn_tokens": 16}
        rollout |= {"max_prompt_tokens": 500, "max_response_tokens": 120}
        content = {
            "student": model,
            "teacher": model,
            "chat": {"template": "hermes"},
            "environment": environment,
            "rollout": rollout,
            "method": "sod",
            "train": {"steps": 2, "checkpoint_every": 1},
            "evaluation": {"k": 1, "tasks": 2},
        }
        return Recipe.model_validate(content | sections)

    return make


def silent(text: str) -> None:
    """Notes are not what is tested here."""


def run(recipe: Recipe, directory: Path, resume: bool = False, stop_after: int | None = None) -> None:
    with closing(prepare_train(recipe, directory, resume, silent)) as job:
        job.start([])


def test_a_run_needs_no_data_and_records_what_the_environment_began_with(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe({"call": PARROT})
    assert recipe.tools.python is None
    run(recipe, tmp_path / "run")
    (first, *_) = sorted((tmp_path / "run" / "trajectories").glob("*.jsonl"))
    rows = read_trajectory_rows(first)
    assert {row["prompt"][0]["content"] for row in rows} == {"Say the word."}
    assert {row["stop"] for row in rows} <= {"answer", "max_turns", "length"}
    assert all(row["turns"][0]["reply"] is None or row["turns"][0]["reward"] == 0.25 for row in rows)


@pytest.mark.slow
def test_a_taskset_of_the_real_verifiers_trains_and_a_resumed_run_is_the_same(make_recipe: Any, tmp_path: Path) -> None:
    pytest.importorskip("verifiers.v1")
    recipe = make_recipe({"call": "verifiers_games:Shelf", "goals": 6})
    run(recipe, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-000002")
    run(recipe, tmp_path / "again", resume=True)
    rows, again = (
        [
            row
            for file in sorted((tmp_path / name / "trajectories").glob("*.jsonl"))
            for row in read_trajectory_rows(file)
        ]
        for name in ("run", "again")
    )
    assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in again]
    for row in rows:
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["fault"] is None
        assert row["reward_parts"].keys() == {"environment"}


def test_a_run_is_evaluated_in_its_environment(make_recipe: Any) -> None:
    result = evaluate_model(make_recipe({"call": COUNTER, "goal": 3}), None, silent)
    assert result.tasks == 2
    assert result.tools is not None
    assert [tool["function"]["name"] for tool in result.tools] == ["add"]


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("Play.", [("user", "Play.")]),
        ([{"role": "system", "content": "A game."}, {"role": "user", "content": "Play."}], None),
        ((Message("system", "A game."), Message("user", "Play.")), None),
        (None, []),
    ],
)
def test_a_task_of_an_environments_own_has_its_prompt_in_any_form(prompt: Any, messages: Any) -> None:
    class Offering(Counter):
        def tasks(self, split: str) -> list[dict[str, Any]]:
            return [{"id": "one", "prompt": prompt}]

    recipe = parse_recipe({"student": {"path": "s"}, "environment": {"call": Offering}}, "a test")
    assert recipe.environment is not None
    (task,) = world_tasks(None, "data.train", recipe, recipe.environment, silent)
    said = [("system", "A game."), ("user", "Play.")] if messages is None else messages
    assert [(message.role, message.content) for message in task.prompt] == said


def test_a_prompt_that_is_none_is_refused() -> None:
    class Offering(Counter):
        def tasks(self, split: str) -> list[dict[str, Any]]:
            return [{"id": "one", "prompt": [7]}]

    recipe = parse_recipe({"student": {"path": "s"}, "environment": {"call": Offering}}, "a test")
    assert recipe.environment is not None
    with pytest.raises(SodError, match=r"environment: task one: .*; give its prompt as text, or as messages"):
        world_tasks(None, "data.train", recipe, recipe.environment, silent)


def test_rows_are_handed_to_the_environment_whole(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe({"call": COUNTER})
    tasks = world_tasks(str(tmp_path / "goals.jsonl"), "data.train", recipe, recipe.environment, silent)
    assert [(task.id, task.extra["goal"], task.prompt[0].content) for task in tasks] == [
        ("row-2", 2, "Play."),
        ("row-3", 3, "Play."),
    ]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"call": "environment_games:Countre"}, "did you mean 'Counter'"),
        ({"call": COUNTER, "gaol": 3}, r"environment.gaol: environment_games:Counter takes no such argument.*goal"),
        ({"call": COUNTER, "broken": "reset"}, "task train-0: reset: KeyError: 'val1'"),
        ({"call": "environment_games:ADD"}, "is no class or function"),
        ({"call": "serchqa"}, r"no world of sod's own has this name, there are: .*searchqa.*did you mean searchqa\?"),
        ({"call": "environment_gaems:Counter"}, "there is no module 'environment_gaems'"),
        ({"call": "./absent.py:Counter"}, r"there is no file .*absent\.py"),
        ({"call": "environment_games.Counter"}, "is not an import path; write module:name or ./file.py:name"),
        ({"call": "environment_games:Untyped"}, "its tool jump: Argument far is missing a type hint"),
        ({"call": COUNTER, "broken": "twins"}, "task train-0: reset: reset returned two tools named 'add'"),
        ({"call": COUNTER, "broken": "sleepy", "timeout_seconds": 0.2}, "task train-0: reset: took longer than 0.2 s"),
        ({"call": "environment_games:Offering", "offers": "hang", "timeout_seconds": 0.2}, "tasks.'train'.: .*longer"),
        ({"call": "environment_games:Offering", "offers": "raise"}, "tasks.'train'.: OSError: no list"),
        ({"call": "builtins:dict"}, "makes a dict, which has no reset"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    make_recipe: Any, tmp_path: Path, environment: dict[str, Any], said: str
) -> None:
    with pytest.raises(SodError, match=said):
        prepare_train(
            make_recipe(environment, student={"path": str(tmp_path / "model")}), tmp_path / "r", False, silent
        )


def test_a_schema_that_the_template_cannot_show_is_refused_by_name(make_recipe: Any, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = TYPED
    for broken in ("", "typeless"):
        recipe = make_recipe({"call": COUNTER, "broken": broken}, chat={"template": "tokenizer"})
        began = first_look(recipe, [Task("t", (), "", extra={"goal": 2})])
        assert began is not None
        if not broken:
            assert make_chat(recipe, own, silent, began.tools).own_template
            continue
        with pytest.raises(SodError, match=r"^environment: its tool add: the tokenizer's chat template cannot show"):
            make_chat(recipe, own, silent, began.tools)


def test_the_arguments_are_keys_and_survive_writing(make_recipe: Any) -> None:
    recipe = make_recipe({"call": COUNTER, "goal": 4})
    again = parse_recipe(resolved(recipe), "recipe.yaml")
    assert again.environment == recipe.environment
    assert again.environment is not None
    assert environment_maker(again.environment)().goal == 4  # type: ignore[attr-defined]


def test_code_that_a_run_directory_names_needs_the_users_word(make_recipe: Any) -> None:
    recipe = make_recipe({"call": COUNTER})
    with pytest.raises(SodError, match=r"environment\.call='environment_games:Counter' imports and runs this code"):
        refuse_reaching(recipe, "recipe.yaml", [])


def test_a_world_that_comes_with_sod_goes_by_its_name(make_recipe: Any) -> None:
    """It is no code of a stranger's, so a run that was downloaded may name it; but no file for it to open."""
    recipe = make_recipe({"call": "searchqa", "people": 30, "train": 4, "validation": 2})
    refuse_reaching(recipe, "recipe.yaml", [])
    with pytest.raises(SodError, match=r"environment=.*'corpus': 'evil'.* may open these files.*--allow-code"):
        refuse_reaching(make_recipe({"call": "searchqa", "corpus": "evil"}), "recipe.yaml", [])
    assert parse_recipe(resolved(recipe), "recipe.yaml").environment == recipe.environment
    (row,) = code_rows(recipe)
    assert (row["key"], row["name"]) == ("environment.call", "sod.environments.search_qa:SearchQA")
    tasks = world_tasks(None, "data.train", recipe, recipe.environment, silent)
    assert [task.id for task in tasks] == ["train-0", "train-1", "train-2", "train-3"]


def test_keys_have_their_limits() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        EnvironmentSpec.model_validate({"call": COUNTER, "timeout_seconds": 0})


def longer(episode: Any) -> float:
    """A reward function of one's own."""
    return 0.5 * len(episode.trajectory.turns)


@pytest.mark.parametrize(
    ("verified", "reward", "correct", "parts"),
    [
        (False, {}, True, {"environment": 1.0}),
        (False, {"call": "test_environment_runs:longer"}, True, {"environment": 1.0, "longer": 0.5}),
        (True, {}, False, {"environment": 1.0, "outcome": -1.0}),
    ],
)
def test_rewards_of_the_environment_join_the_others(
    verified: bool, reward: dict[str, Any], correct: bool, parts: dict[str, float]
) -> None:
    environment = {"call": COUNTER, "verified": verified}
    recipe = Recipe.model_validate({"student": {"path": "m"}, "environment": environment, "reward": reward})
    episode = answered("\\boxed{7}", "8")
    played = replace(episode, trajectory=replace(episode.trajectory, reward_parts={"environment": 1.0}))
    with ExitStack() as opened:
        (judged,) = make_reward_function(recipe, opened, [episode.task])([played])
    assert judged.fault is None
    assert (judged.correct, judged.reward_parts, judged.reward) == (correct, parts, sum(parts.values()))
