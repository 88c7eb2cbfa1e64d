"""`sod eval`: what it writes agrees with what it played, for a run, a checkpoint and a plain model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.build.job import final_model
from sod.chat.render import Chat
from sod.models.load import load_tokenizer
from sod.report import console
from sod.runlog import RunLog, read_trajectory_rows, trajectory_of
from sod.tasks.files import load_tasks, write_tasks
from sod.tools.python import SCHEMA

K = 2


@pytest.fixture(scope="module")
def data(world: Any, sod: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten tasks, some of which the student gets right: its own answers to them are the ground truth.

    Tasks in turn expect the first sample's answer, the second's, and something nobody answers.
    """
    directory = tmp_path_factory.mktemp("tasks")
    tasks = load_tasks(world.data("train")).items[:10]
    write_tasks(directory / "asked.parquet", tasks)
    ended = evaluate(sod, world.student, directory / "asked.parquet", directory / "out")
    assert ended.code == 0, ended.err
    given = {(row["task_id"], row["sample"]): row["answer"] for row in generations(directory / "out")}
    truths = [given.get((task.id, n % 3)) or "nobody answers this" for n, task in enumerate(tasks)]
    answered = [replace(task, ground_truth=truth) for task, truth in zip(tasks, truths, strict=True)]
    write_tasks(directory / "tasks.parquet", answered)
    return str(directory / "tasks.parquet")


