"""Processes as /proc shows them, for tests that wait for a state of theirs and not for a time to have passed."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sod.tools.sandbox.local import LocalSandbox

PATIENT = 60.0  # seconds: a time limit that no test meets on a busy machine, unless it is about time limits


def children(pid: int) -> list[int]:
    """The children of a process's main thread; none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def mine() -> list[int]:
    """Our children, whichever thread started them."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return [int(pid) for pids in lists for pid in pids]


def programs(local: LocalSandbox) -> list[int]:
    """The forks that run programs, or are sessions, at this moment: children of the children of what we started."""
    roots = set(local.processes()) & set(mine())
    servers = [server for root in roots for server in children(root)]
    return [program for server in servers for program in children(server)]


def alive(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], within: float = PATIENT) -> bool:
    """Whether it comes true in so many seconds; returns as soon as it does."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def gone(pids: Sequence[int]) -> bool:
    """Whether all of them come to their end."""
    return eventually(lambda: not any(alive(pid) for pid in pids))


def kill(pids: Sequence[int]) -> None:
    """With SIGKILL, those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def new_marker() -> str:
    """An argument for `sleep` that no other process of this machine has: more than a day, in seconds."""
    return f"{100_000 + uuid.uuid4().int % 10**8}.5"


def sleepers(marker: str) -> list[int]:
    """The `sleep` processes with this argument."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.read_bytes() == f"sleep\0{marker}\0".encode():
                found.append(int(entry.parent.name))
    return found
