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
    tasks, (note,) = load(write(tmp_path / "a.jsonl", "5", "%", "6", {"tests": ["x"]}))
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
def test_letters_are_as_many_as_the_data_has(tmp_path: Path, verifier: dict[str, Any]) -> None:
    source = write(tmp_path / "a.jsonl", "A", "(E)", "J", "B", source="aqua")
    tasks, (note,) = load(source, **verifier)
    assert truths(tasks) == ["A", "(E)", "J", "B"]
    assert "reward.choice.letters=ABCD is widened to ABCDEFGHIJ" in note
    assert note.endswith("the first beyond ABCD is row 1, task t1")
    message = r"a\.jsonl: row 1, task t1: ground_truth E is beyond reward\.choice\.letters=ABC; set .*=ABCDEFGHIJ$"
    with pytest.raises(SodError, match=message):
        load(source, choice={"letters": "ABC"}, **verifier)
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
        ('Give the answer after "####".', {"answer": "boxed"}, True),
        ('Give the answer after "####".', {"answer": "hash"}, False),
        ("End with a line Answer: $Answer.", {"answer": "hash"}, True),
        ("End with a line Answer: $Answer, \\boxed{}.", {"answer": "boxed"}, False),
        ("End with a line Answer: $Answer.", {"answer": "regex:Answer: (.+)"}, False),
        ("What is the answer?", {"answer": "hash"}, False),
        ("End with a line Answer: X.", {"answer": "boxed", "verifier": "choice"}, True),
        ("End with Answer: X.", {"answer": "boxed", "verifier": "choice", "choice": {"answer_line": True}}, False),
    ],
)
def test_prompts_that_ask_for_another_form_are_told(
    tmp_path: Path, prompt: str, reward: dict[str, Any], told: bool
) -> None:
    truth = "A" if "verifier" in reward else "5"
    _, notes = load(write(tmp_path / "a.jsonl", truth, prompt=prompt), **reward)
    assert ["set reward.answer=auto" in note for note in notes] == [True] * told


def test_the_forms_that_are_read_are_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "5", "6", prompt='Put it after "####".')
    write(Path(source), "7", prompt="The last line is Answer: $Answer.")
    write(Path(source), "8", prompt="What is it?")
    _, (note,) = load(source)
    assert "(reward.answer=auto): behind '####' for 2, behind 'Answer:' for 1, in \\boxed{} for 1 of 4 tasks" in note


def test_a_solution_in_the_answer_column_of_gsm8k_is_cut(tmp_path: Path) -> None:
    solution = "She sold 4*2=<<4*2=8>>8 and 10, so 8+10=<<8+10=18>>18.\n#### 18"
    tasks, notes = load(write(tmp_path / "a.jsonl", solution, prompt='Put it after "####".'))
    assert truths(tasks) == ["18"]
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("row", "reward", "truth", "others"),
    [
        ({"source": "set"}, {}, "3", ("5",)),
        ({"source": "set"}, {"truths": "all"}, "3, 5", ()),
        ({"source": "Hothan/OlympiadBench"}, {}, "3, 5", ()),
        ({"source": "olympiadbench"}, {"truths": "any"}, "3", ("5",)),
        ({"source": "olympiadbench", "flag": False}, {}, "3", ("5",)),
        ({"source": "set", "flag": True}, {}, "3, 5", ()),
    ],
)
def test_lists_are_alternatives_or_meant_together(
    tmp_path: Path, row: dict[str, Any], reward: dict[str, Any], truth: str, others: tuple[str, ...]
) -> None:
    extra = {} if row.get("flag") is None else {"is_multiple_answer": row["flag"]}
    line = {
        "data_source": row["source"],
        "prompt": PLAIN,
        "extra_info": extra,
        "reward_model": {"ground_truth": ["3", "5"]},
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    (task,), notes = load(str(tmp_path / "a.jsonl"), **reward)
    assert (task.ground_truth, task.truths) == (truth, others)
    assert ["meant together (reward.truths)" in note for note in notes] == [True] * (not others)


def test_a_part_of_a_list_that_cannot_be_matched_spoils_the_whole(tmp_path: Path) -> None:
    """Of alternatives it is left out, and told."""
    source = write(tmp_path / "a.jsonl", ["3", "%"], "4")
    tasks, (note,) = load(source, truths="all")
    assert truths(tasks) == ["4"]
    assert "row 0: task t0" in note


@pytest.mark.parametrize(
    ("truth", "letter"),
    [("E", "E"), ("(C)", "(C)"), ("B) 12", "B) 12"), ("option D", "option D"), ("18", "C"), (" 4 ", "A"), ("19", None)],
)
def test_what_a_choice_may_be_called(tmp_path: Path, truth: str, letter: str | None) -> None:
    """By its letter, its label or its text; another text is skipped by row."""
    rows = [
        {"prompt": "?", "reward_model": {"ground_truth": text}, "extra_info": {"options": ["4", "12", "18", "x", "y"]}}
        for text in ("A", truth)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks, notes = load(str(tmp_path / "a.jsonl"), verifier="choice")
    assert truths(tasks) == ["A", *([letter] if letter else [])]
    assert any("row 1" in note and "none of the row's choices" in note for note in notes) == (letter is None)
    for task in tasks:
        assert ChoiceVerifier("ABCDE").letter(task.ground_truth)


def test_rows_of_choices_are_judged_as_such(tmp_path: Path) -> None:
    """Whatever judges other rows: math would find `(B)` wrong. By data_source it can be said otherwise."""
    rows = [{"question": f"{n}+2?", "choices": ["3", "4", "5", "6", "7"], "answer": 4 - n} for n in (0, 1)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = str(tmp_path / "a.jsonl")
    tasks, (judged, widened) = load(source)
    assert [(task.ground_truth, task.verifier) for task in tasks] == [("E", "choice"), ("D", "choice")]
    assert "2 of 2 rows are multiple choice, which the choice verifier judges" in judged
    assert "widened to ABCDE" in widened
    with pytest.raises(SodError, match=r"row 0, task a-0: multiple choice, of which reward\.answer=last_number finds"):
        load(source, answer="last_number")
    _, notes = load(source, by_source={"unknown": "math"}, answer="last_number")
    assert notes == []


def test_indices_go_by_the_choices_of_the_row(tmp_path: Path) -> None:
    """MMLU-Pro has ten, whatever the usual letters are."""
    rows = [
        {"prompt": "?", "reward_model": {"ground_truth": n}, "extra_info": {"choices": ["text"] * 10}} for n in (9, 0)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks, (widened, read) = load(str(tmp_path / "a.jsonl"), verifier="choice")
    assert truths(tasks) == ["J", "A"]
    assert "widened to ABCDEFGHIJ" in widened
    assert "at its index into reward.choice.letters=ABCDEFGHIJ" in read
