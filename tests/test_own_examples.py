"""The examples that show how to bring one's own tools and environments run as they stand, at a small size."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import ROOT
from sod.records import Task, ToolCall
from sod.runlog import RunLog
from sod.tools.signature import signature_of
from sod.usercode import load
from warm import run_warm

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TOOL, REWARD, TRAIN, LOOK, NOTEBOOK = PYTHON
(YAML,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run(command: str, cwd: Path, *arguments: str, program: str | None = None) -> str:
    """What Python prints, run with these arguments in the example's folder; `program` is its input."""
    done = run_warm([*command.split(), *arguments], cwd, program=program)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of an own tool in a folder of its own, with a cold start that knows the form of a call."""
    folder = tmp_path_factory.mktemp("examples") / "own-tool"
    shutil.copytree(ROOT / "examples" / "own-tool", folder, ignore=shutil.ignore_patterns("__pycache__"))
    run("boxes_world.py", folder, "sft.steps=120", "sft.batch_size=8")
    return folder


@pytest.mark.slow
def test_own_tool_is_called_and_own_reward_counts(boxes: Path) -> None:
    shown = run("boxes.py", boxes, "train.steps=2", "train.trajectories_every=1", "evaluation.k=1")
    assert re.search(
        r"^right: 0\.\d+ before, 0\.\d+ after$|^right: \d\.\d+ before, \d\.\d+ after$", shown, re.MULTILINE
    )
    log = RunLog.open(boxes / "runs" / "boxes")
    assert [row["step"] for row in log.metrics()] == [1, 2]
    assert [row["name"] for row in log.manifest()["code"]] == ["__main__:sql", "__main__:score"]
    rows = [row for step in (1, 2) for row in log.trajectories(step)]
    results = [result for row in rows for turn in row["turns"] for result in turn["results"]]
    assert any(re.fullmatch(r"\d\d", result["text"]) for result in results), "no call got through to the database"
    for row in rows:
        assert row["reward"] == float(row["turns"][-1]["said"]["answer"].strip() == row["truths"][0])

    looked = run("-", boxes, program=LOOK)
    assert "Run('runs/boxes'" in looked
    assert "Which box is" in looked


@pytest.mark.slow
def test_the_commands_ask_for_what_was_passed_in(boxes: Path) -> None:
    """`sod` cannot know the functions: it says what to call instead."""
    done = run_warm(["-m", "sod", "eval", "runs/start", "--data", "data/test.jsonl"], boxes)
    assert done.returncode == 1
    assert "tools.sql.call: passed in from Python, and in no file; pass it again: sod.evaluate(" in done.stderr
    assert "tools=[sql]" in done.stderr


@pytest.mark.slow
def test_the_same_by_import_path_needs_no_python(boxes: Path) -> None:
    """As the tutorial has it."""
    recipe = yaml.safe_load((boxes / "recipe.yaml").read_text(encoding="utf-8")) | yaml.safe_load(YAML)
    (boxes / "by-path.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run("-m sod train by-path.yaml train.steps=1 --run runs/by-path", boxes)
    assert len(RunLog.open(boxes / "runs" / "by-path").metrics()) == 1


@pytest.mark.slow
def test_methods_are_compared_on_ones_own_tool_and_reward(boxes: Path) -> None:
    """As docs/recipes.md has it: two learning rates tried on validation tasks, the figures on others."""
    rows = (boxes / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (boxes / "data" / "validation.jsonl").write_text("".join(rows[:6]), encoding="utf-8")
    (boxes / "data" / "final.jsonl").write_text("".join(rows[6:12]), encoding="utf-8")
    recipe = yaml.safe_load((boxes / "recipe.yaml").read_text(encoding="utf-8")) | yaml.safe_load(YAML)
    recipe["data"]["validation"] = "data/validation.jsonl"
    recipe["compare"] = {"lrs": [1e-3, 3e-3], "tuning_steps": 1, "test": "data/final.jsonl"}
    (boxes / "compared.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    small = ("train.steps=2", "rollout.prompts=2", "rollout.samples=2", "evaluation.k=1")
    command = "-m sod compare compared.yaml --methods start,grpo --seeds 0 --out out --work work"
    shown = run(command, boxes, *small)
    assert "boxes: 4 to do with" in shown
    assert "boxes: 6 test tasks (data/final.jsonl)" in shown
    assert sorted(path.name for path in (boxes / "out" / "trials").iterdir()) == [
        "grpo-lr0.001.json",
        "grpo-lr0.003.json",
    ]
    start, grpo = (json.loads((boxes / f"out/cells/{name}-s0.json").read_text()) for name in ("start", "grpo"))
    assert start["correct"].keys() == grpo["correct"].keys()
    assert len(start["correct"]) == 6
    assert start["figures"]["tool_calls"] > 0, "no call got through"
    assert {*start["sources"]} >= {"tools.sql.call", "reward.call", "student.path", "data.train", "compare.test"}
    assert grpo["curve"]["step"] == [1, 2]
    assert grpo["lr"] in (1e-3, 3e-3)
    assert "| grpo | start | 1 |" in (boxes / "out" / "summary.md").read_text(encoding="utf-8")


def test_the_file_that_trains_is_short() -> None:
    """Without its docstring."""
    text = (ROOT / "examples" / "own-tool" / "boxes.py").read_text(encoding="utf-8")
    lines = [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_tutorial_shows_the_example() -> None:
    """Running the example is running the page."""
    example = (ROOT / "examples" / "own-tool" / "boxes.py").read_text(encoding="utf-8")
    assert [block for block in (TOOL, REWARD, TRAIN) if block not in example] == []


def test_the_class_of_the_tutorial_is_a_tool() -> None:
    names: dict[str, Any] = {}
    exec(NOTEBOOK, names)
    shown = signature_of(names["Notebook"], "notebook", "the tutorial").schema["function"]
    assert list(shown["parameters"]["properties"]) == ["note"]
    notebook = names["Notebook"]()
    notebook.start(Task("t", (), ""))
    assert [notebook("a"), notebook("b")] == ["a", "a\nb"]


def walk(direction: str, steps: object) -> ToolCall:
    return ToolCall("walk", {"direction": direction, "steps": steps})


@pytest.fixture(scope="module")
def corridor() -> Any:
    """The module of the example of an own environment."""
    return load(f"{ROOT}/examples/own-environment/corridor.py:Corridor", ROOT)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_corridor_is_won_by_who_knows_the_way_and_not_by_luck(corridor: Any, split: str) -> None:
    rng, won = random.Random(0), 0
    ways = corridor().tasks(split)
    world = corridor()  # used again, as a run does
    for way in ways:
        task = Task(way["id"], (), "", extra=way)
        direction, steps = ("right" if way["door"] > way["at"] else "left"), abs(way["door"] - way["at"])
        assert world.reset(task, 0)[0] == f"The door is {steps} to the {direction}."
        assert world.step((walk(direction, steps),)) == (["You are at the door."], 1.0, True)
        world.reset(task, 0)
        won += world.step((walk(rng.choice(["left", "right"]), rng.randint(1, 19)),))[2]
    assert 0 < len(ways) < 380
    assert won < len(ways) / 4


def test_the_corridor_says_what_the_model_did_wrong(corridor: Any) -> None:
    world = corridor()
    world.reset(Task("t", (), "", extra={"at": 1, "door": 9}), 0)
    assert world.step("I walk.") == ("Call walk.", 0.0, False)
    far, back, through = walk("right", "far"), walk("back", 1), walk("left", 99)
    assert [world.step((call,))[0][0].error for call in (far, back)] == ["bad_arguments", "bad_arguments"]
    assert world.step((through,)) == (["The door is 8 to the right."], 0.0, False)


@pytest.fixture(scope="module")
def corridors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of an own environment in a folder of its own, with a cold start that knows the form of a call."""
    folder = tmp_path_factory.mktemp("examples") / "own-environment"
    shutil.copytree(ROOT / "examples" / "own-environment", folder, ignore=shutil.ignore_patterns("__pycache__"))
    run("corridor_world.py", folder, "sft.steps=120", "sft.batch_size=8")
    return folder


