"""Own reward functions and a judge model in whole runs: what is learned from, logged, counted as right and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rewards.judge_server import JudgeServer, completion
from sod.build.data import loaded_tasks
from sod.build.evaluation import evaluate_model
from sod.build.summary import reward_text
from sod.build.training import prepare_train
from sod.models.load import save_model
from sod.recipe import Recipe, RewardSpec, load_recipe, resolved
from sod.records import SodError

CODE = """\
def score(episode):
    text = episode.messages[-1].content
    return {"length": min(len(text), 40) / 40, "turns": len(episode.trajectory.turns) / 10}

def sized(episodes):
    return [float(len(episodes))] * len(episodes)

async def always_right(episode):
    return 1

def nothing(episode):
    return float("nan")

def failing(episode):
    return episode.task.extra["absent"]

def odd(episode):
    if episode.trajectory.sample % 2:
        raise RuntimeError("down")
    return 0.5
"""


@pytest.fixture
def make_recipe(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Callable[..., Recipe]:
    """`make_recipe(reward={...})`: a recipe in a folder with `mine.py` and tasks that have no truth."""
    save_model(clone(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "model")
    (tmp_path / "mine.py").write_text(CODE)
    rows = [{"prompt": f"What is {n} + 1?", "id": f"t{n}"} for n in range(4)]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    truths = [{**row, "answer": "5"} for row in rows]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truths))

    def make(reward: dict[str, Any], data: str = "bare.jsonl", **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "student": {"path": str(tmp_path / "model")},
            "method": "grpo",
            "chat": {"template": "hermes"},
            "data": {"train": str(tmp_path / data)},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 2,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 8,
                "max_response_tokens": 32,
            },
            "tools": {"python": None},
            "train": {"steps": 1, "checkpoint_every": 1, "trajectories_every": 1},
            "evaluation": {"k": 2, "tasks": 2},
            "reward": reward,
            **sections,
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(content))  # JSON is YAML
        return load_recipe(tmp_path / "recipe.yaml")

    return make


def first_step(recipe: Recipe, directory: Path) -> Any:
    """The report of a run's first step."""
    job = prepare_train(recipe, directory, False, lambda text: None)
    with closing(job):
        return job.take_step(1)


def test_parts_of_own_functions_are_the_reward_and_are_logged(make_recipe: Any, tmp_path: Path) -> None:
    """Of tasks without a truth: functions of an episode and of a group, with weights, in metrics and trajectories."""
    calls = [{"call": "./mine.py:score", "weight": 2.0}, {"call": "./mine.py:sized", "weight": 0.1, "name": "group"}]
    report = first_step(make_recipe({"call": calls}), tmp_path / "run")
    parts = ["score/length", "score/turns", "group"]
    assert report.metrics["reward/group"] == pytest.approx(0.2)
    assert report.metrics["reward"] == pytest.approx(sum(report.metrics[f"reward/{part}"] for part in parts))
    for row in report.trajectories:
        assert list(row["reward_parts"]) == parts
        assert row["reward"] == pytest.approx(sum(row["reward_parts"].values()))


def test_a_verifier_stands_beside_own_functions_where_it_is_named(make_recipe: Any, tmp_path: Path) -> None:
    """The outcome is a part, and its word is what is right, whatever the function gives."""
    recipe = make_recipe({"call": "./mine.py:always_right", "verifier": "math"}, "tasks.jsonl")
    report = first_step(recipe, tmp_path / "run")
    assert {tuple(row["reward_parts"]) for row in report.trajectories} == {("outcome", "always_right")}
    assert report.metrics["reward"] == pytest.approx(report.metrics["reward/outcome"] + 1)
    assert report.metrics["accuracy"] < 1


@pytest.mark.parametrize(("right", "share"), [(1.0, 1.0), (1.5, 0.0)])
def test_an_evaluation_counts_as_right_what_own_functions_give_enough(
    make_recipe: Any, right: float, share: float
) -> None:
    recipe = make_recipe({"call": "./mine.py:always_right", "call_right": right})
    evaluation = evaluate_model(recipe, recipe.data.train, lambda text: None)
    assert [evaluation.estimates[name].value for name in ("avg_at_k", "pass_at_k", "maj_at_k")] == [share] * 3


