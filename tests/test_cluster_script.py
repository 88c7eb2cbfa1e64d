"""The SLURM script of `docs/scale.md`: bash runs it with commands of the cluster that only write down what they got."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import ROOT
from sod.recipe import load_recipe

CLUSTER = """
trap wait EXIT
scontrol() { printf 'n%d\\n' 0 1 2 3; }
srun() { printf '%s\\0' "$@" END >> "calls-$BASHPID"; }
"""


STEPS = """
scontrol() { printf 'n%d\\n' 0 1 2 3; }
srun() {
  local kind=server
  [[ "$*" == *torchrun* ]] && kind=ranks
  trap 'touch told-$kind; sleep 0.2; exit 7' TERM
  touch up-$BASHPID
  for _ in {1..600}; do sleep 0.1; done
}
"""
"""As `CLUSTER`, but what is started runs on, tells of SIGTERM, and takes a moment to end."""


def started(directory: Path, cluster: str) -> subprocess.Popen[bytes]:
    """The script, in a session of its own."""
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    set_by_slurm = {
        "SLURM_JOB_NODELIST": "n[0-3]",
        "SLURM_JOB_NAME": "sod",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "64",
        "PATH": "/usr/bin:/bin",
    }
    text = cluster + script.replace("/shared", str(directory))
    return subprocess.Popen(["bash", "-c", text], cwd=directory, env=set_by_slurm, start_new_session=True)


def calls(directory: Path) -> list[list[str]]:
    """The arguments of each `srun` of the script, as bash expands them in a directory."""
    assert started(directory, CLUSTER).wait(60) == 0
    return [file.read_text("utf-8").split("\0")[:-2] for file in sorted(directory.glob("calls-*"))]


def ranks(directory: Path) -> list[str]:
    """What torchrun is given."""
    (call,) = [call for call in calls(directory) if "torchrun" in call]
    return call[call.index("torchrun") + 1 :]


def command_of(given: list[str]) -> list[str]:
    """What torchrun starts, read by its own parser."""
    from torch.distributed.run import parse_args

    read: Any = parse_args(given)
    assert (read.nnodes, read.nproc_per_node, read.rdzv_endpoint) == ("2", "8", "n0:29500")
    assert read.module
    assert read.training_script == "sod"
    return list(read.training_script_args)


def test_torchrun_takes_the_command_and_the_recipe_its_keys(tmp_path: Path) -> None:
    """Whatever teacher the recipe names: the keys are those of the one that the job serves."""
    command = command_of(ranks(tmp_path))
    assert command[:4] == ["train", "recipe.yaml", "--run", f"{tmp_path}/runs/sod"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"train": "d"}, "method": "sod"}),
        "utf-8",
    )
    read = load_recipe(recipe, command[4:])
    assert read.engine.urls == [f"http://n2:{port}" for port in range(8000, 8008)]
    assert read.teacher is not None
    assert (read.teacher.path, read.teacher.url) == (None, "http://n3:8100/v1")


def test_a_requeued_job_goes_on_with_its_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "sod"
    run.mkdir(parents=True)
    (run / "manifest.json").touch()
    assert command_of(ranks(tmp_path))[:3] == ["train", "--resume", str(run)]


@pytest.mark.parametrize("host", ["n2", "n3"])
def test_servers_start_beside_the_ranks(host: str, tmp_path: Path) -> None:
    (call,) = [call for call in calls(tmp_path) if call[call.index("-w") + 1] == host]
    assert any("vllm serve" in word or word == "serve" for word in call)
    assert "24576" in " ".join(call)


def test_a_signal_of_the_scheduler_reaches_the_ranks_alone(tmp_path: Path) -> None:
    """They finish a step, for which they need the servers, and the job ends with their exit code."""
    script = started(tmp_path, STEPS)
    try:
        limit = time.monotonic() + 60.0
        while len(list(tmp_path.glob("up-*"))) < 3:
            assert time.monotonic() < limit
            time.sleep(0.02)
        script.terminate()
        assert script.wait(60) == 7
        assert [file.name for file in tmp_path.glob("told-*")] == ["told-ranks"]
    finally:
        os.killpg(script.pid, signal.SIGKILL)
