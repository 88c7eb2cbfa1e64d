"""Rows with tests go to the code verifier without a key of the recipe, and that is told."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.build.data import loaded_tasks
from sod.build.tools import make_reward_function
from sod.recipe import Recipe
from sod.records import SodError, Task
from support import answered

MBPP = {"text": "Double.", "test_list": ["assert twice(3) == 6"]}
MATH = {"data_source": "gsm8k", "prompt": "3 + 4?", "reward_model": {"ground_truth": "7"}}
CASES = [{"input": "3", "output": "6"}, {"input": "5", "output": "10"}]


def verl(truth: Any, source: str = "code") -> dict[str, Any]:
    return {"data_source": source, "prompt": "Double.", "reward_model": {"ground_truth": truth}}


def recipe(**reward: Any) -> Recipe:
    tools = {"python": {"workers": 1, "preload": []}}
    return Recipe.model_validate({"student": {"path": "s"}, "tools": tools, "reward": reward})


def load(path: Path, *rows: dict[str, Any], **reward: Any) -> tuple[list[Task], list[str]]:
    """The tasks of a file, and what was told."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    return loaded_tasks(str(path), "data.train", recipe(**reward), notes.append), notes


@pytest.mark.parametrize(
    "truth",
    [
        json.dumps(CASES),
        CASES,
        json.dumps({"inputs": ["3"], "outputs": ["6"]}),
        json.dumps({"input_output": json.dumps({"inputs": ["3"], "outputs": ["6"]})}),
        json.dumps({"public_test_cases": CASES}),
        json.dumps({"test": "def check(candidate):\n    assert candidate(3) == 6", "entry_point": "twice"}),
        json.dumps({"test_list": ["assert twice(3) == 6"]}),
        json.dumps({"functional": "assert twice(3) == 6"}),
        json.dumps(["assert twice(3) == 6", "assert twice(5) == 10"]),
        ["assert twice(3) == 6", "assert twice(5) == 10"],
        [json.dumps(case) for case in CASES],
        "assert twice(3) == 6\nassert twice(5) == 10\n",
        "def check(candidate):\n    assert candidate(3) == 6\n\ncheck(twice)",
    ],
)
def test_a_truth_that_is_tests_is_for_the_code_verifier(tmp_path: Path, truth: Any) -> None:
    (task, other), (note,) = load(tmp_path / "a.jsonl", verl(truth), MATH)
    assert (task.verifier, other.verifier) == ("code", None)
    assert note == (
        f"{tmp_path / 'a.jsonl'}: 1 of 2 rows have tests, which the code verifier runs; "
        "reward.verifier=math judges the other 1"
    )


@pytest.mark.parametrize(
    "truth", ["7", "[1, 2]", '["3", "5"]', '{"3", "5"}', "x > 0", ["3", "5"], "I assert that x = 5"]
)
def test_other_truths_are_not(tmp_path: Path, truth: Any) -> None:
    (task,), notes = load(tmp_path / "a.jsonl", verl(truth))
    assert task.verifier is None
    assert not any("have tests" in note for note in notes)


def test_the_recipe_may_say_so_too(tmp_path: Path) -> None:
    assert load(tmp_path / "a.jsonl", MBPP, verifier="code")[1] == []
    assert load(tmp_path / "a.jsonl", MBPP, by_source={"mbpp": "code"})[1][0].endswith("which the code verifier runs")


@pytest.mark.parametrize("row", [MBPP, verl(CASES, "mbpp")])
def test_a_verifier_that_runs_no_tests_is_refused_for_them(tmp_path: Path, row: dict[str, Any]) -> None:
    message = (
        r"a\.jsonl: row 0, task a-0: its tests are for the code verifier, and reward\.by_source\.mbpp=math "
        "does not run them; set it to code, or leave it out"
    )
    with pytest.raises(SodError, match=message):
        load(tmp_path / "a.jsonl", row, by_source={"mbpp": "math"})


def test_tests_that_cannot_be_read_are_skipped_by_number(tmp_path: Path) -> None:
    bad = verl(json.dumps({"inputs": ["1"], "outputs": []}))
    nameless = verl(json.dumps([{"input": "1", "output": "1", "testtype": "functional"}]))
    tasks, notes = load(tmp_path / "a.jsonl", MBPP, bad, MBPP, nameless)
    assert [task.id for task in tasks] == ["a-0", "a-2"]
    assert "row 1: task a-1: its tests cannot be read: inputs and outputs must be lists of equal length" in notes[-1]
    assert "row 3: task a-3: its tests cannot be read: the tests call a function that nothing names" in notes[-1]
    with pytest.raises(SodError, match="no usable row, 1 skipped: row 0: task a-0: its tests cannot be read"):
        load(tmp_path / "a.jsonl", bad)
    with pytest.raises(SodError, match=r"row 0: task a-0: its tests cannot be read: no tests among x"):
        load(tmp_path / "a.jsonl", verl({"x": 1}), verifier="code")


def test_programs_are_run_and_the_other_answers_compared(tmp_path: Path) -> None:
    tasks, _ = load(tmp_path / "a.jsonl", MBPP, MATH)
    said = ("```python\ndef twice(n): return 2 * n\n```", "\\boxed{7}")
    with ExitStack() as opened:
        try:
            reward = make_reward_function(recipe(), opened, tasks)
        except SodError as error:
            pytest.skip(f"no isolation here: {error}")
        rewarded = reward([replace(answered(text), task=task) for task in tasks for text in said])
    assert [one.correct for one in rewarded] == [True, False, False, True]
