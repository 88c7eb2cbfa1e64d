"""Recorded outputs: where harnesses have their texts, which problem a row is about, what is refused by file and row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.recorded.letters import with_right
from sod.evaluation.recorded.reading import Recorded, read_recorded
from sod.records import SodError

MATH = [
    Problem("test/algebra/1.json", "math500", "math", "How many sheep stand on\nthe first hill?", "204"),
    Problem("test/algebra/2.json", "math500", "math", "How many goats stand on the second hill?", "70"),
]
CODE = [
    Problem(f"HumanEval/{n}", "humaneval", "code", f"def count_{n}(sheep):\n    '''How many?'''\n", "")
    for n in range(2)
]
CHOICE = [Problem("rec7", "gpqa_diamond", "choice", "Which of them is blue?", "sky", ("sky", "grass", "snow"))]
IDS = [problem.id for problem in MATH]


def read(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    problems: Sequence[Problem] = MATH,
    column: str | None = None,
    notices: list[str] | None = None,
) -> Recorded:
    path = folder / "outputs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read_recorded(str(path), problems, ([] if notices is None else notices).append, column)


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"completion": "a"}, ["a"]),
        ({"generation": ["a", "b"]}, ["a", "b"]),
        ({"resps": [["a", "b"]], "filtered_resps": ["x"]}, ["a", "b"]),
        ({"code": ["a"], "pred": ["x"], "score": [True]}, ["a"]),
        ({"responses": [{"text": "a", "logprob": 0.1}, {"text": "b"}]}, ["a", "b"]),
        ({"output": {"message": {"role": "assistant", "content": "a"}}}, ["a"]),
        ({"output": "", "response": "a"}, ["a"]),
        ({"Model Output": "a"}, ["a"]),
        ({"turns": [{"said": {"answer": "no"}}, {"said": {"thinking": "t", "answer": "a"}}]}, ["a"]),
    ],
    ids=lambda value: "+".join(value),
)
def test_where_the_texts_are(columns: Mapping[str, Any], texts: Sequence[str], tmp_path: Path) -> None:
    recorded = read([{"unique_id": IDS[0], **columns}], tmp_path)
    assert recorded.outputs == {IDS[0]: texts}


def test_a_column_that_is_named(tmp_path: Path) -> None:
    recorded = read([{"unique_id": IDS[0], "output": "truth", "said": "a"}], tmp_path, column="said")
    assert (recorded.outputs, recorded.columns) == ({IDS[0]: ["a"]}, ("said",))


def test_a_solution_is_an_output_of_programs_alone(tmp_path: Path) -> None:
    """Of other sets it is the published one."""
    assert read([{"task_id": "HumanEval/0", "solution": "s"}], tmp_path, CODE).columns == ("solution",)
    with pytest.raises(SodError, match=r"row 0: no column of outputs, .*\(columns found: unique_id, solution\)"):
        read([{"unique_id": IDS[0], "solution": "s"}], tmp_path)


@pytest.mark.parametrize(
    ("row", "told_by"),
    [
        ({"unique_id": IDS[1]}, "unique_id"),
        ({"task_id": IDS[1], "problem": "reworded"}, "task_id"),
        ({"question": "How many goats  stand on the second hill?\n", "idx": 0}, "question"),
        ({"prompt": "<|user|>Solve: How many goats stand on the second hill? Box it.<|end|>"}, "prompt"),
        ({"doc_id": 7, "doc": {"problem": "How many goats stand on the second hill?"}}, "problem"),
        ({"idx": 1}, "idx"),
        ({"id": IDS[1]}, "id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_which_problem_a_row_is_about(row: Mapping[str, Any], told_by: str, tmp_path: Path) -> None:
    recorded = read([{**row, "output": "a"}], tmp_path)
    assert (list(recorded.outputs), dict(recorded.matched)) == ([IDS[1]], {told_by: 1})


def test_several_samples_in_rows_and_in_lists(tmp_path: Path) -> None:
    rows = [
        {"unique_id": IDS[0], "output": ["a", "b"]},
        {"unique_id": IDS[1], "output": "d"},
        {"unique_id": IDS[0], "output": "c"},
    ]
    recorded = read(rows, tmp_path)
    assert recorded.outputs == {IDS[0]: ["a", "b", "c"], IDS[1]: ["d"]}
    about = recorded.about()
    assert (about["rows"], about["outputs"], about["outputs_per_problem"]) == (3, 4, [1, 3])
    assert list(about["sha256"]) == ["outputs.jsonl"]


def test_parquet_and_a_folder_of_parts(tmp_path: Path) -> None:
    for name, problem in zip(("part-0", "part-1"), MATH, strict=True):
        table = pa.table({"problem": [problem.question], "generations": [[name, "b"]]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    recorded = read_recorded(str(tmp_path), MATH, print)
    assert recorded.outputs == {IDS[0]: ["part-0", "b"], IDS[1]: ["part-1", "b"]}


def test_rows_of_one_filter_of_lm_eval(tmp_path: Path) -> None:
    """It writes an output once for each filter: read as two samples, k would be twice what was asked."""
    notices: list[str] = []
    rows = [
        {"doc_id": n, "doc": {"problem": problem.question}, "resps": [["a"]], "filter": name}
        for name in ("strict-match", "flexible-extract")
        for n, problem in enumerate(MATH)
    ]
    recorded = read(rows, tmp_path, notices=notices)
    assert recorded.outputs == {IDS[0]: ["a"], IDS[1]: ["a"]}
    assert "strict-match, flexible-extract; the rows of strict-match are read" in notices[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"unique_id": "test/algebra/9.json"}], "row 1: it is about no problem of math500: unique_id is 'test/alg"),
        ([{"idx": 5}], "row 1: it is about no problem of math500: idx is 5"),
        ([{"idx": 0, "question": "How many cows?"}], "row 1: .*idx is 0; question holds none of its questions"),
        ([{"idx": True}], "row 1: .*idx is True"),
        ([{"name": "x"}], r"row 1: nothing says which problem .*\(columns found: output, name\)"),
        ([{"unique_id": IDS[1], "output": None}], "row 1: output is null: .*give '' for an empty one"),
        ([{"unique_id": IDS[1], "output": 204}], "row 1: output is no text but int"),
        ([{"unique_id": IDS[1], "output": []}], "row 1: output is an empty list"),
        (["a line"], "1 skipped: row 1: line 2 is not a JSON object; a figure is of every output"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_refused(rows: Sequence[Any], message: str, tmp_path: Path) -> None:
    good = {"unique_id": IDS[0], "output": "a"}
    with pytest.raises(SodError, match=rf"outputs\.jsonl: {message}"):
        read([good, *({"output": "b", **row} if isinstance(row, dict) else row for row in rows)], tmp_path)


def test_a_row_without_the_column_of_the_others(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"outputs\.jsonl: row 1: no column 'output' \(columns found: unique_id, text\)"):
        read([{"unique_id": IDS[0], "output": "a"}, {"unique_id": IDS[1], "text": "b"}], tmp_path)


@pytest.mark.parametrize("said", [{"target": "(C)"}, {"doc": {"answer": "C"}}, {"truths": ["C"]}], ids=str)
def test_the_letter_that_was_right_when_it_was_asked(said: Mapping[str, Any], tmp_path: Path) -> None:
    recorded = read([{"id": "rec7", "output": "It is C", **said}], tmp_path, CHOICE)
    assert recorded.letters == {"rec7": "C"}
    placed = with_right(CHOICE[0], "C")
    assert (placed.choices, placed.letter) == (("grass", "snow", "sky"), "C")


def test_letters_that_cannot_be_told(tmp_path: Path) -> None:
    """An order of options of our own would make right answers wrong, silently."""
    with pytest.raises(SodError, match="row 0: no column says which letter was right"):
        read([{"id": "rec7", "output": "It is C"}], tmp_path, CHOICE)
    rows = [{"id": "rec7", "output": "It is C", "target": letter} for letter in "CA"]
    with pytest.raises(SodError, match="row 1: the right letter of rec7 is A here and C in an earlier row"):
        read(rows, tmp_path, CHOICE)