def test_episodes_whose_reward_fails_are_set_apart(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe({"call": "./mine.py:odd"})
    job = prepare_train(recipe.model_copy(), tmp_path / "run", False, lambda text: None)
    with closing(job):
        report = job.take_step(1)
    assert report.metrics["faults/verifier"] == 2.0
    assert report.metrics["reward"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "returned nan for task t"), ("failing", "KeyError: 'absent' (mine.py line 15)")],
)
def test_a_function_that_always_fails_stops_the_run_with_its_line(
    make_recipe: Any, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(SodError) as caught:
        first_step(make_recipe({"call": f"./mine.py:{name}"}), tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_judge_that_is_not_there_has_cost_nothing(make_recipe: Any, tmp_path: Path) -> None:
    """The error is all that is said."""
    told: list[str] = []
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "cache": str(tmp_path / "cache")}
    with pytest.raises(SodError, match="cannot be reached"):
        prepare_train(make_recipe({"judge": judge}), tmp_path / "run", False, told.append)
    assert [line for line in told if "requests" in line] == []


def test_a_judge_grades_the_episodes_of_a_run(make_recipe: Any, tmp_path: Path) -> None:
    told: list[str] = []
    with JudgeServer(lambda number, body: completion("Score: 5")) as server:
        judge = {"url": server.url, "model": "m", "weight": 2.0, "cache": str(tmp_path / "cache")}
        job = prepare_train(make_recipe({"judge": judge}), tmp_path / "run", False, told.append)
        with closing(job):
            report = job.take_step(1)
        assert report.metrics["reward/judge"] == report.metrics["reward"] == pytest.approx(1.0)
        asked = len(server.asked)
    assert 1 <= asked <= 4
    assert f"reward.judge: {asked} requests, {100 * asked} tokens; {4 - asked} answers were known before" in told


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"call": "./absent.py:score"}, "reward.call='.*absent.py:score': there is no file"),
        ({"call": "./mine.py:scores"}, "has no 'scores'; did you mean 'score'"),
        ({"call": ["./mine.py:score", "./mine.py:score"]}, "reward.call: 'score' cannot name the part"),
        ({"call": {"call": "./mine.py:score", "name": "outcome"}}, "reward.call: 'outcome' cannot name"),
        ({"call": {"call": "./mine.py:score", "weight": 0}}, "reward.call: a weight of 0"),
        ({"call": {"call": "./mine.py:score", "weight": float("nan")}}, "reward.call: a weight of nan"),
        ({"call": "./mine.py:score", "wrong": 0.0}, "reward.wrong=0 does nothing here: reward.verifier=null"),
        ({"call": "./mine.py:score", "verifier": "math", "call_right": 2.0}, "reward.call_right=2 does nothing"),
        ({"verifier": None}, "reward.verifier: null leaves the reward to reward.call or reward.judge"),
        (
            {"call": {"call": "./mine.py:score", "wieght": 2}},
            r"did you mean reward\.call\.0\.weight",
        ),
        ({"call": [{"weight": 2}]}, r"key reward\.call\.0\.call is missing"),
        ({"call": 7}, "reward.call.0.call=7: write module:name or ./file.py:name"),
        ({"judge": {"url": "http://me@h/v1", "model": "m"}}, "put the key into the environment variable SOD_JUDGE"),
        ({"judge": {"url": "http://h", "model": "m", "request": {"n": 2}}}, "reward.judge.request: n is not to be set"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make_recipe: Any, tmp_path: Path, reward: Any, said: str) -> None:
    with pytest.raises(SodError, match=said) as caught:
        first_step(make_recipe(reward), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_recipe_is_recorded_with_whole_paths_and_who_judges(make_recipe: Any, tmp_path: Path) -> None:
    recorded = resolved(make_recipe({"call": "./mine.py:score"}))["reward"]
    assert recorded["call"] == [{"call": f"{tmp_path}/mine.py:score", "weight": 1.0, "name": ""}]
    assert recorded["verifier"] is None


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"call": "m:score"}, "score (m:score) x 1; right from 1 where no verifier judges"),
        ({"call": {"call": "m:score", "weight": 0.5}, "verifier": "math"}, "math verifier + score (m:score) x 0.5"),
        ({"judge": {"url": "http://u", "model": "q"}, "call_right": 2}, "judge (q) x 1; right from 2 where no"),
    ],
)
def test_what_adds_up_to_the_reward_is_said_before_the_first_step(reward: dict[str, Any], said: str) -> None:
    assert reward_text(RewardSpec.model_validate(reward)).startswith(said)


def test_tasks_without_a_truth_need_an_own_reward(make_recipe: Any) -> None:
    recipe = make_recipe({"verifier": "math"})
    with pytest.raises(SodError, match="its rows are of no known shape"):
        loaded_tasks(recipe.data.train, "data.train", recipe, lambda text: None)


def test_a_row_of_another_shape_may_lack_its_truth_too(make_recipe: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "a?"}], "reward_model": {"ground_truth": "5"}},
        {"prompt": [{"role": "user", "content": "b?"}], "reward_model": {"ground_truth": None}},
        {"question": "c?", "answer": ""},
        {"prompt": ""},
    ]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make_recipe({"call": "./mine.py:score"}, "mixed.jsonl")
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, lambda text: None)
    assert [(task.prompt[-1].content, task.ground_truth) for task in tasks] == [("a?", "5"), ("b?", ""), ("c?", "")]


def test_the_documented_function_runs_as_documented(make_recipe: Any, tmp_path: Path) -> None:
    """The code of docs/rewards.md, in a file beside the recipe."""
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    report = first_step(make_recipe({"call": "./mine.py:score"}, "tasks.jsonl"), tmp_path / "run")
    assert {"reward/score/right", "reward/score/errors"} <= set(report.metrics)
