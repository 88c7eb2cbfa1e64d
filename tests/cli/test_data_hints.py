"""`sod data hints` as a command: its file trains `opsd_hint`, and what it cannot do it says in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.runlog import RunLog
from sod.tasks.files import load_tasks

pytestmark = pytest.mark.slow


def gsm8k(path: Path, count: int) -> Path:
    """Rows as GSM8K has them, but for their size."""
    rows = []
    for n in range(2, 2 + count):
        answer = (
            f"{n} boxes hold {n}*6=<<{n}*6={n * 6}>>{n * 6} pears.\nOne is eaten: {n * 6}-1=<<{n * 6}-1={n * 6 - 1}>>"
        )
        rows.append(
            {"question": f"{n} boxes of 6 pears, one eaten?", "answer": f"{answer}{n * 6 - 1}\n#### {n * 6 - 1}"}
        )
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_from_gsm8k_to_two_steps_of_opsd_hint(recipe: Path, sod: Any, tmp_path: Path) -> None:
    made = sod("data", "gsm8k", "--input", gsm8k(tmp_path / "train.jsonl", 8), "--out", tmp_path, "--validation", "2")
    assert made.code == 0, made.err
    hinted = tmp_path / "hinted.parquet"
    ended = sod("data", "hints", "--input", tmp_path / "train.parquet", "--out", hinted)
    assert (ended.code, ended.err) == (0, "")
    assert "hints made" in ended.out
    tasks = load_tasks(str(hinted)).items
    assert [task.extra["hint"].split()[1:3] for task in tasks] == [["boxes", "hold"]] * 6
    run = tmp_path / "run"
    changes = (
        "method=opsd_hint",
        "teacher=null",
        f"data.train={hinted}",
        "train.steps=2",
        "rollout.max_prompt_tokens=400",
    )
    changes += ("rollout.max_turns=1", "rollout.max_turn_tokens=8", "rollout.max_response_tokens=16")
    trained = sod("train", recipe, *changes, "--run", run)
    assert trained.code == 0, trained.err
    gaps = [row["teacher_gap"] for row in RunLog.open(run).metrics()]
    assert len(gaps) == 2
    assert all(gap != 0.0 for gap in gaps)  # the teacher, the student's copy, has read something else


def test_the_worlds_own_tasks_get_hints(world: Any, sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "hints", "--input", world.data("train"), "--out", tmp_path / "hinted.parquet")
    assert ended.code == 0, ended.err
    assert all(
        set(task.extra["hint"]) <= set("+-* 0123456789") for task in load_tasks(str(tmp_path / "hinted.parquet")).items
    )


def test_a_model_that_writes_no_hint(world: Any, sod: Any, tmp_path: Path) -> None:
    """The student of this world knows nothing but calls: no hint, one line, no file."""
    out = tmp_path / "hinted.parquet"
    arguments = ("--input", world.data("test"), "--out", out, "--model", world.student)
    ended = sod("data", "hints", *arguments, "--max-tokens", "16")
    assert ended.code == 1
    assert "no row gets a hint, row 0: " in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", "1"), "--seed: it is for a model that writes hints"),
        (("--model", "nowhere"), "nowhere: no such model directory"),
        (("--from", "proof"), "no row has a text in proof (--from)"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], said: str, world: Any, sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "hints", "--input", world.data("test"), "--out", tmp_path / "hinted.parquet", *arguments)
    assert ended.code == 1
    assert said in " ".join(ended.err.split())
    assert not (tmp_path / "hinted.parquet").exists()
