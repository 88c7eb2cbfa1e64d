"""The examples that show how to bring one's own tools and environments run as they stand, at a small size."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT
from sod.runlog import RunLog


def run(program: str, cwd: Path, *arguments: str) -> str:
    """What a program of the example prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "SOD_ALLOCATOR": "off"}
    command = [sys.executable, *program.split(), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
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


@pytest.mark.slow
def test_the_commands_ask_for_what_was_passed_in(boxes: Path) -> None:
    """`sod` cannot know the functions: it says what to call instead."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "SOD_ALLOCATOR": "off"}
    command = [sys.executable, "-m", "sod", "eval", "runs/start", "--data", "data/test.jsonl"]
    done = subprocess.run(command, cwd=boxes, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "tools.sql.call: passed in from Python, and in no file; pass it again: sod.evaluate(" in done.stderr
    assert "tools=[sql]" in done.stderr


@pytest.mark.slow
def test_the_same_by_import_path_needs_no_python(boxes: Path) -> None:
    """The comment at the head of the recipe, as a command."""
    own = ["tools.sql.call=./boxes.py:sql", "reward.call=./boxes.py:score", "train.steps=1"]
    run("-m sod train recipe.yaml --run runs/by-path", boxes, *own)
    assert len(RunLog.open(boxes / "runs" / "by-path").metrics()) == 1


def test_the_file_that_trains_is_short() -> None:
    """Without its docstring."""
    text = (ROOT / "examples" / "own-tool" / "boxes.py").read_text(encoding="utf-8")
    lines = [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]
    assert len(lines) <= 25
