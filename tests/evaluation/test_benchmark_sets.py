"""Benchmarks are read from the shapes in which they are published and mirrored, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import benchmark_rows as rows
import pytest
from benchmark_rows import Row, write_rows

from sod.build.tools import make_local_sandbox
from sod.evaluation.benchmarks.catalogue import BENCHMARKS, benchmarks_named
from sod.evaluation.benchmarks.loading import ProblemSet, load_problems
from sod.evaluation.benchmarks.problem import Problem
from sod.recipe import PythonSpec
from sod.records import SodError, Task, Verdict
from sod.rewards.code import CodeVerifier
from sod.rewards.code_suites import read_suite
from sod.tools.sandbox.base import ProgramLimits

SHARED = Path(os.environ.get("SOD_PUBLISHED_DATA", "published-data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="SOD_PUBLISHED_DATA names no folder of published files")


def read(benchmark: str, folder: Path, notices: list[str] | None = None) -> ProblemSet:
    heard = [] if notices is None else notices
    return load_problems(BENCHMARKS[benchmark], folder, heard.append)


def only(benchmark: str, folder: Path, name: str, row: Row) -> Problem:
    write_rows(folder / name, [row])
    (problem,) = read(benchmark, folder).problems
    return problem


@pytest.mark.parametrize(
    ("benchmark", "name", "row", "expected"),
    [
        ("aime24", "aime_2024_problems.parquet", rows.MAXWELL_JIA, ("2024-II-4", "How many sheep?", "204", None)),
        ("aime24", "aime_2024/train-00000-of-00001.parquet", rows.H4_AIME, ("60", "How many sheep?", "204", None)),
        ("aime24", "aime2024/test.jsonl", rows.RETOOL, ("aime24-0", "How many sheep?", "204", None)),
        ("aime25", "aime25.jsonl", rows.MATH_AI, ("0", "How many goats?", "070", None)),
        ("aime25", "aime_2025/train.parquet", rows.YENTINGLIN, ("0", "How many goats?", "070", None)),
        ("aime25", "aime2025-I.jsonl", rows.OPENCOMPASS, ("aime25-0", "How many goats?", "070", None)),
        ("math500", "MATH-500/test.jsonl", rows.MATH_500, ("test/algebra/1.json", "Halve $x$.", r"\frac{x}{2}", "2")),
        ("math500", "math500.jsonl", {**rows.MATH_500, "level": "Level 5"}, (None, None, r"\frac{x}{2}", "5")),
        ("gsm8k", "gsm8k/main/test-00000-of-00001.parquet", rows.GSM8K, (None, rows.GSM8K["question"], "1,005", None)),
        (
            "gpqa_diamond",
            "gpqa_diamond.csv",
            rows.GPQA,
            ("rec7", None, "the sky", "Easy undergraduate level"),
        ),
        ("gpqa_diamond", "gpqa-diamond/test.jsonl", rows.GPQA_LISTED, (None, "Which is blue?", "the sky", None)),
        ("livecodebench_v6", "livecodebench/test6.jsonl", rows.LIVECODEBENCH, ("abc001_a", None, "", "easy")),
        ("humaneval", "HumanEval.jsonl.gz", rows.HUMANEVAL, ("HumanEval/0", rows.HUMANEVAL["prompt"], None, None)),
        ("mbpp", "mbpp.jsonl", rows.MBPP, ("11", rows.MBPP["text"], rows.MBPP["code"], None)),
        ("mbpp", "sanitized-mbpp.jsonl", rows.MBPP_SANITIZED, ("12", rows.MBPP["text"], rows.MBPP["code"], None)),
        ("mbpp", "MbppPlus.jsonl", rows.MBPP_PLUS, ("Mbpp/2", rows.MBPP["text"], rows.MBPP["code"], None)),
    ],
)
def test_published_rows_and_mirrors_are_read(
    benchmark: str, name: str, row: Row, expected: tuple[str | None, ...], tmp_path: Path
) -> None:
    """Each shape gives the same problem: its id, question, answer and difficulty (None here: not looked at)."""
    problem = only(benchmark, tmp_path, name, row)
    found = (problem.id, problem.question, problem.answer, problem.difficulty)
    looked_at = [(one, wanted) for one, wanted in zip(found[:3], expected, strict=False) if wanted is not None]
    assert all(one == wanted for one, wanted in looked_at), found
    assert problem.difficulty == expected[3]
    assert problem.benchmark == benchmark


def test_options_stand_in_the_sets_order_with_the_right_one_known(tmp_path: Path) -> None:
    apart = only("gpqa_diamond", tmp_path / "a", "gpqa_diamond.csv", rows.GPQA)
    listed = only("gpqa_diamond", tmp_path / "b", "gpqa_diamond.jsonl", rows.GPQA_LISTED)
    assert apart.choices == ("the sky", "grass", "snow", "coal")
    assert apart.letter == "A"
    assert listed.choices == ("grass", "the sky", "snow", "coal")
    assert listed.letter == "B"


def test_mbpp_is_its_test_split(tmp_path: Path) -> None:
    whole = [{**rows.MBPP, "task_id": number} for number in (1, 10, 11, 510, 511, 974)]
    write_rows(tmp_path / "mbpp.jsonl", whole)
    assert [problem.id for problem in read("mbpp", tmp_path).problems] == ["11", "510"]


@pytest.mark.slow
def test_tests_of_programs_are_those_of_the_rows(tmp_path: Path) -> None:
    """Each code benchmark's problem, judged in the sandbox: a right program passes, one that fails a hidden test
    does not (LiveCodeBench's only in its pickle, MBPP+'s only in `test`)."""
    right = "def twice(n):\n    return 2 * n\n"
    wrong = "def twice(n):\n    return n + 2\n"  # right for 2 alone
    problems = [
        only("humaneval", tmp_path / "h", "HumanEval.jsonl", rows.HUMANEVAL),
        only("mbpp", tmp_path / "m", "mbpp.jsonl", rows.MBPP),
        only("mbpp", tmp_path / "p", "MbppPlus.jsonl", rows.MBPP_PLUS),
        only("livecodebench_v6", tmp_path / "l", "livecodebench.jsonl", rows.LIVECODEBENCH),
    ]
    ends = ["", "", "", "\nprint(twice(int(input())))\n"]
    sandbox = make_local_sandbox(PythonSpec(preload=[]), ProgramLimits(seconds=60.0))
    verifier = CodeVerifier(sandbox.execute)
    try:
        for program, passes in ((right, True), (wrong, False)):
            tasks = [verifier.unpacking.plain(problem.task) for problem in problems if problem.task is not None]
            suites = [read_suite(task) for task in tasks if isinstance(task, Task)]
            candidates = [(suite, program + end) for suite, end in zip(suites, ends, strict=True)]
            verdicts = verifier.judged(candidates)
            assert [isinstance(one, Verdict) and one.correct for one in verdicts] == [passes] * 4, verdicts
    finally:
        sandbox.close()


def test_private_tests_are_not_kept_beside_the_problem(tmp_path: Path) -> None:
    problem = only("livecodebench_v6", tmp_path, "livecodebench.jsonl", rows.LIVECODEBENCH)
    assert "private_test_cases" not in problem.row
    assert problem.task is not None
    assert rows.LIVECODEBENCH["private_test_cases"] in problem.task.ground_truth


def test_fingerprint_is_of_what_was_read(tmp_path: Path) -> None:
    """The same rows in another file give the same one; an answer, an id or the order that differs another."""

    def of(name: str, some: list[Row]) -> dict[str, Any]:
        write_rows(tmp_path / name / "math500.jsonl", some)
        return read("math500", tmp_path / name).about()

    first, second = rows.MATH_500, {**rows.MATH_500, "unique_id": "test/algebra/2.json"}
    about = of("a", [first, second])
    assert about["problems"] == 2
    assert about["published_problems"] == 500
    assert about["files"] == ["math500.jsonl"]
    again = of("b", [{**first, "subject": "algebra"}, second])
    assert again["sha256"] == about["sha256"]
    assert again["ids_sha256"] == about["ids_sha256"]
    other = of("c", [{**first, "answer": "x/2"}, second])
    assert other["sha256"] != about["sha256"]
    assert other["ids_sha256"] == about["ids_sha256"]
    swapped = of("d", [second, first])
    assert swapped["ids_sha256"] != about["ids_sha256"]


def test_another_number_of_problems_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "aime24.jsonl", [rows.RETOOL] * 29)
    heard: list[str] = []
    assert len(read("aime24", tmp_path, heard).problems) == 29
    assert len(heard) == 1
    assert "29 problems" in heard[0]
    assert "aime24 has 30" in heard[0]
    write_rows(tmp_path / "livecodebench" / "test6.jsonl", [rows.LIVECODEBENCH] * 175)
    heard.clear()
    read("livecodebench_v6", tmp_path, heard)
    assert "test6.jsonl" in heard[0], "a known part is named"


def test_files_are_found_by_their_rows(tmp_path: Path) -> None:
    """No name tells these: AIME's years are in the ids, the other sets' columns are their own."""
    aime = [{**rows.MAXWELL_JIA, "ID": f"2024-I-{n}"} for n in range(30)]
    write_rows(tmp_path / "one.jsonl", aime)
    write_rows(tmp_path / "two.jsonl", [{**rows.MAXWELL_JIA, "ID": f"2025-I-{n}"} for n in range(30)])
    write_rows(tmp_path / "three.jsonl", [rows.GSM8K])
    write_rows(tmp_path / "four.jsonl", [rows.HUMANEVAL])
    write_rows(tmp_path / "five.jsonl", [rows.MBPP])
    write_rows(tmp_path / "six.jsonl", [rows.LIVECODEBENCH])
    write_rows(tmp_path / "seven.csv", [rows.GPQA] * 198)
    (tmp_path / "broken.jsonl").write_text("no JSON at all\n")
    expected = {
        "aime24": "one.jsonl",
        "aime25": "two.jsonl",
        "gsm8k": "three.jsonl",
        "humaneval": "four.jsonl",
        "mbpp": "five.jsonl",
        "livecodebench_v6": "six.jsonl",
        "gpqa_diamond": "seven.csv",
    }
    assert {name: read(name, tmp_path).files for name in expected} == {name: (at,) for name, at in expected.items()}


def test_parts_of_a_set_are_read_together(tmp_path: Path) -> None:
    for number in ("", "2", "3"):
        write_rows(tmp_path / "code_generation_lite" / f"test{number}.jsonl", [rows.LIVECODEBENCH])
    for part in (0, 1):
        write_rows(tmp_path / "gsm8k" / f"test-0000{part}-of-00002.parquet", [rows.GSM8K])
    assert len(read("livecodebench_v6", tmp_path).problems) == 3
    found = read("gsm8k", tmp_path)
    assert len(found.files) == 2
    assert len({problem.id for problem in found.problems}) == 2


def _lacks(row: Row, column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}


@pytest.mark.parametrize(
    ("benchmark", "name", "row", "said"),
    [
        ("aime24", "aime24.jsonl", _lacks(rows.H4_AIME, "answer"), ("aime24.jsonl: row 0", "'answer'", "url, year")),
        ("math500", "math500.jsonl", _lacks(rows.MATH_500, "problem"), ("math500.jsonl: row 0", "'problem'")),
        ("gsm8k", "gsm8k.jsonl", {**rows.GSM8K, "answer": "5"}, ("gsm8k.jsonl: row 0", "####")),
        ("gpqa_diamond", "gpqa_diamond.csv", _lacks(rows.GPQA, "Correct Answer"), ("row 0", "'Correct Answer'")),
        (
            "livecodebench_v6",
            "livecodebench.jsonl",
            _lacks(rows.LIVECODEBENCH, "private_test_cases"),
            ("row 0", "private"),
        ),
        ("humaneval", "humaneval.jsonl", _lacks(rows.HUMANEVAL, "test"), ("row 0", "'test'")),
        ("mbpp", "mbpp.jsonl", _lacks(rows.MBPP, "test_list"), ("row 0", "'test_list'")),
    ],
)
def test_another_schema_is_refused_by_file_row_and_column(
    benchmark: str, name: str, row: Row, said: tuple[str, ...], tmp_path: Path
) -> None:
    write_rows(tmp_path / name, [row])
    with pytest.raises(SodError) as refused:
        read(benchmark, tmp_path)
    assert all(part in str(refused.value) for part in said), refused.value


@pytest.mark.parametrize(
    ("benchmark", "files", "said"),
    [
        ("aime24", [], ("no file of aime24", "Maxwell-Jia/AIME_2024")),
        ("gsm8k", ["gsm8k/train.jsonl"], ("test split", "gsm8k/train.jsonl")),
        ("gsm8k", ["gsm8k-a.jsonl", "gsm8k-b.jsonl"], ("several files", "gsm8k-a.jsonl, gsm8k-b.jsonl")),
    ],
)
def test_folders_without_the_one_set_are_refused(
    benchmark: str, files: list[str], said: tuple[str, ...], tmp_path: Path
) -> None:
    for name in files:
        write_rows(tmp_path / name, [rows.GSM8K])
    with pytest.raises(SodError) as refused:
        read(benchmark, tmp_path)
    assert all(part in str(refused.value) for part in said), refused.value


def test_a_row_that_is_no_object_is_refused(tmp_path: Path) -> None:
    """It would be skipped in training data; a benchmark without it is another one."""
    (tmp_path / "aime24.jsonl").write_text(json.dumps(rows.RETOOL) + "\n[1]\n")
    with pytest.raises(SodError, match=r"aime24\.jsonl: 1 skipped: row 1.*needs every row"):
        read("aime24", tmp_path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [("AIME-2024", "did you mean aime24?"), ("gpqa", "gpqa_diamond?"), ("lcb", "livecodebench_v6"), (" , ", "none")],
)
def test_unknown_benchmarks_get_the_nearest_name(asked: str, said: str) -> None:
    with pytest.raises(SodError) as refused:
        benchmarks_named(asked)
    assert said in str(refused.value)


def test_benchmarks_are_named_in_a_list() -> None:
    named = [benchmark.name for benchmark in benchmarks_named("math500, aime24,math500")]
    assert named == ["math500", "aime24"]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "difficulties"), [("aime24", {None: 30}), ("math500", None), ("humaneval", {None: 164})]
)
def test_published_files_are_read_whole(benchmark: str, difficulties: dict[str | None, int] | None) -> None:
    heard: list[str] = []
    found = read(benchmark, SHARED, heard)
    assert not heard, "their number is the published one"
    assert len(found.problems) == BENCHMARKS[benchmark].count
    assert len({problem.id for problem in found.problems}) == len(found.problems)
    counted = Counter(problem.difficulty for problem in found.problems)
    if difficulties is None:
        assert counted == {"1": 43, "2": 90, "3": 105, "4": 128, "5": 134}
    else:
        assert counted == difficulties
