"""Programming tasks whose tests cannot be relied on are left out before anything is loaded, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.build.data import loaded_tasks
from sod.build.proving import FILE, Proof, proven_tasks
from sod.recipe import Recipe
from sod.records import SodError, Task

CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
SOUND = {"prompt": "def f(x):\n", "entry_point": "f", "test": CHECK, "canonical_solution": "    return x + 1\n"}
UNITTEST = (
    "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n"
)
BIGCODEBENCH = {**SOUND, "test": UNITTEST}
MODULE = {**SOUND, "test": "import no_such_module\n" + CHECK}
NO_CHECK = {**SOUND, "test": "def checks(candidate):\n    pass\n"}
WRONG = {**SOUND, "canonical_solution": "    return x\n"}


def recipe(**reward: Any) -> Recipe:
    tools = {"python": {"workers": 1, "preload": []}}
    return Recipe.model_validate({"student": {"path": "s"}, "tools": tools, "reward": {"verifier": "code", **reward}})


def tasks(*rows: dict[str, Any]) -> list[Task]:
    return [Task(f"t{at}", (), "", extra=row) for at, row in enumerate(rows)]


def written(path: Path, *rows: dict[str, Any]) -> str:
    """A file of such tasks."""
    lines = [
        {"prompt": "Write f.", "reward_model": {"ground_truth": json.dumps(row)}, "extra_info": {"id": f"t{at}"}}
        for at, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_tests_that_cannot_be_read_are_skipped_and_named(tmp_path: Path) -> None:
    source = written(tmp_path / "tasks.jsonl", SOUND, {"inputs": ["1"], "outputs": []}, BIGCODEBENCH)
    notes: list[str] = []
    assert [task.id for task in loaded_tasks(source, "data.train", recipe(), notes.append)] == ["t0", "t2"]
    assert notes == [
        f"{source}: 2 rows, 1 skipped: row 1: task t1: its tests cannot be read: inputs and outputs must be lists of "
        "equal length"
    ]
    with pytest.raises(
        SodError, match="no usable row, 1 skipped: row 0: task t0: its tests cannot be read: no tests among id, x"
    ):
        loaded_tasks(written(tmp_path / "none.jsonl", {"x": 1}), "data.train", recipe(), notes.append)


@pytest.mark.slow
def test_tests_at_fault_are_left_out_and_named() -> None:
    notes: list[str] = []
    rows = tasks(SOUND, MODULE, BIGCODEBENCH, NO_CHECK, WRONG)
    kept, left_out = proven_tasks(rows, "tasks.jsonl", recipe(), notes.append)
    assert [task.id for task in kept] == ["t0", "t2"]
    assert list(left_out) == ["t1", "t3", "t4"]
    (note,) = notes
    for part in (
        "tasks.jsonl: 3 of 5 tasks have tests or reference solutions at fault: t1: ModuleNotFoundError: No module",
        "t3: NoTestsError: the tests define no check(candidate)",
        "t4: its reference solution fails: assert candidate(1) == 2",
        "; left out; install no_such_module where the sandbox runs and add it to tools.python.preload",
    ):
        assert part in note
    with pytest.raises(SodError, match=r"2 of 2 .* none is left; install no_such_module .* tools\.python\.preload"):
        proven_tasks(tasks(MODULE, MODULE), "tasks.jsonl", recipe(), notes.append)


def test_nothing_runs_where_there_is_nothing_to_check() -> None:
    rows = tasks(MODULE)
    for spec in (recipe(code_check=False), recipe(verifier="math")):
        assert proven_tasks(rows, "tasks.jsonl", spec, pytest.fail) == (rows, {})


def test_a_resumed_run_leaves_out_what_it_did_before(tmp_path: Path) -> None:
    """Without running any tests again: a busy machine must not change which tasks a step draws."""
    rows, notes = tasks(SOUND, SOUND, SOUND), []
    new = Proof(tmp_path, resumed=False)
    new.found["data.train"] = {"t1": "its reference solution fails"}
    new.make(lambda: None)
    assert json.loads((tmp_path / FILE).read_text()) == {"data.train": {"t1": "its reference solution fails"}}
    resumed = Proof(tmp_path, resumed=True)
    kept = resumed.tasks(rows, "data.train", "tasks.jsonl", recipe(), notes.append)
    assert [task.id for task in kept] == ["t0", "t2"]
    assert len(notes) == 1
    assert resumed.tasks(rows, "data.validation", "tasks.jsonl", recipe(), pytest.fail) == rows
