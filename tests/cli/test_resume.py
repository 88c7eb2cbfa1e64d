"""A killed, interrupted or terminated run, resumed, ends exactly as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.runlog import RunLog, differences
from sod.training import checkpoint
from support import descendants

TRAIN = ("train.steps=14", "train.checkpoint_every=3", "train.evaluate_every=7")
SFT = ("sft.steps=48", "sft.checkpoint_every=4")
SHORT = ("train.steps=8", "train.checkpoint_every=3")
BFLOAT16 = ("student.dtype=bfloat16", "teacher.dtype=bfloat16")
WEIGHTS = "model/model.safetensors"
ADAPTER = ("student.lora={rank: 4, dropout: 0.2}",)
BESIDE = ("rollout.max_staleness=1",)
TIMINGS = ("seconds", "tokens_per_second")


def untimed(value: Any) -> Any:
    """`value` without anything that depends on the clock."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not k.startswith(TIMINGS)}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Equal in structure and equal bit for bit in every tensor."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{number}")
    else:
        assert one == other, where


def assert_same_run(path: Path, reference: Path) -> None:
    """Same metrics and trajectories except timings, same checkpoints with the same weights and optimizer."""
    mine, theirs = RunLog.open(path), RunLog.open(reference)
    assert untimed(mine.metrics()) == untimed(theirs.metrics())
    for file in sorted((reference / "trajectories").glob("*.jsonl")):
        step = int(file.stem.removeprefix("step-"))
        assert untimed(mine.trajectories(step)) == untimed(theirs.trajectories(step))
    assert [step for step, _ in mine.checkpoints()] == [step for step, _ in theirs.checkpoints()]
    for (_, ours), (_, other) in zip(mine.checkpoints(), theirs.checkpoints(), strict=True):
        checkpoint.verify(ours)
        weights = sorted(file.relative_to(other) for file in other.glob("model/*.safetensors"))
        assert len(weights) == 1
        assert (ours / weights[0]).read_bytes() == (other / weights[0]).read_bytes()
        states = [torch.load(d / checkpoint.TRAINER, weights_only=True) for d in (ours, other)]
        # Torch's own generator is not seeded, and nothing draws from it: all noise is keyed.
        assert_same(*({key: state[key] for key in ("format", "step", "recipe_hash", "state")} for state in states))


def wait_for_rows(process: Any, run: Path, wait: Any, rows: int, delay: float) -> None:
    """Until `delay` seconds after the process has finished `rows` more steps."""
    first = lines(run)
    wait(lambda: lines(run) >= first + rows, process)
    time.sleep(delay)


