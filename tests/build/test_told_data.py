"""What a run says of its data before it starts: what was not used, what was added, which file a row is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.build.data import loaded_tasks
from sod.build.evaluated import Evaluated
from sod.recipe import EvaluationSpec, Recipe, parse_recipe
from sod.records import SodError, Task

ASKED = {"prompt": "2+2? Answer in \\boxed{}.", "answer": "4"}


def load(folder: Path, rows: list[list[Any]], **data: Any) -> tuple[list[Task], list[str]]:
    """The tasks of a list of files, `0.jsonl` and so on, and what is told of them."""
    names = [str(folder / f"{number}.jsonl") for number in range(len(rows))]
    for name, content in zip(names, rows, strict=True):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in content))
    recipe = Recipe.model_validate({"student": {"path": "nowhere"}, "data": {"train": names, **data}})
    notes: list[str] = []
    tasks = loaded_tasks(recipe.data.train, "data.train", recipe, notes.append)
    return tasks, [note.replace(f"{folder}/", "") for note in notes]


def test_unused_fields_and_additions_are_told_once(tmp_path: Path) -> None:
    rows = [{**ASKED, "rank": 1, "solution": "Add."}, {**ASKED, "rank": 2, "kind": "sum"}, ASKED]
    tasks, notes = load(tmp_path, [rows], system="Be brief.", suffix="!")
    assert [message.content for message in tasks[0].prompt] == ["Be brief.", f"{ASKED['prompt']}!"]
    assert notes == [
        "0.jsonl: the truth is answer, not solution: 1 of 3 rows",
        "0.jsonl: data.suffix is appended: 3 of 3 rows",
        "0.jsonl: data.system is put in front: 3 of 3 rows",
        "0.jsonl: nothing is made of these fields: rank (2 rows), kind (1 row); data.columns can say what they are",
    ]


def test_rows_of_several_files_are_named_with_their_file(tmp_path: Path) -> None:
    """Those that the loader skips, and those that only a verifier finds wrong."""
    tasks, notes = load(tmp_path, [[ASKED, {"prompt": "?"}], [{**ASKED, "answer": "%"}, ASKED]])
    assert [task.id for task in tasks] == ["0-0", "1-1"]
    (note,) = notes
    assert note.startswith(
        "0.jsonl, 1.jsonl: 2 rows, 2 skipped: row 1 of 0.jsonl: no ground truth; row 0 of 1.jsonl: task 1-0: "
    )


@pytest.mark.parametrize("named", [3, [], {"path": "a/b"}, ["a", ""], " "])
def test_what_cannot_name_data_is_refused_with_what_can(named: Any) -> None:
    with pytest.raises(SodError, match=r"^r\.yaml: data\.train=.*: name a file, .* owner/name:config@split, or a list"):
        parse_recipe({"student": {"path": "x"}, "data": {"train": named}}, "r.yaml")


def test_an_unknown_part_of_a_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(SodError, match=r"data\.columns\.promt: no part .*; did you mean prompt\?; there are prompt, "):
        parse_recipe({"student": {"path": "x"}, "data": {"columns": {"promt": "q"}}}, "r.yaml")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("data/test.parquet", "test-all-k4"),
        ("openai/gsm8k:main@test", "gsm8k-main-test-all-k4"),
        ("data/*.parquet", "data-all-k4"),
        ("data/[ab]-v1.1.jsonl", "ab-v1.1-all-k4"),
    ],
)
def test_the_directory_of_an_evaluation_has_a_plain_name(data: str, name: str, tmp_path: Path) -> None:
    place = Evaluated("model", tmp_path).place(data, EvaluationSpec(k=4, tasks=0))
    assert place == tmp_path / "evaluations" / name
