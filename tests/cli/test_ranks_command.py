"""`sod train` and `sod sft` over two processes: what they print and leave, killed, stopped and resumed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from distributed.started import finished
from distributed.started import start as started_as_ranks
from sod.runlog import RunLog
from sod.training.checkpoint import verify
from support import descendants

pytestmark = pytest.mark.slow

TWO = "parallel.shards=2"
SETTINGS = ("train.steps=4", "train.checkpoint_every=1", "threads=1")


def weights(run: Path) -> dict[str, Any]:
    """The weights of a run's newest checkpoint."""
    (_, newest) = RunLog.open(run).checkpoints()[-1]
    verify(newest)
    return load_file(newest / "model" / "model.safetensors")


def apart(one: Path, other: Path) -> float:
    """The largest distance between the weights of two runs."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of the ranks that a command has started, in order."""
    found = []
    for pid in descendants(process.pid):
        try:
            given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        number = next((entry[5:] for entry in given if entry.startswith(b"RANK=")), None)
        if number is not None and b"\0sod\0" in command:
            found.append((int(number), pid))
    return [pid for _, pid in sorted(found)]


def test_two_ranks_train_as_one_process_does(recipe: Path, sod: Any, start: Any, tmp_path: Path) -> None:
    """The same episodes are played, and the weights are the same up to rounding; a model is left that one can load."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    process = start("train", recipe, *SETTINGS, TWO, "--run", both)
    ended = sod("train", recipe, *SETTINGS, "--run", alone)
    assert ended.code == 0, ended.err
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert out.count("sod finished") == 1
    assert "Traceback" not in err
    assert apart(alone, both) < 1e-4
    rows, ours = RunLog.open(alone).metrics(), RunLog.open(both).metrics()
    assert [row["step"] for row in ours] == [1, 2, 3, 4]
    for one, two in zip(rows, ours, strict=True):
        assert two["reward"] == one["reward"]
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["train_inference_gap"] < 1e-4


def test_a_lost_rank_ends_the_run_in_one_line(recipe: Path, start: Any, wait: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("train", recipe, *SETTINGS, "train.steps=200", TWO, "--run", run)
    wait(lambda: RunLog.is_at(run) and len(RunLog.open(run).checkpoints()) >= 1, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert [line for line in err.splitlines() if line.startswith("error")] == [
        "error: rank 1 was lost (SIGKILL), and the others were stopped; go on from the newest checkpoint with "
        f"--resume {run}"
    ]
    assert "Traceback" not in err
    assert ranks_of(process) == []


def test_no_rank_outlives_the_command(recipe: Path, start: Any, wait: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("train", recipe, *SETTINGS, "train.steps=200", TWO, "--run", run)
    wait(lambda: RunLog.is_at(run), process)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    process.wait()
    limit = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_stopped_run_ends_after_its_step_and_goes_on_in_one_process(
    recipe: Path, sod: Any, start: Any, wait: Any, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = ("train.steps=8", "train.checkpoint_every=100", "threads=1")
    process = start("train", recipe, *settings, TWO, "--run", run)
    wait(lambda: RunLog.is_at(run) and len(RunLog.open(run).metrics()) >= 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 143
    assert len(re.findall(r"error: stopped after step \d of 8; go on with --resume", err)) == 1
    assert sod("train", "--resume", run, "parallel.shards=1").code == 0
    assert sod("train", recipe, *settings, "--run", whole).code == 0
    assert apart(run, whole) < 1e-4


def test_two_ranks_fine_tune_as_one_process_does(recipe: Path, sod: Any, start: Any, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    settings = ("sft.steps=4", "sft.checkpoint_every=2", "threads=1")
    process = start("sft", recipe, *settings, TWO, "--run", both)
    assert sod("sft", recipe, *settings, "--run", alone).code == 0
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert apart(alone, both) < 1e-4
    losses = [[row["loss"] for row in RunLog.open(run).metrics()] for run in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_ranks_that_share_rows_train_and_fine_tune_as_one_process_does(
    recipe: Path, sod: Any, start: Any, tmp_path: Path
) -> None:
    """Two ranks, one team: everything they learn from is of rows that are cut."""
    team = (TWO, "parallel.sequence=2", "threads=1")
    for command, settings in (("train", ("train.steps=2",)), ("sft", ("sft.steps=2",))):
        alone, both = tmp_path / f"{command}-alone", tmp_path / f"{command}-both"
        process = start(command, recipe, *settings, *team, "--run", both)
        assert sod(command, recipe, *settings, "threads=1", "--run", alone).code == 0
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        assert apart(alone, both) < 1e-4
        losses = [[row["loss"] for row in RunLog.open(run).metrics()] for run in (alone, both)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_ranks_that_cannot_be_grouped_are_not_started(more: Sequence[str], recipe: Path, sod: Any) -> None:
    ended = sod("train", recipe, TWO, "parallel.sequence=3", *more)
    assert ended.code == 1
    assert " ".join(ended.err.split()) == (
        "error: parallel.sequence=3 does not divide the number of processes, 2; set parallel.shards=3, or "
        "parallel.sequence to one of 1, 2"
    )


def test_ranks_that_disagree_say_so_once(recipe: Path, tmp_path: Path) -> None:
    """As torchrun would start them, on two machines with other keys."""
    commands: Sequence[Sequence[str]] = [
        ["-m", "sod", "train", str(recipe), f"optim.lr={lr}", "--run", str(tmp_path / "run")] for lr in ("1e-3", "2e-3")
    ]
    (code, err), (other, nothing) = finished(started_as_ranks(commands))
    assert (code, other) == (1, 1)
    assert re.search(r"error: rank 1 has another recipe than rank 0 \(\w{12} and \w{12}\); start all", err)
    assert "error" not in nothing
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_a_machine_can_have_are_not_started(recipe: Path, sod: Any) -> None:
    for more in ((), ("--dry-run",)):
        ended = sod("train", recipe, "parallel.shards=4000", *more)
        assert ended.code == 1
        assert "error: parallel.shards=4000: each is a process with a model of its own, and there are" in " ".join(
            ended.err.split()
        )


def test_ranks_that_read_other_weights_by_the_same_path_say_so_once(recipe: Path, tmp_path: Path) -> None:
    """As on two machines with disks of their own."""
    trained = Path(yaml.safe_load(recipe.read_text())["student"]["path"])
    begin = "import os, sys; os.chdir(sys.argv.pop(1)); from sod.cli.main import main; main()"
    commands: list[Sequence[str]] = []
    for name in ("one", "other"):
        shutil.copytree(trained, tmp_path / name / "model")
        command = ["train", str(recipe), "student.path=model", "--run", str(tmp_path / "run")]
        commands.append(["-c", begin, str(tmp_path / name), *command])
    for file in (tmp_path / "other").rglob("model.safetensors"):
        save_file({name: weight * 1.1 for name, weight in load_file(file).items()}, file, {"format": "pt"})
    (code, err), (other, nothing) = finished(started_as_ranks(commands))
    assert (code, other) == (1, 1), nothing
    assert re.search(r"error: rank 1 has another model at student.path than rank 0 \(\w{12} and \w{12}\); start", err)
    assert "error" not in nothing
