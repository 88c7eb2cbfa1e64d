"""Watching a program from outside: its output, its time, how it ended, and killing what is left of it.

Runs in the fork server and on our side (see `fork_server.py`): standard library only.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any, final

from .program import EXIT_ERROR, EXIT_MEMORY

MEMORY_SECONDS = 0.05  # between two looks at what a program's processes hold


@final
class End(Enum):
    """How a program, or a cell of a session, came to its end, and who ended it."""

    DONE = auto()  # itself: the program exited or died of a signal, the cell answered; its exit status says the rest
    DIED = auto()  # itself: the cell's interpreter exited or died; its exit status says the rest
    TIMEOUT = auto()  # we, for the wall clock
    CPU = auto()  # we or the kernel, for the CPU time
    OUTPUT_LIMIT = auto()  # we, for too much on stdout
    MEMORY = auto()  # we or the kernel, for what its processes hold together
    CROWD = auto()  # we: not all of the processes that the cell left running could be killed
    NO_ANSWER = auto()  # we: the cell's interpreter closed its socket, or answered what was not asked, and lived on


@final
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
            self.data = self.data[-4 * self.limit :]  # a character has at most four bytes
        elif len(self.data) > self.limit:
            self.over = len(self.data.decode("utf-8", "replace")) > self.limit
        return bool(chunk) and not self.over


def watch(
    done: Sequence[int],
    outputs: Sequence[Output],
    seconds: float,
    cpu_left: Callable[[], float] = lambda: math.inf,
    over_memory: Callable[[], bool] = lambda: False,
) -> End:
    """Wait until one of `done` (descriptors) is readable or hung up, or a limit is broken; read the outputs meanwhile.

    `DONE`, `TIMEOUT` (`seconds` of wall clock), `CPU` (no `cpu_left`, in seconds of one core), `MEMORY` or
    `OUTPUT_LIMIT`.
    """
    deadline = time.monotonic() + seconds
    look_at_memory = time.monotonic() + MEMORY_SECONDS
    cores = os.cpu_count() or 1
    open_outputs = {output.descriptor: output for output in outputs}
    poller = select.poll()
    for descriptor in (*done, *open_outputs):
        poller.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        cpu = cpu_left()
        if cpu <= 0:
            return End.CPU
        if time.monotonic() >= look_at_memory:
            if over_memory():
                return End.MEMORY
            look_at_memory = time.monotonic() + MEMORY_SECONDS
        # CPU time is not an event to wait for. It cannot be used up sooner than with all cores busy: look again then.
        ready = dict(poller.poll(math.ceil(min(left, cpu / cores, MEMORY_SECONDS) * 1000)))
        for descriptor in open_outputs.keys() & ready.keys():
            if not open_outputs[descriptor].read():
                poller.unregister(descriptor)  # closed by all its writers, or over: it would be ready for ever
        if any(output.over for output in outputs):
            return End.OUTPUT_LIMIT
        if any(descriptor in ready for descriptor in done):
            return End.DONE
    return End.TIMEOUT


def kill_and_reap(pid: int, orphans_are_ours: bool, cpu_seconds: float) -> tuple[int, float]:
    """Kill what is left of a program. Its exit code and CPU time, as `reap` gives them."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ended = reap(pid, cpu_seconds)  # of a pid 1: returns when its whole namespace is dead
    if orphans_are_ours:  # without namespaces, and as subreaper
        kill_children()
    return ended


def reap(pid: int, cpu_seconds: float = math.inf) -> tuple[int, float]:
    """Wait for a child's end: its exit code (negative: a signal) and the CPU time it used (seconds).

    The code is -SIGXCPU where the kernel killed it for its CPU time. It does so with SIGKILL, which others
    may send too: the time used tells them apart. `cpu_seconds` is the limit that we set (seconds); a
    lower one is the program's own doing.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with suppress(OSError):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_CPU)  # a dead process keeps it until it is reaped
        cpu_seconds = min([cpu_seconds, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
    _, status, usage = os.wait4(pid, 0)
    code, used = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
    # Half of the limit is asked for, as the kernel counts ticks, which may run well ahead of measured time.
    if code == -signal.SIGKILL and used >= cpu_seconds / 2:
        code = -signal.SIGXCPU
    return code, used


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


def status_of(end: End, code: int, limits: Mapping[str, Any]) -> tuple[str, int | None, str]:
    """Status and exit code of an execution, and the line that says why where the program did not say it itself.

    `code` is the program's exit code (negative: a signal); it counts where the program ended itself.
    """
    match end:
        case End.DONE | End.DIED:
            return _own_status(code, limits)
        case End.TIMEOUT:
            return "timeout", None, f"stopped after {limits['seconds']:g} s"
        case End.CPU:
            return "timeout", None, f"stopped after {limits['cpu_seconds']} s of CPU time"
        case End.OUTPUT_LIMIT:
            return "output_limit", None, f"more than {limits['output_chars']} characters of output"
        case End.MEMORY:
            return "memory", None, f"more than {limits['memory_mb']} MiB"
        case End.CROWD | End.NO_ANSWER:
            return "error", EXIT_ERROR, ""


def _own_status(code: int, limits: Mapping[str, Any]) -> tuple[str, int | None, str]:
    """As `status_of`, for a program that ended itself with this exit code."""
    if code == EXIT_MEMORY:
        return "memory", None, f"more than {limits['memory_mb']} MiB"
    if code == -signal.SIGXCPU:
        return "timeout", None, "stopped at its own limit of CPU time"
    if code < 0:
        return "error", code, f"process killed by signal {-code}"
    # A status of 1 has as a rule a traceback on stderr, which says more.
    return ("error" if code else "ok"), code, (f"process exited with status {code}" if code > 1 else "")


def with_note(text: bytes, note: str) -> bytes:
    """Text with a last line of ours."""
    if not note:
        return text
    return text + (b"" if text[-1:] in (b"", b"\n") else b"\n") + note.encode() + b"\n"
