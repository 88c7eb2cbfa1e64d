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

from sod.records import SodError
from sod.runlog import NEUTRAL_KEYS, RunLog, guard_hash, recipe_hash, write_json_atomic

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
    assert manifest["format"] == 2
    assert manifest["recipe_sha256"] == guard_hash(RECIPE) == run.recipe_sha256()
    assert manifest["neutral_keys"] == list(NEUTRAL_KEYS)
    assert set(manifest["versions"]) == {"python", "torch", "transformers", "numpy", "sod"}
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["started"])
    # A closed list: no host, no user, no directory.
    known = {"format", "started", "argv", "seed", "recipe_sha256", "neutral_keys", "git", "versions"}
    assert set(manifest) == known


def test_the_hash_follows_the_format_that_the_run_was_written_in(run: RunLog) -> None:
    """Format 1 covers the whole recipe; format 2 leaves out the keys that its own manifest lists, not today's."""
    manifest = run.manifest()
    write_json_atomic(run.path / "manifest.json", {**manifest, "neutral_keys": ["tools"]})
    assert run.recipe_sha256() == recipe_hash({key: value for key, value in RECIPE.items() if key != "tools"})
    del manifest["format"], manifest["neutral_keys"]
    write_json_atomic(run.path / "manifest.json", manifest)
    assert run.recipe_sha256() == recipe_hash(RECIPE) != guard_hash(RECIPE)


@pytest.mark.parametrize("version", [3, "2", None])
def test_a_run_of_a_later_version_is_one_line(run: RunLog, version: Any) -> None:
    write_json_atomic(run.path / "manifest.json", run.manifest() | {"format": version})
    with pytest.raises(SodError, match=r"run format .* later version of sod") as info:
        run.recipe_sha256()
    assert str(run.path) in one_line(info)


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


def test_keys_of_older_runs_come_back_under_todays_names(run: RunLog) -> None:
    older = {"d_first": 0.1, "d_last": 0.2, "sampler_gap": 0.3, "seconds/judge": 0.4, "seconds/tools": 0.5}
    run.log({"step": 1, **older})
    assert run.metrics() == [
        {
            "step": 1,
            "kind": "train",
            "turn_gap_first": 0.1,
            "turn_gap_last": 0.2,
            "train_inference_gap": 0.3,
            "seconds/reward": 0.4,
            "seconds/tools": 0.5,
        }
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


def test_rewind_leaves_one_whole_line_per_step(run: RunLog) -> None:
    """Rows to be played again, replayed ones of older resumes and cut lines go; the others stay byte for byte."""
    kept = [
        '{"step":1,  "loss": 1.50}',
        '{"step": 1, "kind": "probe"}',
        '{"step": 2, "loss": 2}',
        '{"kind":"sft","step":3}',
    ]
    later = ['{"step": 4, "loss": 9}', '{"step": 5, "kind": "probe"}', '{"step": 6, "lo']
    older = ['{"step": 2, "loss": 7}', '{"step": 3, "lo', ""]
    file = run.path / "metrics.jsonl"
    file.write_text("\n".join([*older, *kept, *later]))
    for _ in ("the first time", "again"):
        if "lo\n" in file.read_text():
            with pytest.warns(UserWarning, match="cut line"):
                run.rewind(3)
        else:
            run.rewind(3)
        assert file.read_text() == "".join(line + "\n" for line in kept)
    run.rewind(0)
    assert file.read_text() == ""
    assert run.metrics() == []


def test_rewind_without_anything_to_take_out_writes_nothing(run: RunLog) -> None:
    run.rewind(3)
    assert not (run.path / "metrics.jsonl").exists()
    run.log({"step": 1})
    before = (run.path / "metrics.jsonl").stat()
    run.rewind(1)
    after = (run.path / "metrics.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("begin", [False, True], ids=["resumed", "new"])
def test_what_a_kill_left_half_written_is_removed(begin: bool, tmp_path: Path) -> None:
    """By whoever starts or goes on there; what only looks a little like it stays."""
    path = tmp_path / "run"
    if not begin:
        RunLog.create(path, {}, 0)
    strays = (".manifest.json.17.tmp", "trajectories/.step-000001.jsonl.17.tmp", "checkpoints/.step-000002.partial/a/b")
    others = ("notes.tmp", ".hidden", "checkpoints/step-000001.aside/a", "dumps/.x.tmp")
    for name in (*strays, *others):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("half")
    if begin:
        RunLog.create(path, {}, 0)
    else:
        RunLog.open(path).rewind(0)
    assert [name for name in strays if (path / name).exists()] == []
    assert [name for name in others if not (path / name).exists()] == []
    assert list((path / "checkpoints").glob(".*")) == []


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


# --- trajectories, checkpoints, summary --------------------------------------------------------------


def test_a_resumed_step_replaces_its_trajectories(run: RunLog) -> None:
    run.write_trajectories(3, [{"task_id": "a"}, {"task_id": "b"}])
    run.write_trajectories(3, [{"task_id": "line\u2028separator\nand newline"}])
    assert [row["task_id"] for row in run.trajectories(3)] == ["line\u2028separator\nand newline"]


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
