"""A comparison on a recipe's own student, teacher and data: what is asked of it, and what its results stand for.

Whole ones, with an own tool and in an own environment, are in tests/test_own_examples.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.build.data import loaded_tasks
from sod.compare.eta import about, seconds_left, work_line
from sod.compare.order import order_of_work
from sod.compare.own import also_tuned_on, refuse_unready, untrained
from sod.compare.sources import changed_sources, sources_of
from sod.compare.study import check_request, compare, read_results, report_only
from sod.compare.units import Comparison, Unit
from sod.recipe import Recipe, apply_overrides, load_recipe, parse_recipe
from sod.records import SodError

RECIPE: dict[str, Any] = {
    "name": "mine",
    "student": {"path": "models/student"},
    "teacher": {"path": "models/teacher"},
    "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
    "optim": {"lr": 3e-4},
    "train": {"steps": 20},
    "compare": {"tuning_steps": 5, "tuning_seed": 9},
}
LRS = "compare.lrs=[1.0e-3,1.0e-2]"
PLAYED = "environment={call: 'environment_games:Counter', tasks: 3}"
CODE = "import sqlite3\nBEST = 1.0\n\ndef score(episode):\n    return helped()\n\ndef helped():\n    return BEST\n"


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(apply_overrides(RECIPE, overrides, "here"), "here")


def comparison(*overrides: str, **more: Any) -> Comparison:
    return Comparison(recipe(*overrides), more.pop("out", Path("out")), Path("work"), 1, {}, **more)


@pytest.mark.parametrize(
    ("overrides", "methods", "said"),
    [
        (["data.validation=null"], ["sod"], "no tasks to judge the methods on"),
        (["data.validation=null", "compare.test=t.jsonl", LRS], ["sod"], "data.validation is not set, and compare.lrs"),
        (["data.train=null"], ["sod"], "data.train is not set"),
        (["teacher=null"], ["grpo", "sod"], "--methods sod: needs a teacher; set teacher.path"),
        (["teacher=null"], ["start", "teacher"], "--methods teacher: the recipe has no teacher"),
        ([], ["vanilla"], "start is student.path"),
        ([], ["sft"], "--methods sft: trains on conversations; set data.sft"),
        ([PLAYED], ["start", "opsd_gt"], "--methods opsd_gt: adds to the prompts of rows, and environments have"),
        (["compare.tuning_seed=1", LRS], ["sod"], "tuning_seed"),
        (["world={}", "compare.test=t.jsonl"], ["sod"], "a world has test tasks of its own"),
    ],
)
def test_what_is_lacking_is_named_before_anything_is_read(overrides: list[str], methods: list[str], said: str) -> None:
    with pytest.raises(SodError, match=said) as raised:
        check_request(recipe(*overrides), methods, [0, 1])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "methods"),
    [
        ([], ["start", "teacher", "grpo", "sod", "opsd_gt"]),
        (["data.validation=null", "compare.test=t.jsonl"], ["sod"]),
        (["teacher=null", "data.sft=s.jsonl"], ["start", "grpo", "opsd_gt", "sft"]),
        (["data={}", PLAYED, LRS], ["start", "grpo", "sod"]),
        (["data.train=null", "data.sft=s.jsonl"], ["start", "sft"]),
    ],
)
def test_what_is_there_is_enough(overrides: list[str], methods: list[str]) -> None:
    check_request(recipe(*overrides), methods, [0, 1])


def test_all_seeds_begin_at_once_and_with_the_recipes_own_learning_rate() -> None:
    whole = comparison()
    assert whole.lrs == [3e-4]
    assert order_of_work(whole, ["start", "grpo"], [0, 1], {}, 2) == [
        Unit("cell", seed, method) for seed in (0, 1) for method in ("start", "grpo")
    ]
    tuned = order_of_work(comparison(LRS), ["start", "grpo"], [0], {}, 1)
    assert tuned[:2] == [Unit("trial", 9, "grpo", lr) for lr in (1e-3, 1e-2)]
    assert not [unit for unit in tuned if unit.kind == "world"]


def test_a_recipe_is_another_one_with_other_models_data_or_learning_rate() -> None:
    own = comparison().recipe_sha256
    for same in ("name=x", "seed=4", "sft.steps=3", "train.checkpoint_every=2"):
        assert comparison(same).recipe_sha256 == own, same
    for other in (
        "student.path=b",
        "teacher.path=b",
        "data.train=b",
        "optim.lr=1",
        "compare.test=b",
        "sft.max_tokens=9",
    ):
        assert comparison(other).recipe_sha256 != own, other
    assert comparison(LRS, "optim.lr=1").recipe_sha256 == comparison(LRS).recipe_sha256


def test_code_is_named_by_its_file_wherever_it_stands(tmp_path: Path) -> None:
    hashes = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE | {"reward": {"call": "./mine.py:score"}}))
        hashes.append(Comparison(load_recipe(folder / "recipe.yaml"), tmp_path, tmp_path, 1, {}).recipe_sha256)
    assert hashes[0] == hashes[1] != comparison().recipe_sha256


@pytest.mark.parametrize(
    ("overrides", "tuned"),
    [([], False), ([LRS], True), ([LRS, "compare.test=t"], False), ([LRS, "compare.test=validation.jsonl"], True)],
)
def test_tasks_that_learning_rates_are_chosen_on_are_told_from_others(overrides: list[str], tuned: bool) -> None:
    assert also_tuned_on(recipe(*overrides)) == tuned


def test_the_teacher_is_evaluated_where_it_teaches() -> None:
    asked = recipe("teacher={path: t, dtype: bfloat16}", "student.device=cpu", "student.lora.rank=4")
    player = untrained(asked, "teacher").student
    assert (player.path, player.dtype, player.device, player.lora) == ("t", "bfloat16", "cpu", None)
    assert untrained(asked, "start") == asked


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a student, data, and a reward of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "student").mkdir(parents=True)
    (tmp_path / "models" / "student" / "config.json").write_text("{}")
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "1+1?", "ground_truth": "2"}\n')
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_results_say_what_they_were_made_from(files: Path) -> None:
    before = sources_of(recipe("reward.call=./mine.py:score"))
    assert list(before) == ["reward.call", "student.path", "data.train", "data.validation"]  # the teacher is elsewhere
    for path, key in (
        ("mine.py", "reward.call"),
        ("models/student/config.json", "student.path"),
        ("train.jsonl", "data.train"),
    ):
        text = (files / path).read_text()
        (files / path).write_text(text.replace("1.0", "2.0") + "\n")
        assert changed_sources(before, sources_of(recipe("reward.call=./mine.py:score"))) == [key]
        (files / path).write_text(text)
    assert sources_of(recipe("reward.call=./mine.py:score")) == before
    assert list(sources_of(recipe("world={}", "reward.call=./mine.py:score"))) == ["reward.call"]


def test_what_is_not_on_this_machine_makes_no_result_stale() -> None:
    assert changed_sources({"data.train": "1", "student.path": "2"}, {"student.path": "2"}) == []
    assert changed_sources({}, {"student.path": "2"}) == []


def test_runs_of_other_code_are_not_gone_on_with() -> None:
    unit, asked = Unit("cell", 0, "grpo"), recipe()
    before, after = (comparison(sources={"reward.call": value}).run(unit, asked) for value in "12")
    assert before != after
    judged = comparison(sources={"reward.call": "1", "compare.test": "3"}).run(unit, asked)
    assert judged == before  # other test tasks ask for another evaluation, not for another run
    assert comparison().run(unit, asked) not in (before, after)


def finished(asked: Comparison, unit: Unit, score: float, correct: dict[str, float], **more: Any) -> None:
    """A result of a cell on disk."""
    figures = {"k": 2, "tasks": 2, "avg_at_k": score, "tool_error_rate": 0.0, "response_tokens": 9.0, "faults": 0.0}
    path = asked.result(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {
        "recipe_sha256": asked.recipe_sha256,
        "seed": unit.seed,
        "method": unit.method,
        "lr": unit.lr,
        "steps": 0 if unit.method == "start" else 20,
        "figures": figures,
        "correct": correct,
        "curve": {},
        "threads": 1,
        "git": {"revision": None, "dirty": None},
        "seconds": {"training": 40.0, "evaluation": 5.0},
        "sources": dict(asked.sources),
        **more,
    }
    path.write_text(json.dumps(row))


def test_results_of_code_that_has_changed_count_no_more(files: Path) -> None:
    asked = recipe("reward.call=./mine.py:score")
    now = Comparison(asked, files / "out", files / "work", 1, {}, sources_of(asked))
    finished(now, Unit("cell", 0, "start"), 0.5, {"a": 0.5})
    lines: list[str] = []
    compare(asked, ["start"], [0], files / "out", files / "work", 1, lines.append)
    assert lines == ["mine: 0 to do with 1 x {} threads, 1 done earlier".format(lines[0].split(" x ")[1].split()[0])]
    (files / "mine.py").write_text(CODE.replace("BEST = 1.0", "BEST = 2.0"))
    with pytest.raises(SodError, match="models/student"):  # no model: the cell is to be made again, and cannot
        compare(asked, ["start"], [0], files / "out", files / "work", 1, lines.append)
    assert lines[1] == "reward.call: changed since 1 of 1 results were made, which count no more"


def test_differences_are_paired_by_seed_and_by_task(tmp_path: Path) -> None:
    asked = comparison(out=tmp_path)
    finished(asked, Unit("cell", 0, "start"), 0.25, {"a": 0.5, "b": 0.0, "c": 1.0})
    finished(asked, Unit("cell", 1, "start"), 0.25, {"a": 0.0, "b": 0.5})
    finished(asked, Unit("cell", 0, "grpo"), 0.75, {"a": 1.0, "b": 0.5})
    finished(asked, Unit("cell", 1, "grpo"), 0.50, {"a": 0.5, "b": 0.5, "d": 0.0})
    summary = report_only(asked.recipe, ["start", "grpo"], tmp_path)
    (row,) = summary["differences"]
    assert (row["method"], row["against"], row["n"], row["mean"]) == ("grpo", "start", 2, 0.375)
    by_task = row["by_task"]  # a: 0.5 and 0.5; b: 0.5 and 0; c and d were not asked of both
    assert (by_task["n"], by_task["mean"]) == (2, pytest.approx(0.375))
    assert by_task["ci95"] == pytest.approx((0.375 - 12.7062 * 0.125, 0.375 + 12.7062 * 0.125), abs=1e-3)
    text = (tmp_path / "summary.md").read_text()
    assert "Mean avg@2 on 2 tasks (validation.jsonl)" in text
    assert "All seeds have the same student and teacher" in text
    assert "| grpo | start | 2 | +0.375 | [-1.213, +1.963] | 2 of 2 | 0 | 2: [-1.213, +1.963] |" in text
    assert "tasks of the same source" not in text
    assert "more than one state of the user's own" not in text


def test_a_report_says_that_it_was_tuned_on_and_that_sources_differ(tmp_path: Path) -> None:
    asked = comparison(LRS, out=tmp_path)
    finished(asked, Unit("cell", 0, "grpo"), 0.75, {"a": 1.0}, sources={"reward.call": "1"})
    finished(asked, Unit("cell", 0, "opsd_gt"), 0.5, {"a": 0.5}, sources={"reward.call": "2"})
    summary = report_only(asked.recipe, ["grpo", "opsd_gt"], tmp_path)
    assert [(row["method"], row["against"]) for row in summary["differences"]] == [("opsd_gt", "grpo")]
    text = (tmp_path / "summary.md").read_text()
    assert "chosen on tasks of the same source, which flatters" in text
    assert "more than one state of the user's own code, models or data" in text


def test_what_is_left_is_guessed_from_what_is_done(tmp_path: Path) -> None:
    asked = comparison(LRS, out=tmp_path)
    pending = [Unit("cell", seed, method) for seed in (0, 1) for method in ("start", "grpo")]
    assert work_line(asked, [*pending, Unit("trial", 9, "grpo", 1e-3)]) == ("1 trial, 4 cells; 45 optimizer steps")
    assert seconds_left(asked, {}, pending, (), 1) is None
    finished(
        asked, Unit("trial", 9, "grpo", 1e-3), 0.5, {}, steps=5, lr=1e-3, seconds={"training": 10, "evaluation": 4}
    )
    results = read_results(asked)  # 2 s a step, 4 s an evaluation
    assert seconds_left(asked, results, pending, (), 1) == pytest.approx(2 * 4 + 2 * (20 * 2 + 4))
    assert seconds_left(asked, results, pending[1:], pending[:1], 2) == pytest.approx((2 + 4 + 2 * 44) / 2)
    assert seconds_left(asked, results, pending[1:2], (), 2) == pytest.approx(44)  # one job cannot be shared
    assert [about(value) for value in (42, 600, 9000)] == ["about 42 s", "about 10 min", "about 2.5 h"]


@pytest.mark.parametrize("named", ["environment@validation", "again.jsonl"])
def test_the_same_tasks_under_another_name_are_refused(named: str, files: Path) -> None:
    rows = (files / "validation.jsonl").read_text()
    (files / "again.jsonl").write_text(rows.replace("{", '{"id": "another", ', 1))
    asked = recipe(f"compare.test={named}", *([PLAYED, "data={}"] if named.startswith("environment") else []))
    with pytest.raises(SodError, match=f"compare.test={named}: has the same tasks as data.validation"):
        refuse_unready(asked, [], [])
    (files / "again.jsonl").write_text(rows.replace("1+1", "1+2"))
    other = "compare.test=" + named.replace("validation", "test")
    refuse_unready(recipe(other, *([PLAYED, "data={}"] if named.startswith("environment") else [])), [], [])


def test_a_split_of_the_environment_is_named_in_place_of_a_file() -> None:
    asked = recipe(PLAYED)
    ids = [task.id for task in loaded_tasks("environment@test", "compare.test", asked, print)]
    assert ids == ["test-0", "test-1", "test-2"]
    with pytest.raises(SodError, match=r"compare\.test=environment@: names no split"):
        loaded_tasks("environment@", "compare.test", asked, print)
    with pytest.raises(SodError, match=r"compare\.test=environment@test: there is no environment"):
        loaded_tasks("environment@test", "compare.test", recipe(), print)
