"""Stands between a run and one server of it, so that no end of the run leaves the server behind.

A program of its own that imports nothing of ours; its arguments are SECONDS and the command of the server. Its
standard input is a pipe whose other end the run alone holds. When that end is closed, by the run or because the run is
gone however it ended, the server gets SIGTERM and, after SECONDS, whatever it started gets SIGKILL: a subreaper stands
above processes in sessions of their own too. When the server ends by itself, what it left behind is killed, and the
keeper ends with its exit code (128 + N for signal N). A server whose keeper is killed is killed by the kernel.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOK_SECONDS = 0.25
"""How often it is looked whether the server or the run has ended, where no pipe tells."""
NOT_STARTED = 127
_libc = ctypes.CDLL(None, use_errno=True)


def main(seconds: float, command: list[str]) -> int:
    """Keep the server until it ends or the run does. The exit code."""
    run = os.getppid()
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = _started(command)
    for number in (signal.SIGTERM, signal.SIGINT):  # not before: the server would have them until it is itself
        signal.signal(number, _close_input)
    code = None
    while code is None and os.getppid() == run and not _closed(LOOK_SECONDS):
        code = _reaped(server)
    if code is None:
        code = _stopped(server, seconds)
    _kill_the_rest()
    return code


def _close_input(number: int = 0, frame: FrameType | None = None) -> None:
    """A keeper that is asked to end does what it does when its run ends."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _started(command: list[str]) -> int:
    """The process of the server: it reads nothing, and it dies with this one."""
    keeper = os.getpid()
    server = os.fork()
    if server:
        return server
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == keeper:
            _close_input()
            os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(NOT_STARTED)


def _closed(seconds: float) -> bool:
    """Whether the run's end of the pipe is closed, which is waited for so long."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 4096)


def _reaped(server: int) -> int | None:
    """The exit code of the server where it has ended; orphans that came to us and have ended are reaped beside it."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == server:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if not pid:
                break
    return None


def _stopped(server: int, seconds: float) -> int:
    """Ask the server to end, and wait for it so long. Its exit code, or that of what is killed."""
    with suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        code = _reaped(server)
        if code is not None:
            return code
        time.sleep(0.02)
    return 128 + signal.SIGKILL


def _kill_the_rest() -> None:
    """Kill and reap every child, also those that come to us when their parent is killed."""
    while True:
        with open("/proc/thread-self/children") as file:
            children = [int(pid) for pid in file.read().split()]
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
