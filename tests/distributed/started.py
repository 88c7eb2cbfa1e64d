"""Processes that meet as the ranks of a run, over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CASES = Path(__file__).with_name("cases.py")
SECONDS = 900  # for a busy machine; a rank that waits for ever must not hold the tests up


def free_port() -> int:
    """A port that nobody listens on, at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments(count: int) -> list[dict[str, str]]:
    """What a launcher gives each of so many processes."""
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
        "SOD_ALLOCATOR": "off",
        "PYTHONPATH": os.pathsep.join([str(CASES.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    return [common | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]


def start(commands: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Start each of the commands, arguments of Python, as a rank of one run."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    given = zip(commands, environments(len(commands)), strict=True)
    return [subprocess.Popen([sys.executable, *command], env=env, **pipes) for command, env in given]


def finished(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of each, in order."""
    try:
        said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def on_ranks(count: int, case: str, directory: Path, *arguments: str, cases: Path = CASES) -> dict[str, Any]:
    """What a case of `cases.py`, or of another such file, gives on so many ranks."""
    ended = finished(start([[str(cases), case, str(directory), *arguments]] * count))
    assert [code for code, _ in ended] == [0] * count, "\n".join(text for _, text in ended)
    found: dict[str, Any] = torch.load(directory / f"{case}-{count}.pt", weights_only=False)
    return found
