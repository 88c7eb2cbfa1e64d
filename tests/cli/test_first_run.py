"""Commands given in the wrong order say what to run first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named", "first"),
    [
        (("train", "quickstart.yaml"), "runs/quickstart/data/train.parquet (data.train)", "sod quickstart"),
        (("train", "quickstart.yaml", "method=sft"), "runs/quickstart/data/sft.parquet (data.sft)", "sod quickstart"),
        (("sft", "quickstart.yaml"), "runs/quickstart/student-sft (student.path)", "sod quickstart"),
        (("train", "smollm2-gsm8k.yaml"), "runs/gsm8k-teacher (teacher.path)", "sod models smollm2 --out"),
        (("sft", "smollm2-gsm8k.yaml"), "data/gsm8k/sft.parquet (data.sft)", "sod models smollm2 --out"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_to_run_first(arguments: tuple[str, ...], named: str, first: str, sod: Any) -> None:
    command, recipe, *more = arguments
    ended = sod(command, RECIPES / recipe, *more)
    (line,) = ended.err.splitlines()
    assert ended.code == 1
    assert line.startswith("error: ")
    assert named in line
    assert f"first run `{first}" in line
    assert not Path("runs").exists()


def test_evaluating_what_is_not_there_yet(sod: Any) -> None:
    ended = sod("eval", "runs/quickstart/sod", "--data", "runs/quickstart/data/test.parquet")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "runs/quickstart/data/test.parquet (--data)" in ended.err
    assert ended.err.rstrip().endswith("first run `sod quickstart`")
    assert not Path("runs/evaluations/sod-test-all-k4").exists()


def test_a_teacher_that_the_method_does_not_ask_is_not_missed(sod: Any) -> None:
    ended = sod("train", RECIPES / "quickstart.yaml", "method=opsd_hint")
    assert "data.train" in ended.err
    assert "teacher" not in ended.err


def test_pruning_and_converting_what_is_not_there_yet(sod: Any) -> None:
    ended = sod("models", "prune", "runs/gsm8k-teacher", "--layers", "15", "--out", "models/x")
    assert (ended.code, "sod sft recipes/smollm2-gsm8k.yaml" in ended.err) == (1, True), ended.err
    ended = sod("data", "gsm8k", "--input", "GSM8K/train.jsonl", "--out", "data/gsm8k")
    assert ended.code == 1
    assert ended.err.startswith("error: GSM8K/train.jsonl: no such file; --input is GSM8K's train.jsonl")


def test_comparing_what_is_not_there_yet_says_what_to_run_first(sod: Any) -> None:
    ended = sod("compare", RECIPES / "smollm2-gsm8k.yaml", "--methods", "start,sod", "--seeds", "0")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "first run `sod models smollm2 --out" in ended.err
    assert not Path("runs").exists()
