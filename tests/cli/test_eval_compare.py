"""`sod eval --compare A B`: paired by problem, and refused where there is nothing to pair."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sod.evaluation.paired import sign_flip
from sod.tasks.files import load_tasks, write_tasks


def row(task: str, sample: int, correct: bool, truth: str = "4") -> dict[str, Any]:
    """What is read of an episode's row."""
    prompt = [{"role": "user", "content": f"what is {task}?"}]
    said = {"answer": truth if correct else "0", "vote": truth if correct else "0"}
    return {"format": 2, "task_id": task, "sample": sample, "correct": correct, **said, "truths": [truth]} | {
        "prompt": prompt,
        "environment": None,
    }


def evaluation(directory: Path, right: dict[str, list[int]], **figures: Any) -> Path:
    """A finished evaluation in which these samples of these tasks are right, as older ones were written: no plan."""
    directory.mkdir(parents=True)
    rows = [row(task, n, bool(one)) for task, samples in right.items() for n, one in enumerate(samples)]
    (directory / "generations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    k = len(next(iter(right.values())))
    (directory / "evaluation.json").write_text(json.dumps({"k": k, "faults": 0.0, "recipe": {}, **figures}))
    return directory


FIRST = {"a": [1, 1], "b": [0, 0], "c": [1, 0], "d": [0, 0], "e": [1, 1]}
SECOND = {"a": [1, 1], "b": [1, 1], "c": [0, 0], "d": [1, 0], "e": [1, 1]}


def compare(sod: Any, *arguments: str | Path) -> Any:
    return sod("eval", "--compare", *arguments)


def test_the_difference_is_over_problems(sod: Any, tmp_path: Path) -> None:
    """Counted again here; problems that one alone solves are named; settings that differ are told."""
    cool, warm = ({"evaluation": {"temperature": value}} for value in (0.6, 1.0))
    one = evaluation(tmp_path / "one", FIRST, recipe=cool)
    two = evaluation(tmp_path / "two", SECOND, recipe=warm)
    ended = compare(sod, one, two, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "evaluation.temperature is 0.6 in the first and 1.0 in the second" in ended.err
    assert re.search(r"avg@2 .* 0\.500 .* 0\.700 .* \+0\.200 \[-0\.\d+, \+0\.\d+\]", ended.out)
    assert "solved by the first alone: 1: c" in ended.out
    assert "solved by the second alone: 2: b, d" in ended.out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["figures"]["avg_at_k"]["p"] == sign_flip([0.0, 1.0, -0.5, 0.5, 0.0])[0]
    assert found["moved"] == {"b": [0.0, 1.0], "c": [0.5, 0.0], "d": [0.0, 0.5]}
    assert found["figures"]["pass_at_k"]["value"] == pytest.approx(0.2)
    again = compare(sod, one, two, "--out", tmp_path / "out")
    assert (again.code, "is there already" in again.err) == (1, True)


def test_a_problem_that_lost_a_sample_is_left_out(sod: Any, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", FIRST | {"d": [0]}, faults=1.0)
    ended = compare(sod, one, evaluation(tmp_path / "two", SECOND))
    assert ended.code == 0, ended.err
    assert "1 problems lost a sample to a fault" in ended.err
    assert "4 problems" in ended.out


UNLIKE = {
    "k": ({task: samples[:1] for task, samples in SECOND.items()}, {}, "have 2 and 1 samples of each task; evaluate"),
    "tasks": ({"a": [1, 1], "z": [0, 1]}, {}, r"are of other tasks (5 of 5 and 2 are in one alone)"),
    "style": (SECOND, {"style": {"name": "official"}}, "asked in other styles (that of the data, official)"),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_unlike_evaluations_are_refused(what: str, sod: Any, tmp_path: Path) -> None:
    right, figures, said = UNLIKE[what]
    ended = compare(sod, evaluation(tmp_path / "one", FIRST), evaluation(tmp_path / "two", right, **figures))
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert said in ended.err


def test_what_is_no_pair_of_evaluations_is_refused(sod: Any, tmp_path: Path) -> None:
    """A truth that changed, a directory of something else, the same twice, a model beside them."""
    one, two = evaluation(tmp_path / "one", FIRST), evaluation(tmp_path / "two", SECOND)
    other = (two / "generations.jsonl").read_text().replace('"truths": ["4"]', '"truths": ["5"]')
    (two / "generations.jsonl").write_text(other)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ((one, two), "is not the same in both; compare evaluations of the same data"),
        ((one, tmp_path / "empty"), "not a finished evaluation (evaluation.json is missing)"),
        ((one, one), "is compared with itself"),
    ):
        ended = compare(sod, *arguments)
        assert (ended.code, len(ended.err.splitlines())) == (1, 1)
        assert said in ended.err
    ended = sod("eval", "model", "--compare", one, two)
    assert (ended.code, "takes two directories of evaluations and no model" in ended.err) == (1, True)
    ended = sod("eval", "--data", "x.parquet")
    assert (ended.code, ended.err.startswith("error: RUN_OR_MODEL is missing")) == (1, True)


@pytest.mark.slow
def test_evaluations_that_sod_wrote_are_paired(world: Any, sod: Any, tmp_path: Path) -> None:
    """A student and its teacher on the same tasks; other tasks under the same ids are not the same."""
    shutil.copy(world.data("test"), tmp_path / "tasks.parquet")
    for name, model in (("student", world.student), ("teacher", world.teacher)):
        ended = sod("eval", model, "--data", tmp_path / "tasks.parquet", "-k", "2", "--out", tmp_path / name)
        assert ended.code == 0, ended.err
    ended = compare(sod, tmp_path / "student", tmp_path / "teacher", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name, which in (("student", "first"), ("teacher", "second")):
        figures = json.loads((tmp_path / name / "evaluation.json").read_text())
        for figure in ("avg_at_k", "pass_at_k", "maj_at_k"):
            assert found["figures"][figure][which] == pytest.approx(figures[figure]), figure
    tasks = load_tasks(str(tmp_path / "tasks.parquet")).items
    write_tasks(tmp_path / "tasks.parquet", [*tasks[1:], tasks[0]][:3])
    assert (
        sod("eval", world.student, "--data", tmp_path / "tasks.parquet", "-k", "2", "--out", tmp_path / "few").code == 0
    )
    ended = compare(sod, tmp_path / "few", tmp_path / "teacher")
    assert (ended.code, "are of other tasks" in ended.err) == (1, True)
