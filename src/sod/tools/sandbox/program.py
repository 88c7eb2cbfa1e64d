"""What happens in the fork that becomes a program: its limits, then the model's source, then how it ended.

Part of the fork server (see `fork_server.py`): standard library only.
"""

from __future__ import annotations

import builtins
import gc
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


def add_site_builtins() -> None:
    """Give programs what the interpreter adds where it runs a file: exit, quit, help, copyright, credits, license."""
    import site  # without preloaded modules the interpreter runs with -S: the module is there, and has done nothing

    site.setquit()
    site.setcopyright()
    site.sethelper()


def fresh_main(file: str | None = None) -> dict[str, Any]:
    """The globals of a new, empty `__main__`; `file` is its `__file__`, where it is to have one."""
    module = types.ModuleType("__main__")
    names = module.__dict__
    names.update(__builtins__=builtins, __annotations__={})
    if file is not None:
        names["__file__"] = file
    sys.modules["__main__"] = module
    return names


def compiled(source: str, filename: str) -> types.CodeType:
    """The source's code. Our own `from __future__` imports are not passed on to it. Raises what `compile` raises."""
    return compile(source, filename, "exec", dont_inherit=True)


def run_main(source: str) -> int:
    """Run the source as `__main__`, then do what an interpreter does at its end. The exit status."""
    status = 0
    names = fresh_main(os.path.join(os.getcwd(), sys.argv[0]))
    remember(source, FILENAME)
    try:
        exec(compiled(source, FILENAME), names)
    except BaseException as error:
        status = report(error, source, FILENAME)
    return finish(status, names)


def finish(status: int, names: dict[str, Any]) -> int:
    """What an interpreter does at its end, however the program ended: the exit status, as given where all goes well.

    It waits for threads and idle pools, calls what was registered with `atexit`, and drops the
    globals: so files that were left open are written out. The process still has to exit.
    """
    try:
        if (threads := sys.modules.get("threading")) is not None:
            threads._shutdown()
        if (functions := sys.modules.get("atexit")) is not None:
            functions._run_exitfuncs()
        for name in [*filter(_is_private, names), *names]:
            if name != "__builtins__":
                names[name] = None
        # A whole collection empties the free lists too, and so copies pages; most programs have nothing so old.
        gc.collect(2 if gc.get_objects(generation=2) else 1)
    except MemoryError:
        status = EXIT_MEMORY
    except BaseException:  # an interrupt, or a module that the program broke: its status stands
        pass
    flush()
    return status


def _is_private(name: object) -> bool:
    """Whether an interpreter drops this global before the others."""
    return isinstance(name, str) and name.startswith("_")


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
    elif sys.excepthook is not sys.__excepthook__:  # the program's own
        return _report_by_hook(error)
    else:
        sys.setrecursionlimit(10_000)  # the program may have set it too low for formatting a traceback
        remember(source, filename)  # once more: it may have cleared the cache
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without our own
        text = "".join(traceback.format_exception(type(error), error, frames, limit=-20))
    with suppress(Exception):
        sys.stdout.flush()
    os.write(2, text.encode("utf-8", "backslashreplace"))
    return EXIT_ERROR


def _report_by_hook(error: BaseException) -> int:
    """Have the program's own `sys.excepthook` report an uncaught exception; the exit status."""
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        traceback.print_exc()
    flush()
    return EXIT_ERROR


def remember(source: str, filename: str) -> None:
    """Let tracebacks, warnings and `inspect` show the source's lines."""
    sys.modules["linecache"].cache[filename] = (len(source), None, source.splitlines(True), filename)
