"""Truths that no answer can match are found as the data is loaded, by row and task, with what mends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.build.data import loaded_tasks
from sod.recipe import Recipe
from sod.records import SodError, Task
from sod.rewards.choice import ChoiceVerifier

PLAIN = "What is it? Answer in \\boxed{}."


def write(path: Path, *truths: Any, prompt: str = PLAIN, source: str = "x") -> str:
    rows = [
        {"id": f"t{n}", "data_source": source, "prompt": prompt, "reward_model": {"ground_truth": truth}}
        for n, truth in enumerate(truths)
    ]
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def load(source: str, **reward: Any) -> tuple[list[Task], list[str]]:
    """The tasks of a file and what was told about it."""
    recipe = Recipe.model_validate({"student": {"path": "nowhere"}, "data": {"train": source}, "reward": reward})
    notes: list[str] = []
    return loaded_tasks(source, "data.train", recipe, notes.append), notes


def truths(tasks: list[Task]) -> list[str]:
    return [task.ground_truth for task in tasks]


def test_good_truths_stay_and_nothing_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "5", "x+1", "[1, 2]", r"\text{Yes}", 3)
    tasks, notes = load(source)
    assert (truths(tasks), notes) == (["5", "x+1", "[1, 2]", r"\text{Yes}", "3"], [])


def test_a_solution_gives_its_answer_and_that_is_told(tmp_path: Path) -> None:
    tasks, (note,) = load(write(tmp_path / "a.jsonl", "5", "two and two\n#### 4", "#### 1,234"))
    assert truths(tasks) == ["5", "4", "1,234"]
    assert note.endswith("a.jsonl: the truth is what stands behind '####': 2 of 3 rows, the first is row 1, task t1")


def test_a_row_that_no_answer_can_match_is_skipped_by_number(tmp_path: Path) -> None:
    tasks, (note,) = load(write(tmp_path / "a.jsonl", "5", "%", "6", {"target": ["x"]}))
    assert [task.id for task in tasks] == ["t0", "t2"]
    assert '2 rows, 2 skipped: row 1: task t1: its ground_truth "%"' in note
    assert "row 3: task t3: its ground_truth is a JSON object" in note


def test_a_file_without_a_truth_that_can_be_matched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"a\.jsonl: no usable row, 2 skipped: row 0: task t0: .*; row 1: task t1"):
        load(write(tmp_path / "a.jsonl", "%", "####"))


def test_lists_are_accepted_answers(tmp_path: Path) -> None:
    (one, two), (unwrapped, note) = load(write(tmp_path / "a.jsonl", ["3", "#### 5", "5"], ["7", "%"]))
    assert (one.ground_truth, one.truths) == ("3", ("5",))
    assert (two.ground_truth, two.truths) == ("7", ())
    assert "behind '####'" in unwrapped
    assert 'one of several truths is left out, it "%" cannot stand in' in note


@pytest.mark.parametrize("verifier", [{"verifier": "choice"}, {"by_source": {"aqua": "choice"}}])
def test_a_letter_beyond_the_choices_is_refused_with_the_key(tmp_path: Path, verifier: dict[str, Any]) -> None:
    source = write(tmp_path / "a.jsonl", "A", "(E)", "J", "B", source="aqua")
    message = r"a\.jsonl: row 1, task t1: ground_truth E is beyond reward\.choice\.letters=ABCD; set .*=ABCDEFGHIJ$"
    with pytest.raises(SodError, match=message):
        load(source, **verifier)
    tasks, notes = load(source, choice={"letters": "ABCDEFGHIJ"}, **verifier)
    assert (truths(tasks), notes) == (["A", "(E)", "J", "B"], [])


def test_indices_are_letters_where_all_of_a_source_are(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", 0, 3, "1", 2.0, source="mmlu")
    write(Path(source), "B", "1", source="gpqa")
    tasks, (told, skipped) = load(source, verifier="choice")
    assert truths(tasks) == ["A", "D", "B", "C", "B"]
    assert all(ChoiceVerifier().letter(truth) for truth in truths(tasks))
    assert "at its index into reward.choice.letters=ABCD, from 0: 4 of 6 rows, the first is row 0, task t0" in told
    assert "row 5: task t1-5: its ground_truth '1' is no letter of ABCD" in skipped


def test_indices_beyond_the_choices_and_from_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"row 2, task t2: ground_truth 4 is no index .*reward\.choice\.letters=ABCDE"):
        load(write(tmp_path / "a.jsonl", 1, 2, 4), verifier="choice")
    with pytest.raises(SodError, match="count from 1"):
        load(write(tmp_path / "b.jsonl", *[1, 2, 3] * 20), verifier="choice")


def test_what_is_no_letter_is_skipped(tmp_path: Path) -> None:
    tasks, (boxed, note) = load(write(tmp_path / "a.jsonl", r"\boxed{C}", "Paris"), verifier="choice")
    assert truths(tasks) == ["C"]
    assert "in a box: 1 of 2 rows" in boxed
    assert "row 1: task t1: its ground_truth 'Paris' is no letter of ABCD" in note


@pytest.mark.parametrize("letters", ["", "A", "AAB", "abcd", "AB1", "A B"])
def test_letters_are_different_capitals(letters: str) -> None:
    with pytest.raises(ValueError, match="two or more different letters"):
        Recipe.model_validate({"student": {"path": "x"}, "reward": {"choice": {"letters": letters}}})


@pytest.mark.parametrize(
    ("prompt", "reward", "told"),
    [
        ('Give the answer after "####".', {}, True),
        ("End with a line Answer: $Answer.", {}, True),
        ("End with a line Answer: $Answer, boxed.", {}, False),
        ("What is the answer?", {}, False),
        ("End with a line Answer: X.", {"verifier": "choice"}, True),
        ("End with a line Answer: X.", {"verifier": "choice", "choice": {"answer_line": True}}, False),
    ],
)
def test_prompts_that_ask_for_another_form_are_told(
    tmp_path: Path, prompt: str, reward: dict[str, Any], told: bool
) -> None:
    truth = "A" if reward else "5"
    _, notes = load(write(tmp_path / "a.jsonl", truth, prompt=prompt), **reward)
    assert ["the verifier reads \\boxed{} only" in note for note in notes] == [True] * told
