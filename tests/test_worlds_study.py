"""`scripts/worlds_study.py`: traces and how they go wrong, what is compared with what, and all stages at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import sod

pytest.importorskip("bm25s")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import worlds_study as study

from sod.build.method import make_method
from sod.build.worlds import environment_maker
from sod.recipe import EnvironmentSpec, load_recipe, parse_recipe

TURNS = 8
STUDENT = {"path": "student"}


def world(name: str) -> Any:
    return environment_maker(EnvironmentSpec(**study.base_recipe(name, study.SIZES["toy"], 0)["environment"]))()


def earned(name: str, slips: float, tasks: int) -> float:
    """The mean reward of traces."""
    environment = world(name)
    told = [
        study.trace(environment, task, number, slips, Random(number), TURNS).reward
        for number, task in enumerate(environment.tasks("train")[:tasks])
    ]
    return sum(told) / tasks


@pytest.mark.parametrize("name", study.WORLDS)
def test_the_expert_succeeds_and_a_sloppy_one_often_does_not(name: str) -> None:
    assert earned(name, 0.0, 20) > 0.95
    assert 0.1 < earned(name, study.WORLDS[name].slips, 20) < 0.9


def test_a_trace_is_what_an_episode_says_and_reads() -> None:
    environment = world("searchqa")
    task = environment.tasks("train")[0]
    told = study.trace(environment, task, 0, 0.0, Random(0), TURNS)
    assert [message.role for message in told.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert [call.arguments["query"] for m in told.messages for call in m.tool_calls] == task.extra["plan"]
    assert told.messages[-1].content == f"<answer>{task.ground_truth}</answer>"


@pytest.mark.parametrize("name", ["searchqa", "webshop", "alfworld"])
def test_recipes_have_the_schedule_of_the_paper(name: str) -> None:
    method = make_method(load_recipe(study.RECIPES / f"atod-{name}.yaml").method)
    assert [method.kappa(step) for step in (1, 41, 81, 150)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert [method.rho(step) for step in (1, 41, 81, 150)] == pytest.approx([1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize("name", study.WORLDS)
@pytest.mark.parametrize("method", study.METHODS)
def test_every_method_has_a_recipe_in_every_world(name: str, method: str, tmp_path: Path) -> None:
    size = study.SIZES["cpu"]
    given = study.method_recipe(name, size, method, tmp_path / "start", tmp_path / "teacher", 3)
    recipe = parse_recipe(given, "recipe")
    assert (recipe.method.name, recipe.seed, recipe.threads) == (study.METHODS[method]["name"], 3, 1)
    assert (recipe.teacher is None) == (method == "grpo")
    make_method(recipe.method)
    assert recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens <= study.CONTEXT
    assert recipe.environment is not None
    assert recipe.environment.arguments == study.WORLDS[name].environment
    if method == "atod":
        made = make_method(recipe.method)
        assert made.rho(size.steps) < made.rho(size.steps + 1) == 2.0, "annealed over the whole run"


def test_gains_are_over_the_cold_start_of_the_same_seed() -> None:
    found = {"start-0": 0.1, "atod-0": 0.5, "start-1": 0.3, "atod-1": 0.9}
    figures = {f"searchqa/{name}": {"success": value} for name, value in found.items()}
    teacher = {"success": 0.95, "ci95": [0.9, 0.98], "tasks": 200, "k": 1}
    summary = study.summarized({**figures, "searchqa/teacher": teacher, "searchqa/traces": {"seconds": 1.0}})
    methods = summary["searchqa"]["methods"]
    assert list(methods) == ["start", "atod"]
    assert methods["atod"]["gain"]["mean"] == pytest.approx((0.4 + 0.6) / 2)
    half = 12.7062 * 0.1  # t(0.975, 1) times the standard error of 0.4 and 0.6
    assert methods["atod"]["gain"]["ci95"] == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)
    assert "| atod | 2 | 70.0 |" in study.table(summary)
    assert "| +50.0 |" in study.table(summary)


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True], ids=["astray", "anew"])
def test_all_stages_at_toy_size_and_none_of_them_twice(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    asked = ["--out", str(out), "--size", "toy", "--worlds", "searchqa", "--methods", "atod", "--seeds", "4"]
    asked += ["--anew"] if anew else []
    monkeypatch.setattr(sys, "argv", ["worlds_study.py", *asked, "--seconds", "0"])
    with pytest.raises(SystemExit, match="the time is over before: searchqa/traces"):
        study.main()
    monkeypatch.setattr(sys, "argv", ["worlds_study.py", *asked])
    study.main()
    figures = json.loads((out / "study.json").read_text())
    names = ["traces", "teacher-init", "teacher", *(["student-init-4"] if anew else []), "start-4", "atod-4"]
    assert list(figures) == [f"searchqa/{name}" for name in names]
    assert figures["searchqa/traces"]["succeeded"]["expert"] == 1.0
    assert figures["searchqa/atod-4"]["tasks"] == study.SIZES["toy"].tasks
    begun_as = out / "searchqa" / ("student-init-4" if anew else "teacher")
    assert sod.Run(out / "searchqa" / "start-4").recipe.student.path == str(begun_as)
    assert "| atod | 1 |" in (out / "summary.md").read_text()
    capsys.readouterr()
    study.main()
    assert "== " not in capsys.readouterr().out
    assert json.loads((out / "study.json").read_text()) == figures
