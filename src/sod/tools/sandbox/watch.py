"""Watching a program from outside: its output, its time, its end, and what is left of it.

Part of the zygote (see `zygote.py`): standard library only.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .program import EXIT_MEMORY


class Output:
    """Bytes read from a program: all of stdout up to its limit, or the tail of stderr."""

    def __init__(self, descriptor: int, limit: int, tail: bool) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.limit = limit  # characters
        self.tail = tail
        self.data = b""
        self.over = False

    def read(self) -> bool:
        """Take what is there, at most 64 KiB; whether more may come."""
        try:
            chunk = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return False
        self.data += chunk
        if self.tail:
            self.data = self.data[-4 * self.limit :]
        elif len(self.data) > self.limit:
            self.over = len(self.data.decode("utf-8", "replace")) > self.limit
        return bool(chunk) and not self.over


def watch(
    done: Sequence[int], outputs: Sequence[Output], seconds: float, cpu_left: Callable[[], float] = lambda: math.inf
) -> str:
    """Wait until one of `done` (descriptors) is readable or hung up, or a limit is broken.

    Says which: `done`, `timeout`, `cpu` (no `cpu_left`, in seconds of one core) or `output_limit`.
    """
    deadline = time.monotonic() + seconds
    cores = os.cpu_count() or 1
    open_outputs = {output.descriptor: output for output in outputs}
    poller = select.poll()
    for descriptor in (*done, *open_outputs):
        poller.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if (cpu := cpu_left()) <= 0:
            return "cpu"
        ready = dict(poller.poll(math.ceil(min(left, cpu / cores) * 1000)))
        for descriptor in open_outputs.keys() & ready.keys():
            if not open_outputs[descriptor].read():
                poller.unregister(descriptor)
        if any(output.over for output in outputs):
            return "output_limit"
        if any(descriptor in ready for descriptor in done):
            return "done"
    return "timeout"


def end(pid: int, orphans_are_ours: bool) -> tuple[int, float]:
    """Kill what is left of a program. Its wait status and the CPU time it used (seconds)."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)  # of a pid 1: returns when its whole namespace is dead
    if orphans_are_ours:  # without namespaces, and as subreaper
        kill_children()
    return status, usage.ru_utime + usage.ru_stime


def kill_children(but: Collection[int] = ()) -> None:
    """Kill and reap this process's children; where it is a subreaper, whatever they leave behind too."""
    while True:
        with open("/proc/thread-self/children") as file:
            children = [pid for pid in map(int, file.read().split()) if pid not in but]
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not children:
            return


def verdict(limits: Mapping[str, Any], seen: str, code: int) -> tuple[str, int | None, str]:
    """Status and exit code of an execution, and the line that says why where the program did not."""
    if seen == "output_limit":
        return seen, None, f"more than {limits['output_chars']} characters of output"
    if seen == "timeout":
        return seen, None, f"stopped after {limits['seconds']:g} s"
    if seen == "cpu":
        return "timeout", None, f"stopped after {limits['cpu_seconds']} s of CPU time"
    if code == EXIT_MEMORY:
        return "memory", None, f"more than {limits['memory_mb']} MiB"
    if code < 0:
        return "error", code, f"process killed by signal {-code}"
    return ("error" if code else "ok"), code, (f"process exited with status {code}" if code > 1 else "")


def with_note(text: bytes, note: str) -> bytes:
    """Text with a last line of ours."""
    if not note:
        return text
    return text + (b"" if text[-1:] in (b"", b"\n") else b"\n") + note.encode() + b"\n"
