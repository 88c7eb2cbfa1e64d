"""A run in an environment, killed in the middle of a step and resumed, ends as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_resume import assert_same_run, lines, steps_written, untimed

import dice_world
from dice_world import Dice
from sod.runlog import RunLog

DICE = f"{dice_world.__file__}:Dice"
NEEDS_WORD = f"environment.call={DICE!r} imports and runs this code"


@pytest.fixture
def dice_recipe(world: Any, tmp_path: Path) -> Path:
    """A recipe of six steps among dice, with checkpoints and evaluations between."""
    content = yaml.safe_load(world.recipe(tmp_path).read_text())
    del content["tools"], content["data"]
    content["environment"] = {"call": DICE, "notes": str(tmp_path / "notes"), "seconds": 0.02, "tasks": 12}
    content["train"] = {"steps": 6, "checkpoint_every": 2, "evaluate_every": 3, "trajectories_every": 1}
    content["evaluation"] = {"k": 1, "tasks": 2}
    path = tmp_path / "dice.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def in_step(number: int, run: Path, dice: Dice) -> Callable[[], bool]:
    """Whether the environment has been asked twice since the step before `number` was over."""
    before: list[int] = []

    def holds() -> bool:
        if lines(run) < number - 1:
            return False
        before.append(dice.asked())
        return dice.asked() >= before[0] + 2

    return holds


@pytest.mark.slow
def test_killed_among_dice_and_resumed_equals_uninterrupted(
    dice_recipe: Path, tmp_path: Path, sod: Any, start: Any, wait: Any
) -> None:
    reference, run, dice = tmp_path / "reference", tmp_path / "killed", Dice(str(tmp_path / "notes"))
    assert sod("train", dice_recipe, "--run", reference).code == 0
    rows = [row for step in range(1, 7) for row in RunLog.open(reference).trajectories(step)]
    assert len({row["prompt"][-1]["content"] for row in rows}) > 2
    assert len({turn["reply"] for row in rows for turn in row["turns"]}) > 3
    dice.notes.unlink()
    process = start("train", dice_recipe, "--run", run)
    wait(in_step(4, run, dice), process)
    process.kill()
    assert process.wait(120) == -signal.SIGKILL
    assert lines(run) == 3
    refused = sod("train", "--resume", run)
    assert refused.code == 1
    assert NEEDS_WORD in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    resumed = sod("train", "--resume", run, "--allow-code")
    assert resumed.code == 0, resumed.err
    assert steps_written(run) == [1, 2, 3, 4, 5, 6]
    assert_same_run(run, reference)
    evaluated(run, tmp_path, sod)


def evaluated(run: Path, tmp_path: Path, sod: Any) -> None:
    """`sod eval` of the run needs the same word, and says the same twice."""
    assert NEEDS_WORD in sod("eval", run).err
    results = []
    for name in ("one", "two"):
        ended = sod("eval", run, "--allow-code", "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        results.append({file.name: untimed(_rows(file)) for file in files})
    assert results[0] == results[1]
    assert len(results[0]) > 1


def _rows(file: Path) -> list[Any]:
    text = file.read_text()
    return [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [json.loads(text)]


CODE = '''\
def double(number: int) -> str:
    """
    Double a number.

    Args:
        number: Which.
    """
    return str(2 * number)


def brief(episode):
    return -0.01 * len(episode.trajectory.turns)
'''


@pytest.mark.slow
def test_code_of_each_kind_needs_the_word_to_go_on_and_to_be_evaluated(
    dice_recipe: Path, tmp_path: Path, sod: Any
) -> None:
    """With it, the step that is left is taken, and the evaluation is made."""
    (tmp_path / "mine.py").write_text(CODE)
    run, mine = tmp_path / "run", tmp_path / "mine.py"
    named = {"environment.call": DICE, "tools.double.call": f"{mine}:double", "reward.call": f"{mine}:brief"}
    own = [f"{key}={value}" for key, value in named.items()]
    less = (
        "tools.python=null",
        "train.steps=2",
        "train.checkpoint_every=1",
        "train.evaluate_every=0",
        "rollout.max_prompt_tokens=300",
    )
    assert sod("train", dice_recipe, *own, *less, "--run", run).code == 0
    shutil.rmtree(run / "checkpoints" / "step-000002")
    commands = (("train", "--resume", run), ("eval", run, "--tasks", 1))
    for command in commands:
        for key, value in named.items():
            refused = sod(*command, *(each for each in own if not each.startswith(key)))
            assert refused.code == 1
            (line,) = refused.err.strip().splitlines()
            assert f"{key}={value!r} imports and runs this code" in line.replace(f"={value} ", f"={value!r} ")
            assert "add --allow-code" in line
        assert not (run / "checkpoints" / "step-000002").exists() or command[0] == "eval"
        ended = sod(*command, "--allow-code")
        assert ended.code == 0, ended.err
        assert (run / "checkpoints" / "step-000002").exists()
    row = RunLog.open(run).metrics()[-1]
    assert {"reward/environment", "reward/brief"} <= row.keys()
