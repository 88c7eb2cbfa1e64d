"""What happens in the fork that becomes a program: its limits, then the model's source, then how it ended.

Part of the fork server (see `fork_server.py`): standard library only.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
import types
from contextlib import suppress
from typing import Any

EXIT_ERROR, EXIT_MEMORY = 1, 86
FILENAME = "<program>"


def set_limit(which: int, value: int) -> None:
    """Set a soft and hard limit, never above the present hard limit."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def set_memory_limits(memory_mb: int, mapped: int) -> None:
    """Limit the address space, beyond what the warm process had `mapped` (bytes) already, and the size of each file."""
    set_limit(resource.RLIMIT_AS, mapped + (memory_mb << 20))
    set_limit(resource.RLIMIT_FSIZE, memory_mb << 20)


def seed_random() -> None:
    """Seed the random generators that are imported anew, as every fork would draw the same numbers else."""
    for name in ("random", "numpy.random"):
        if (module := sys.modules.get(name)) is not None:
            module.seed()


def fresh_main() -> dict[str, Any]:
    """The globals of a new, empty `__main__`."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    return module.__dict__


def run_main(source: str) -> int:
    """Run the source as `__main__`, then do what an interpreter does at its end. The exit status."""
    status = 0
    try:
        exec(compile(source, FILENAME, "exec"), fresh_main())
        if (threads := sys.modules.get("threading")) is not None:
            threads._shutdown()  # waits for threads and idle pools
    except BaseException as error:
        status = report(error, source, FILENAME)
    flush()
    return status


def flush() -> None:
    """Write out what is still in the buffers of stdout and stderr, as `os._exit` does not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed or replaced by the program: its own doing
            stream.flush()


def report(error: BaseException, source: str, filename: str) -> int:
    """Print an uncaught exception as Python would; the exit status."""
    if isinstance(error, MemoryError):  # said by the status alone: there may be no memory for a traceback
        return EXIT_MEMORY
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        text = f"{error.code}\n"
    else:
        sys.setrecursionlimit(10_000)  # the program may have set it too low for formatting a traceback
        remember(source, filename)
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without our own
        text = "".join(traceback.format_exception(type(error), error, frames, limit=-20))
    with suppress(Exception):
        sys.stdout.flush()
    os.write(2, text.encode("utf-8", "backslashreplace"))
    return EXIT_ERROR


def remember(source: str, filename: str) -> None:
    """Let tracebacks show the source's lines."""
    sys.modules["linecache"].cache[filename] = (len(source), None, source.splitlines(True), filename)
