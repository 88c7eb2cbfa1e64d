"""`sod eval --benchmark`: one model load, a directory each, what was read and how it was asked said in the result."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sod.build import evaluation
from sod.build.job import final_model
from sod.report import console

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
import benchmark_rows as rows
from benchmark_rows import Row, write_rows

SHORT = ("--max-tokens", "24")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three benchmarks of a few rows each."""
    algebra = [{**rows.MATH_500, "unique_id": f"test/algebra/{n}.json", "level": n} for n in (1, 2, 2)]
    write_rows(tmp_path / "data" / "math500.jsonl", algebra)
    write_rows(tmp_path / "data" / "humaneval.jsonl", [rows.HUMANEVAL])
    write_rows(tmp_path / "data" / "gpqa_diamond.csv", [rows.GPQA, {**rows.GPQA, "Record ID": "rec8"}])
    return tmp_path / "data"


def figures(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "evaluation.json").read_text())


def generations(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "generations.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_several_benchmarks_by_one_load(
    world: Any, sod: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its directory with all its episodes, and says what was read, in which style, and its known flaws."""
    loads: list[str] = []
    load = evaluation.load_model
    monkeypatch.setattr(evaluation, "load_model", lambda path, *more: loads.append(path) or load(path, *more))
    monkeypatch.setattr(console.out, "_width", 160)
    ended = sod(
        *("eval", world.student, "--benchmark", "math500,gpqa_diamond,humaneval", "--style", "official"),
        *("--data-dir", folder, "-k", "2", "--out", tmp_path / "out", "--tasks", "2", *SHORT),
    )
    assert ended.code == 0, ended.err
    assert len(loads) == 1
    for name, problems, played in (("math500", 3, 2), ("gpqa_diamond", 2, 2), ("humaneval", 1, 1)):
        written = figures(tmp_path / "out" / name)
        assert written["tasks"] == played
        assert written["k"] == 2
        assert written["benchmark"]["name"] == name
        assert written["benchmark"]["problems"] == problems
        assert len(written["benchmark"]["sha256"]) == 64
        assert written["benchmark"]["source"] == str(folder)
        assert written["style"]["name"] == "official"
        assert written["style"]["sampling"]["max_tokens"] == 24
        assert written["style"]["known_flaws"]
        assert len(generations(tmp_path / "out" / name)) == 2 * played
        assert name in ended.out
    assert "MATH-500" not in ended.err
    assert ended.err.count("figures do not compare with those of the whole set") == 3


@pytest.mark.slow
def test_each_checkpoint_of_a_run_is_evaluated_on_each(
    world: Any, sod: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table and a curve for each benchmark; given again, nothing is played; trackers get it as one run, by steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world.path / "sod", "mine")
    words = ("eval", "mine", "--benchmark", "math500,humaneval", "--style", "official", "--data-dir", folder, "-k", "1")
    words += ("--tasks", "1", "--every", *SHORT, "trackers=[tensorboard]")
    ended = sod(*words)
    assert ended.code == 0, ended.err
    for name in ("math500", "humaneval"):
        (curve,) = Path("mine/evaluations").glob(f"{name}-official*-curve.json")
        steps = json.loads(curve.read_text())["steps"]
        assert list(steps) == ["2", "3"]
        assert curve.with_suffix(".png").is_file()
        (last,) = Path("mine/evaluations").glob(f"{name}-official*-step3")
        assert figures(last)["avg_at_k"] == steps["3"]["avg_at_k"]
    events = [path.parent for path in Path("mine").rglob("*tfevents*") if "benchmarks-official" in str(path)]
    assert len(set(events)) == 1
    written = {path: path.stat().st_mtime_ns for path in Path("mine").rglob("generations.jsonl")}
    assert len(written) == 4
    assert sod(*words).code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("mine").rglob("generations.jsonl")} == written


@pytest.mark.slow
def test_what_was_played_is_not_played_again(
    world: Any, sod: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command plays nothing; more samples are added to those that are there; other words are another one."""

    def asked(style: str, *more: str) -> Any:
        options = ("--benchmark", "math500", "--style", style, "--data-dir", folder, *SHORT)
        return sod("eval", world.student, *options, "--out", tmp_path / "out", *more)

    hot = ("evaluation.temperature=1.0",)
    assert asked("lm-eval", "-k", "1", *hot).code == 0
    first = generations(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("sod.build.evaluation.load_model", lambda *_: pytest.fail("loaded"))
        again = asked("lm-eval", "-k", "1", *hot)
        assert again.code == 0
        assert "was evaluated before" in again.err
        other = asked("lm-eval-strict", "-k", "1", *hot)
        assert other.code == 1
        assert "out: holds an evaluation with another tasks" in other.err
    assert asked("lm-eval", "-k", "2", *hot).code == 0
    more = generations(tmp_path / "out")
    assert [row for row in more if row["sample"] == 0] == first
    assert len(more) == 6


@pytest.mark.slow
def test_the_style_says_what_is_asked_and_how(world: Any, sod: Any, folder: Path, tmp_path: Path) -> None:
    """The run's recipe has tools and a temperature of its own; lm-eval shows none and is greedy, one sample."""
    run = world.path / "sod"
    ended = sod(
        *("eval", run, "--benchmark", "math500", "--style", "lm-eval", "--data-dir", folder),
        *("--out", tmp_path / "out", *SHORT),
    )
    assert ended.code == 0, ended.err
    written = figures(tmp_path / "out")
    assert written["tasks"] == 3, "the run's evaluation.tasks does not make it smaller"
    assert written["k"] == 1
    assert written["style"]["sampling"]["temperature"] == 0.0
    assert written["style"]["tools"] is False
    played = generations(tmp_path / "out")
    assert [row["tools"] for row in played] == [[]] * 3
    assert {len(row["turns"]) for row in played} == {1}
    assert [row["truths"] for row in played] == [[rows.MATH_500["answer"]]] * 3


@pytest.mark.slow
def test_a_style_with_tools_shows_those_of_the_recipe(world: Any, sod: Any, folder: Path, tmp_path: Path) -> None:
    """The paper's prompt is longer than this student's context, so that a copy says it has a longer one."""
    student = Path(shutil.copytree(final_model(world.student, lambda text: None), tmp_path / "student"))
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    options = ("--benchmark", "math500", "--data-dir", folder, "-k", "1", "--tasks", "1", *SHORT)
    ended = sod("eval", student, *options, "--out", tmp_path / "out", "tools.python.preload=[]")
    assert ended.code == 0, ended.err
    written = figures(tmp_path / "out")
    assert written["style"]["name"] == "sod"
    assert written["style"]["tools"] is True
    assert written["style"]["sampling"] == {
        "temperature": 1.0,
        "top_p": 0.6,
        "top_k": 0,
        "max_tokens": 24,
        "max_turns": 16,
    }
    (played,) = generations(tmp_path / "out")
    assert [tool["function"]["name"] for tool in played["tools"]] == ["python"]
    assert "boxed" in played["prompt"][-1]["content"]


def test_refused_before_a_model_is_looked_at(sod: Any, folder: Path, tmp_path: Path) -> None:
    """The model is not there; each of these is told instead."""
    for arguments, said in (
        (("--benchmark", "aime"), "did you mean aime24 or aime25?"),
        (("--benchmark", "math500", "--style", "lmeval"), "did you mean lm-eval?"),
        (("--benchmark", "math500", "--data", "x.jsonl"), "--benchmark and --data"),
        (("--style", "official", "--data", "x.jsonl"), "--style is about benchmarks"),
        (("--data-dir", folder, "--data", "x.jsonl"), "--data-dir is about benchmarks"),
    ):
        ended = sod("eval", tmp_path / "nowhere", *arguments)
        assert ended.code == 1, arguments
        assert said in ended.err, ended.err


@pytest.mark.parametrize(
    ("benchmarks", "change", "said"),
    [
        ("math500", {"math500.jsonl": [{"question": "?", "level": 1}]}, "math500.jsonl: row 0: no column 'answer'"),
        ("math500,aime24", {}, "no file of aime24"),
        ("math500", {"deep/math500.jsonl": [rows.MATH_500]}, "several files may be math500"),
    ],
)
def test_unfit_data_is_refused_before_a_model_is_loaded(
    benchmarks: str,
    change: dict[str, list[Row]],
    said: str,
    world: Any,
    sod: Any,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sod.build.evaluation.load_model", lambda *_: pytest.fail("loaded"))
    for name, some in change.items():
        write_rows(folder / name, some)
    out = tmp_path / "out"
    ended = sod("eval", world.student, "--benchmark", benchmarks, "--data-dir", folder, "--out", out, *SHORT)
    assert ended.code == 1
    assert said in ended.err, ended.err
    assert not out.exists()


def test_a_taken_out_is_refused_for_each_benchmark(
    world: Any, sod: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sod.build.evaluation.load_model", lambda *_: pytest.fail("loaded"))
    write_rows(tmp_path / "out" / "humaneval" / "kept.jsonl", [{}])
    ended = sod(
        *("eval", world.student, "--benchmark", "math500,humaneval", "--style", "official", "--data-dir", folder),
        *("--out", tmp_path / "out", *SHORT),
    )
    assert ended.code == 1
    assert "out/humaneval: not empty" in ended.err
    assert not (tmp_path / "out" / "math500").exists()


def test_a_model_without_room_is_told_with_the_key(world: Any, sod: Any, folder: Path, tmp_path: Path) -> None:
    """The style's answers are longer than this model's context."""
    ended = sod("eval", world.student, "--benchmark", "math500", "--style", "official", "--data-dir", folder)
    assert ended.code == 1
    assert "math500 in style official, whose longest prompt has" in ended.err
    assert "--max-tokens asks for shorter answers" in ended.err