@pytest.mark.slow
def test_methods_are_compared_in_ones_own_environment(corridors: Path) -> None:
    """Its own validation tasks, a teacher that is the student as it was, and a method that cannot be."""
    recipe = yaml.safe_load((corridors / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"environment": {"call": "./corridor.py:Corridor"}, "teacher": {"path": "runs/start", "dtype": "float32"}}
    (corridors / "compared.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    small = ("train.steps=1", "rollout.prompts=2", "rollout.samples=2", "evaluation.k=1", "evaluation.tasks=4")
    command = "-m sod compare compared.yaml --methods start,sod --seeds 0 --out out --work work"
    shown = run(command, corridors, *small)
    assert "corridor: 2 to do with" in shown
    assert "corridor: 4 test tasks (the environment's tasks)" in shown
    start, sod = (json.loads((corridors / f"out/cells/{name}-s0.json").read_text()) for name in ("start", "sod"))
    assert start["correct"].keys() == sod["correct"].keys()
    assert all(re.fullmatch(r"\d+-\d+", way) for way in sod["correct"])
    assert (sod["lr"], sod["curve"]["step"]) == (1e-3, [1])
    assert {*start["sources"]} >= {"environment.call", "student.path", "teacher.path"}


@pytest.mark.slow
def test_own_environment_is_played_in(corridors: Path) -> None:
    folder = corridors
    shown = run("corridor.py", folder, "train.steps=2", "train.trajectories_every=1", "evaluation.k=1")
    assert re.search(r"^at the door: \d\.\d+ before, \d\.\d+ after$", shown, re.MULTILINE)
    log = RunLog.open(folder / "runs" / "corridor")
    assert [row["name"] for row in log.manifest()["code"]] == ["__main__:Corridor"]
    results = [result for row in log.trajectories(2) for turn in row["turns"] for result in turn["results"]]
    assert any(re.fullmatch(r"The door is \d+ to the (left|right)\.|You are at the door\.", r["text"]) for r in results)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    (folder / "by-path.yaml").write_text(yaml.safe_dump(recipe | {"environment": {"call": "./corridor.py:Corridor"}}))
    command = "-m sod eval runs/corridor --recipe by-path.yaml --data environment@test --tasks 3 -k 1 --out played"
    assert "environment@test, 3 tasks, step 2" in run(command, folder)
