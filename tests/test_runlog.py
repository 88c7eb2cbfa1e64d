"""The run directory: what it holds, and what survives a kill, a full disk, and a resume."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.records import Fault, FaultKind, SodError, StopReason, ToolCall, ToolResult, Trajectory, Turn
from sod.runlog import (
    RunLog,
    recipe_hash,
    trajectory_row,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)

RECIPE = {"method": {"name": "sod", "clip": math.inf}, "lr": 1e-6, "tools": ["python"], "name": "kürbis"}


@pytest.fixture
def run(tmp_path: Path) -> RunLog:
    return RunLog.create(tmp_path / "runs" / "one", RECIPE, seed=7)


def one_line(info: pytest.ExceptionInfo[SodError]) -> str:
    message = str(info.value)
    assert "\n" not in message
    return message


def files(run: RunLog) -> set[str]:
    return {path.name for path in run.path.rglob("*") if path.is_file()}


# --- create and open ---------------------------------------------------------------------------------


def test_create_writes_a_recipe_that_reads_back(run: RunLog) -> None:
    assert run.recipe() == RECIPE  # an infinite clip and a float like 1e-06 included
    assert isinstance(run.recipe()["lr"], float)
    assert RunLog.open(run.path) == run
    assert files(run) == {"recipe.yaml", "manifest.json"}


def test_create_accepts_tuples_enums_and_paths(tmp_path: Path) -> None:
    class Kind(StrEnum):
        A = "a"

    run = RunLog.create(tmp_path / "r", {"t": (1, 2), "k": Kind.A, "p": Path("x/y"), "n": np.float32(0.5)}, 0)
    assert run.recipe() == {"t": [1, 2], "k": "a", "p": "x/y", "n": 0.5}


def test_manifest_says_where_the_run_came_from(run: RunLog) -> None:
    manifest = run.manifest()
    assert manifest["seed"] == 7
    assert manifest["argv"] == sys.argv
    assert manifest["recipe_sha256"] == recipe_hash(RECIPE)
    assert set(manifest["versions"]) == {"python", "torch", "transformers", "numpy", "sod"}
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["started"])
    # A closed list: no host, no user, no directory.
    assert set(manifest) == {"started", "argv", "seed", "recipe_sha256", "git", "versions"}


def test_manifest_knows_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    outside = RunLog.create(tmp_path / "outside", RECIPE, 0).manifest()["git"]
    assert outside == {"revision": None, "dirty": None}

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    clean = RunLog.create(tmp_path / "clean", RECIPE, 0).manifest()["git"]
    assert clean == {"revision": git("rev-parse", "HEAD"), "dirty": False}  # run directories do not count

    (tmp_path / "code.py").write_text("x = 2\n")
    assert RunLog.create(tmp_path / "dirty", RECIPE, 0).manifest()["git"]["dirty"] is True

    monkeypatch.setenv("PATH", "")
    assert RunLog.create(tmp_path / "no-git", RECIPE, 0).manifest()["git"]["revision"] is None


def test_create_refuses_a_directory_that_holds_a_run(run: RunLog) -> None:
    with pytest.raises(SodError) as info:
        RunLog.create(run.path, {"other": 1}, seed=8)
    assert str(run.path / "recipe.yaml") in one_line(info)
    assert "--resume" in str(info.value)
    assert "another run directory" in str(info.value)
    assert run.recipe() == RECIPE
    assert run.manifest()["seed"] == 7


def test_create_goes_on_where_a_kill_left_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert RunLog.create(tmp_path, RECIPE, 3).manifest()["seed"] == 3


def test_create_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SodError, match=r"file.*cannot be written") as info:
        RunLog.create(tmp_path / "file", RECIPE, 0)
    one_line(info)


@pytest.mark.parametrize("name", ["missing", "."])
def test_open_refuses_what_is_no_run_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(SodError, match=r"not a run directory \(no recipe\.yaml\)") as info:
        RunLog.open(tmp_path / name)
    one_line(info)


@pytest.mark.parametrize("text", ["a: [1\nb: }", "- 1\n- 2\n", ""])
def test_a_broken_recipe_is_one_line(run: RunLog, text: str) -> None:
    (run.path / "recipe.yaml").write_text(text)
    with pytest.raises(SodError, match=r"recipe\.yaml: not") as info:
        run.recipe()
    one_line(info)


@pytest.mark.parametrize("content", [b'{"seed": ', b"[1]", b"\xff\xfe"])
def test_a_broken_manifest_is_one_line(run: RunLog, content: bytes) -> None:
    (run.path / "manifest.json").write_bytes(content)
    with pytest.raises(SodError, match=r"manifest\.json") as info:
        run.manifest()
    one_line(info)


def test_recipe_hash_ignores_order_and_sees_values() -> None:
    assert recipe_hash({"a": 1, "b": {"c": 2, "d": 3}}) == recipe_hash({"b": {"d": 3, "c": 2}, "a": 1})
    seen = {recipe_hash({"a": value}) for value in (1, 2, "1", None, True, [1], math.inf, -math.inf, 1.5)}
    assert len(seen) == 9
    assert re.fullmatch(r"[0-9a-f]{64}", recipe_hash({}))
    assert recipe_hash({"a": (1, 2)}) == recipe_hash({"a": [1, 2]})  # as it reads back from YAML


# --- metrics -----------------------------------------------------------------------------------------


def test_rows_come_back_by_step_with_their_kind(run: RunLog) -> None:
    assert run.metrics() == []
    run.log({"step": 1, "loss": 0.5})
    run.log({"step": 1, "kind": "eval", "eval/avg_at_k": 0.25})
    run.log({"step": 2, "loss": 0.4})
    assert run.metrics() == [
        {"step": 1, "loss": 0.5, "kind": "train"},
        {"step": 1, "kind": "eval", "eval/avg_at_k": 0.25},
        {"step": 2, "loss": 0.4, "kind": "train"},
    ]


def test_a_resumed_run_replaces_the_steps_it_replays(run: RunLog) -> None:
    for step in (1, 2, 3, 4):
        run.log({"step": step, "loss": step})
    run.log({"step": 4, "kind": "eval", "avg": 0.1})
    for step in (3, 4, 5):
        RunLog.open(run.path).log({"step": step, "loss": 10 * step})
    assert [(r["kind"], r["step"], r.get("loss")) for r in run.metrics()] == [
        ("train", 1, 1),
        ("train", 2, 2),
        ("train", 3, 30),
        ("train", 4, 40),
        ("eval", 4, None),
        ("train", 5, 50),
    ]
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 8  # append-only all the same


def test_numbers_that_json_does_not_know_become_null(run: RunLog) -> None:
    run.log({"step": 1, "a": math.nan, "b": [math.inf, 1.0], "c": np.float32("nan"), "d": np.int64(3)})
    run.log({"step": 2, "a": np.bool_(True), "b": np.array([1.0, -math.inf]), "c": {"x": -math.inf}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"step": 1, "a": None, "b": [None, 1.0], "c": None, "d": 3},
        {"step": 2, "a": True, "b": [1.0, None], "c": {"x": None}},
    ]


def test_a_row_needs_a_step_and_json_values(run: RunLog) -> None:
    with pytest.raises(ValueError, match="integer step"):
        run.log({"loss": 1.0})
    with pytest.raises(TypeError, match="object has no JSON form"):
        run.log({"step": 1, "loss": object()})
    assert run.metrics() == []


@settings(deadline=None)  # it writes files, on whatever disk
@given(st.integers(1, 200))
def test_a_cut_line_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, lost: int) -> None:
    run = RunLog.create(tmp_path_factory.mktemp("cut"), {}, 0)
    rows = [{"step": step, "text": 'a "quoted" ü', "nested": {"x": [1, 2.5, None]}} for step in (1, 2, 3)]
    for row in rows:
        run.log(row)
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    size = max(len(whole) - lost, 0)
    file.write_bytes(whole[:size])
    # A row survives if all its characters do; its newline is not needed to read it.
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    survivors = [step for step, end in zip((1, 2, 3), ends, strict=True) if end <= size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [row["step"] for row in run.metrics()] == survivors
        run.log({"step": 9})
        assert [row["step"] for row in run.metrics()] == [*survivors, 9]


def test_a_cut_line_is_named_in_a_warning(run: RunLog) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2: a cut line is left out"):
        assert len(run.metrics()) == 1


@pytest.mark.parametrize(("line", "message"), [("[1]", "not a JSON object"), ("{}", "without an integer step")])
def test_a_line_that_is_no_row_stops(run: RunLog, line: str, message: str) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(SodError, match=rf"metrics\.jsonl:2: .*{message}"):
        run.metrics()


def test_every_logged_row_survives_kill_9(run: RunLog) -> None:
    code = (
        "import sys; from sod.runlog import RunLog; run = RunLog.open(sys.argv[1]); step = 0\n"
        "while True:\n"
        "    step += 1; run.log({'step': step, 'x': 'y' * 500}); print(step, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(20):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    acknowledged = 20 + len(child.stdout.read().splitlines())
    child.stdout.close()
    child.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = run.metrics()
    assert len(rows) >= acknowledged
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


# --- a disk that refuses -----------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_a_full_disk_is_one_line(run: RunLog) -> None:
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(SodError) as info:
        run.log({"step": 1})
    message = one_line(info)
    assert message.startswith(f"{run.path / 'metrics.jsonl'}: no space left on device; ")
    assert message.endswith("nothing already written is lost")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_atomic_write_that_fails_leaves_the_old_file(
    run: RunLog, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    run.write_summary({"avg_at_k": 0.5})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(SodError, match=r"summary\.json: no space left on device"):
        run.write_summary({"avg_at_k": 0.6})
    assert run.summary() == {"avg_at_k": 0.5}
    assert files(run) == {"recipe.yaml", "manifest.json", "summary.json"}  # no temporary file left


def test_other_failures_name_their_reason(run: RunLog) -> None:
    (run.path / "metrics.jsonl").mkdir()
    (run.path / "trajectories").write_text("a file in the way")
    (run.path / "checkpoints").write_text("a file in the way")
    for write, name in (
        (lambda: run.log({"step": 1}), "metrics.jsonl"),
        (lambda: run.write_trajectories(1, []), "trajectories"),
        (lambda: run.checkpoint_dir(1), "checkpoints"),
    ):
        with pytest.raises(SodError, match=rf"{name}.*: cannot be written \(\w.*\)") as info:
            write()
        one_line(info)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SodError, match="Permission denied") as info:
            RunLog.create(tmp_path / "run", RECIPE, 0)
    finally:
        tmp_path.chmod(0o700)
    one_line(info)


def test_atomic_writes_make_their_directory_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json_atomic(path, {"x": math.nan, "ü": 1})
    assert json.loads(path.read_text()) == {"x": None, "ü": 1}
    write_text_atomic(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    write_bytes_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


# --- trajectories, checkpoints, summary --------------------------------------------------------------


def trajectory(fault: Fault | None = None) -> Trajectory:
    turns = (
        Turn(
            index=1,
            start=2,
            stop=5,
            text="<tool_call>",
            calls=(ToolCall("python", {"code": "1/0"}),),
            results=(ToolResult("ZeroDivisionError", error="exception", seconds=0.25),),
        ),
        Turn(index=2, start=6, stop=8, text="The answer is 4."),
    )
    return Trajectory(
        task_id="add-3",
        sample=1,
        prompt_tokens=2,
        token_ids=tuple(range(8)),
        turn_ids=(0, 0, 1, 1, 1, 0, 2, 2),
        sampled_logps=(0.0,) * 8,
        turns=turns,
        stop=StopReason.FAULT if fault else StopReason.ANSWER,
        answer="4",
        correct=True,
        reward=1.0,
        fault=fault,
    )


def test_a_trajectory_becomes_a_row_and_comes_back(run: RunLog) -> None:
    row = trajectory_row(trajectory(), divergence=[0.218, math.nan], weight=[1.0, 0.17])
    run.write_trajectories(12, [row, trajectory_row(trajectory())])
    assert (run.path / "trajectories" / "step-000012.jsonl").exists()
    first, second = run.trajectories(12)
    assert first == {
        "task_id": "add-3",
        "sample": 1,
        "stop": "answer",
        "reward": 1.0,
        "correct": True,
        "answer": "4",
        "verdict": "",
        "fault": None,
        "prompt_tokens": 2,
        "response_tokens": 6,
        "turns": [
            {
                "k": 1,
                "n_tokens": 3,
                "d_k": 0.218,
                "w_k": 1.0,
                "text": "<tool_call>",
                "calls": [{"name": "python", "arguments": {"code": "1/0"}}],
                "results": [{"text": "ZeroDivisionError", "error": "exception", "seconds": 0.25}],
            },
            {
                "k": 2,
                "n_tokens": 2,
                "d_k": None,
                "w_k": 0.17,
                "text": "The answer is 4.",
                "calls": [],
                "results": [],
            },
        ],
    }
    assert [(turn["d_k"], turn["w_k"]) for turn in second["turns"]] == [(None, None)] * 2


def test_a_fault_is_told_in_the_row() -> None:
    row = trajectory_row(trajectory(Fault(FaultKind.UNREACHABLE, "connection refused")))
    assert row["fault"] == {"kind": "unreachable", "detail": "connection refused"}
    assert row["stop"] == "fault"


def test_columns_that_do_not_fit_the_turns_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"add-3#1: 1 divergence values for 2 turns"):
        trajectory_row(trajectory(), divergence=[0.1])
    with pytest.raises(ValueError, match=r"add-3#1: 3 weight values for 2 turns"):
        trajectory_row(trajectory(), weight=[1.0, 1.0, 1.0])


def test_a_resumed_step_replaces_its_trajectories(run: RunLog) -> None:
    run.write_trajectories(3, [{"task_id": "a"}, {"task_id": "b"}])
    run.write_trajectories(3, [{"task_id": "line\u2028separator\nand newline"}])
    assert run.trajectories(3) == [{"task_id": "line\u2028separator\nand newline"}]


def test_missing_trajectories_say_which_exist(run: RunLog) -> None:
    with pytest.raises(SodError, match="no trajectories of step 4; no step has any"):
        run.trajectories(4)
    run.write_trajectories(10, [])
    run.write_trajectories(2, [])
    with pytest.raises(SodError, match="no trajectories of step 4; steps 2 to 10 have some") as info:
        run.trajectories(4)
    one_line(info)
    assert run.trajectories(2) == []


def test_checkpoints_are_found_by_step(run: RunLog) -> None:
    assert run.checkpoints() == []
    for step in (1_000_000, 20, 3):
        path = run.checkpoint_dir(step)
        assert not path.exists()
        path.mkdir()
    run.checkpoint_dir(4).with_suffix(".tmp").mkdir()  # one being written
    (run.path / "checkpoints" / "step-000005").write_text("a file")
    assert [(step, path.name) for step, path in run.checkpoints()] == [
        (3, "step-000003"),
        (20, "step-000020"),
        (1_000_000, "step-1000000"),
    ]


def test_summary_is_empty_until_written(run: RunLog) -> None:
    assert run.summary() == {}
    run.write_summary({"reward": np.float64(0.5), "best": math.inf})
    assert run.summary() == {"reward": 0.5, "best": None}


def test_the_recipe_file_is_plain_yaml(run: RunLog) -> None:
    text = (run.path / "recipe.yaml").read_text(encoding="utf-8")
    assert "!!" not in text
    assert "kürbis" in text
    assert yaml.safe_load(text) == RECIPE
    assert run.curves_path == run.path / "curves.png"