@pytest.fixture(scope="module")
def evaluated(world: Any, data: str, sod: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory that an evaluation of the student wrote, and what it printed."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console.out, "_width", 160)  # else the table is folded to 80 columns
        ended = evaluate(sod, world.student, data, out)
    assert ended.code == 0, ended.err
    return out, ended.out


def evaluate(sod: Any, model: str | Path, data: str | Path, out: Path, *more: str) -> Any:
    return sod("eval", model, "--data", data, "-k", str(K), "--out", out, *more)


def generations(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "generations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def figures(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "evaluation.json").read_text())


def timeless(rows: list[dict[str, Any]]) -> str:
    """The rows without clocks and without log-probabilities, whose last bits depend on what shared a batch."""
    for row in rows:
        row.pop("sampled_logps")
        for turn in row["turns"]:
            for result in turn["results"]:
                result.pop("seconds")
    return json.dumps(rows)


def sampled_logps(directory: Path) -> list[float]:
    return [logp for row in generations(directory) for logp in row["sampled_logps"]]


def majority(rows: list[dict[str, Any]]) -> float:
    """Whether the most frequent answer is right; ties count as the mean over the tied answers."""
    right = {row["answer"]: float(row["correct"]) for row in rows}
    votes = Counter(row["answer"] for row in rows if row["answer"] is not None)
    if not votes:
        return 0.0
    tied = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(right[answer] for answer in tied) / len(tied)


def test_figures_follow_from_the_generations(evaluated: tuple[Path, str]) -> None:
    """avg@k, pass@k, maj@k and the episode figures, each counted again from generations.jsonl."""
    rows, written = generations(evaluated[0]), figures(evaluated[0])
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task_id"], []).append(row)
    assert len(by_task) == 10
    assert all([row["sample"] for row in group] == list(range(K)) for group in by_task.values())
    results = [result for row in rows for turn in row["turns"] for result in turn["results"]]
    expected = {
        "avg_at_k": sum(row["correct"] for row in rows) / len(rows),
        "pass_at_k": sum(any(row["correct"] for row in group) for group in by_task.values()) / 10,
        "maj_at_k": sum(majority(group) for group in by_task.values()) / 10,
        "accuracy": sum(row["correct"] for row in rows) / len(rows),
        "reward": sum(row["reward"] for row in rows) / len(rows),
        "turns": sum(len(row["turns"]) for row in rows) / len(rows),
        "response_tokens": sum(row["response_tokens"] for row in rows) / len(rows),
        "tool_calls": len(results) / len(rows),
        "tool_error_rate": sum(result["error"] is not None for result in results) / len(results),
        "faults": 0.0,
        "tasks": 10,
        "k": K,
    }
    for name, value in expected.items():
        assert written[name] == pytest.approx(value), name
    assert 0 < written["avg_at_k"] < written["pass_at_k"] < 1, "the tasks were made so that these differ"
    for name, (low, high) in written["intervals"].items():
        assert 0 <= low <= written[name] <= high <= 1
    assert written["ci95"] == written["intervals"]["avg_at_k"]


def test_correct_is_the_answer_being_the_ground_truth(evaluated: tuple[Path, str], data: str) -> None:
    """Each episode's verdict, checked by comparing integers."""
    truths = {task.id: task.ground_truth for task in load_tasks(data).items}
    for row in generations(evaluated[0]):
        same = row["answer"] is not None and row["answer"].strip() == truths[row["task_id"]]
        assert row["correct"] == same, row["answer"]
        assert row["reward"] == (1.0 if same else -1.0)


def test_json_says_where_it_comes_from(evaluated: tuple[Path, str], world: Any, data: str) -> None:
    """Model, data and recipe stand beside the figures."""
    written = figures(evaluated[0])
    assert (written["model"], written["data"]) == (world.student, data)
    assert written["recipe"]["evaluation"]["k"] == K
    assert written["recipe"]["seed"] == 3


def test_table(evaluated: tuple[Path, str]) -> None:
    """The table shows the columns and the same avg@k with its interval."""
    directory, printed = evaluated
    written = figures(directory)
    low, high = written["ci95"]
    for text in (f"avg@{K}", f"pass@{K}", f"maj@{K}", "tool errors", "student-sft", str(directory)):
        assert text in printed
    assert f"{written['avg_at_k']:.3f} [{low:.3f}, {high:.3f}]" in printed


def test_same_seed_same_generations(
    evaluated: tuple[Path, str], world: Any, data: str, sod: Any, tmp_path: Path
) -> None:
    """Again the same, however many rows share a batch; another seed gives others."""
    first, logps = timeless(generations(evaluated[0])), sampled_logps(evaluated[0])
    for name, more in (("again", ()), ("batched", ("rollout.max_rows=3",)), ("other", ("seed=4",))):
        assert evaluate(sod, world.student, data, tmp_path / name, *more).code == 0
        assert (timeless(generations(tmp_path / name)) == first) == (name != "other"), name
    assert sampled_logps(tmp_path / "again") == logps
    assert sampled_logps(tmp_path / "batched") == pytest.approx(logps, abs=1e-4)


def test_generations_hold_what_was_asked_and_shown(evaluated: tuple[Path, str], world: Any, data: str) -> None:
    """Every episode with its prompt, the tools, the truth and its tokens, of which the first are the prompt's."""
    tasks = {task.id: task for task in load_tasks(data).items}
    chat = Chat(load_tokenizer(str(world.path / "student-init")), [SCHEMA], template="hermes")
    for row in read_trajectory_rows(evaluated[0] / "generations.jsonl"):
        task = tasks[row["task_id"]]
        assert [(m["role"], m["content"]) for m in row["prompt"]] == [(m.role, m.content) for m in task.prompt]
        assert (row["truths"], row["tools"]) == ([task.ground_truth], [SCHEMA])
        assert row["prompt_ids"] == chat.prompt_ids(task.prompt)
        played = trajectory_of(row)
        assert list(played.token_ids[: played.prompt_tokens]) == row["prompt_ids"]
        assert [chat.decode_turn(played.token_ids[t.start : t.stop]) for t in played.turns] == [
            t.text for t in played.turns
        ]


def test_run_checkpoint_and_model_are_one(
    evaluated: tuple[Path, str], world: Any, data: str, sod: Any, tmp_path: Path
) -> None:
    """A run directory means its newest checkpoint; that directory with the run's recipe plays the same episodes."""
    newest = RunLog.open(world.student).checkpoints()[-1][1]
    recipe = ("--recipe", str(Path(world.student) / "recipe.yaml"))
    assert evaluate(sod, newest, data, tmp_path / "model", *recipe).code == 0
    assert timeless(generations(tmp_path / "model")) == timeless(generations(evaluated[0]))


def test_model_without_a_recipe(world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """A bare model directory is evaluated with the defaults and the template that came with it."""
    # Inside its run it would take the run's recipe.
    bare = shutil.copytree(final_model(world.student), tmp_path / "bare")
    changes = ("rollout.max_turn_tokens=24", "rollout.max_response_tokens=160", "rollout.max_prompt_tokens=128")
    ended = evaluate(sod, bare, data, tmp_path / "out", "--tasks", "3", *changes)
    assert ended.code == 0, ended.err
    assert figures(tmp_path / "out")["tasks"] == 3
    assert figures(tmp_path / "out")["recipe"]["student"]["dtype"] == "bfloat16"
    assert figures(tmp_path / "out")["tool_calls"] > 0.5, "the template's tool calls are understood"


def test_subset_of_tasks(evaluated: tuple[Path, str], world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """--tasks takes a subset that the seed fixes, in the file's order."""
    for name, more in (("one", ()), ("two", ()), ("other", ("seed=11",))):
        assert evaluate(sod, world.student, data, tmp_path / name, "--tasks", "4", *more).code == 0
    one, two, other = ([row["task_id"] for row in generations(tmp_path / name)] for name in ("one", "two", "other"))
    assert len(set(one)) == 4
    assert one == two != other
    everything = [row["task_id"] for row in generations(evaluated[0])]
    assert [name for name in everything if name in one] == one


def test_samples_and_tasks_of_the_recipe(world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """Without -k and --tasks they are those of the recipe, which is told where that is not all of the ten tasks."""
    recipe = ("--recipe", str(world.recipe(tmp_path)), "rollout.max_turns=1")
    limited = {"one": ["evaluation.tasks=3"], "many": ["evaluation.tasks=64"], "all": ["--tasks", "0"]}
    for name, more in ((name, [*tasks, "-k", "1"]) for name, tasks in limited.items()):
        ended = sod("eval", world.student, "--data", data, "--out", tmp_path / name, *recipe, *more)
        assert ended.code == 0, ended.err
        assert ("evaluation.tasks=3: so many of the 10 tasks are evaluated" in ended.err) == (name == "one")
        assert ("--tasks 0 takes all" in ended.err) == (name == "one")
    assert (figures(tmp_path / "one")["tasks"], figures(tmp_path / "one")["k"]) == (3, 1)
    assert [figures(tmp_path / name)["tasks"] for name in ("many", "all")] == [10, 10]
    kept = yaml.safe_load(Path(recipe[1]).read_text()) | {"evaluation": {"k": 3, "tasks": 2}}
    Path(recipe[1]).write_text(yaml.safe_dump(kept))
    assert sod("eval", world.student, "--data", data, "--out", tmp_path / "own", *recipe).code == 0
    assert (figures(tmp_path / "own")["tasks"], figures(tmp_path / "own")["k"]) == (2, 3)


def test_greedy(world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """At temperature 0 both samples of a task are one."""
    assert evaluate(sod, world.student, data, tmp_path, "evaluation.temperature=0").code == 0
    rows = json.loads(timeless(generations(tmp_path)))
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one["turns"] == two["turns"]


def test_a_name_that_yaml_would_read_as_something_else(
    world: Any, data: str, sod: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory named like a date or a number is still a path."""
    monkeypatch.chdir(tmp_path)
    for name in ("2026-01-31", "7"):
        Path(name).symlink_to(world.student)
        ended = evaluate(sod, name, data, tmp_path / f"out-{name}", "--tasks", "1")
        assert ended.code == 0, ended.err


def test_needs_data_and_a_model(world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """What is missing is named in one line."""
    ended = sod("eval", world.student)
    assert (ended.code, ended.err.strip()) == (1, "error: --data is missing: name a file of RL tasks")
    ended = evaluate(sod, tmp_path / "gone", data, tmp_path / "out")
    assert (ended.code, ended.err.strip()) == (1, f"error: {tmp_path / 'gone'}: no such model directory")
    assert not (tmp_path / "out").exists()


def test_device_says_where_the_model_is(world: Any, data: str, sod: Any, tmp_path: Path) -> None:
    """It is the recipe's `student.device`, whatever that was, and one that is not there is refused by its option."""
    ended = evaluate(sod, world.student, data, tmp_path / "here", "student.device=cuda:63", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert figures(tmp_path / "here")["recipe"]["student"]["device"] == "cpu"
    for device, said in (("cuda:63", "--device: there is no cuda:63: "), ("gpu", "--device: 'gpu' is no device; ")):
        ended = evaluate(sod, world.student, data, tmp_path / "out", "--device", device)
        assert ended.code == 1
        assert ended.err.strip().startswith(f"error: {said}")
        assert "\n" not in ended.err.strip()
        assert not (tmp_path / "out").exists()