def wait_for_partial_checkpoint(process: Any, run: Path, wait: Any) -> None:
    """Until a checkpoint is being written: its partial directory exists."""
    wait(lambda: any((run / "checkpoints").glob(".*.partial")), process)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def steps_written(run: Path) -> list[int]:
    """The step of every line of metrics.jsonl, of which each must be a whole row."""
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_gone(workers: list[int], expected: bool) -> None:
    """No sandbox process outlives the trainer that was killed."""
    assert bool(workers) == expected
    limit = time.monotonic() + 120
    while any(map(alive, workers)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not [pid for pid in workers if alive(pid)]


@pytest.mark.parametrize(
    ("command", "changes", "kills"),
    [
        pytest.param("train", TRAIN, 2, marks=pytest.mark.slow, id="train"),
        pytest.param("sft", SFT, 1, id="sft"),
        pytest.param("train", (*SHORT, *BFLOAT16), 1, marks=pytest.mark.slow, id="train-bfloat16"),
        pytest.param("train", (*SHORT, *ADAPTER), 1, marks=pytest.mark.slow, id="train-adapter"),
        pytest.param("train", (*SHORT, *BESIDE), 1, marks=pytest.mark.slow, id="train-beside"),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    command: str, changes: tuple[str, ...], kills: int, recipe: Path, tmp_path: Path, sod: Any, start: Any, wait: Any
) -> None:
    """kill -9 at random moments, the last one inside a checkpoint write, costs nothing but time.

    Nor does it leave a sandbox process behind.
    """
    reference, run = tmp_path / "reference", tmp_path / "killed"
    assert sod(command, recipe, *changes, "--run", reference).code == 0
    rng = random.Random(f"{command}{kills}")
    arguments: tuple[Any, ...] = (command, recipe, *changes, "--run", run)
    for number in range(kills):
        process = start(*arguments)
        if number == kills - 1:
            wait_for_partial_checkpoint(process, run, wait)
        else:
            wait_for_rows(process, run, wait, rng.randint(1, 3), rng.uniform(0.0, 0.1))
        workers = descendants(process.pid)
        process.kill()
        assert process.wait(120) == -signal.SIGKILL
        assert_gone(workers, expected=command == "train")
        assert lines(run) < RunLog.open(reference).metrics()[-1]["step"] * (number + 1)
        arguments = (command, "--resume", run)
    resumed = sod(*arguments)
    assert resumed.code == 0, resumed.err
    assert_same_run(run, reference)
    # As `jq` would read it: each step once, in order.
    assert steps_written(run) == list(range(1, len(RunLog.open(reference).metrics()) + 1))
    assert not [path for path in run.rglob(".*") if path.suffix in (".tmp", ".partial", ".lock")]


STOP = ("train.steps=10", "train.checkpoint_every=5")


@pytest.fixture(scope="module")
def stop_reference(world: Any, sod: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    directory = tmp_path_factory.mktemp("stop")
    assert sod("train", world.recipe(directory), *STOP, "--run", directory / "run").code == 0
    return directory / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_stop_signal_leaves_a_checkpoint_to_go_on_from(
    number: int, code: int, recipe: Path, tmp_path: Path, sod: Any, start: Any, wait: Any, stop_reference: Path
) -> None:
    """Ctrl-C (to the whole process group, as a terminal sends it) and SIGTERM finish the step, save and say so."""
    run = tmp_path / "stopped"
    process = start("train", recipe, *STOP, "--run", run)
    wait(lambda: lines(run) >= 2, process)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert len(err.strip().splitlines()) == 1, err
    log = RunLog.open(run)
    finished = log.metrics()[-1]["step"]
    assert f"stopped after step {finished} of 10" in err
    assert str(run) in err
    newest, directory = log.checkpoints()[-1]
    assert newest == finished == checkpoint.verify(directory)
    assert sod("train", "--resume", run).code == 0
    assert_same_run(run, stop_reference)


def test_resuming_a_finished_run_changes_nothing(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """Nothing is left to do: exit code 0, metrics and checkpoints as they were."""
    run = tmp_path / "run"
    assert sod("train", recipe, "--run", run).code == 0
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "curves.png"}
    again = sod("train", "--resume", run)
    assert (again.code, again.err.strip()) == (0, "")
    assert "finished" in again.out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "curves.png"} == before


def test_repeated_run_is_identical(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """The same recipe twice gives the same metrics, episodes and weights."""
    for name in ("one", "two"):
        assert sod("train", recipe, "train.steps=4", "--run", tmp_path / name).code == 0
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_another_seed_is_another_run(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """The comparison above can fail: another seed gives other episodes and other weights."""
    for name, seed in (("one", 1), ("two", 2)):
        assert sod("train", recipe, "train.steps=2", f"seed={seed}", "--run", tmp_path / name).code == 0
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_resume_ignores_a_cut_metrics_line(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """A row cut by a kill is taken out, and the replayed step stands in its place."""
    run, changes = tmp_path / "run", ("train.steps=4", "train.checkpoint_every=2")
    assert sod("train", recipe, *changes, "--run", run).code == 0
    shutil.copytree(run, tmp_path / "reference")
    rows = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(rows[:2]) + rows[2][: len(rows[2]) // 2])
    _, last = RunLog.open(run).checkpoints()[-1]
    last.rename(last.with_name(last.name + ".away"))
    with pytest.warns(UserWarning, match="cut line"):
        assert sod("train", "--resume", run).code == 0
    assert steps_written(run) == [1, 2, 3, 4]
    assert_same_run(run, tmp_path / "reference")
    assert json.loads((run / "manifest.json").read_text())["seed"] == 7


def test_recomputation_changes_no_weight(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """`optim.recompute` trades time for memory and nothing else: the same weights, bit for bit."""
    for name, value in (("kept", "false"), ("recomputed", "true")):
        changes = ("train.steps=2", f"optim.recompute={value}")
        assert sod("train", recipe, *changes, "--run", tmp_path / name).code == 0
    kept, recomputed = (
        (tmp_path / name / "checkpoints" / "step-000002" / WEIGHTS).read_bytes() for name in ("kept", "recomputed")
    )
    assert kept == recomputed


@pytest.mark.slow
def test_neutral_keys_change_no_weight(recipe: Path, tmp_path: Path, sod: Any) -> None:
    """Keys that a resume may set anew (all but labels, paths and threads): the same weights, bit for bit."""
    changed = (
        *("train.checkpoint_every=2", "train.keep_checkpoints=1", "train.evaluate_every=1", "evaluation.tasks=2"),
        *("train.trajectories_every=0", "train.profile=true", "optim.recompute=true"),
        *("rollout.fault_retries=0", "rollout.max_fault_rate=0.9", "rollout.fault_window=7"),
        *("reward.workers=1", "tools.python.workers=1"),
    )
    recipes = {"plain": (), "changed": changed}
    for name, changes in recipes.items():
        ended = sod("train", recipe, "train.steps=2", "evaluation.tasks=2", *changes, "--run", tmp_path / name)
        assert ended.code == 0, ended.err
    runs = [RunLog.open(tmp_path / name) for name in recipes]
    one, other = ((run.checkpoint_dir(2) / WEIGHTS).read_bytes() for run in runs)
    assert one == other
    assert runs[0].recipe_sha256() == runs[1].recipe_sha256()
    assert differences(runs[0].recipe(), runs[1].recipe()) == []
    assert runs[0].recipe() != runs[1].recipe()
