"""Processes that are spoken to by lines over their pipes: a line is waited for only so long, and an end leaves nothing
behind.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from typing import IO, final

_CHUNK = 1 << 16


@final
class Replies:
    """The lines that come out of a pipe. Nothing else may read from it, and no two threads at a time."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._buffer = b""

    def line(self, seconds: float) -> bytes:
        """The next line, without its end.

        Raises TimeoutError where it is not there within `seconds`, EOFError where the pipe was closed before it ended.
        """
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no reply within {seconds:g} s")
                chunk = os.read(self._pipe.fileno(), _CHUNK)
                if not chunk:
                    raise EOFError("the pipe is closed")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, wait for its end and close its pipes. Safe to call twice."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what was not yet sent needs no reader now
                pipe.close()
