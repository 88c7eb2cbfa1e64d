"""The environment that PyTorch needs on a CPU: allocator tunables, by one re-execution, and patient threads.

glibc gives every large tensor back to the kernel and faults it in again at the next use, which makes CPU
training several times slower. The tunables are read at program start only, hence the re-execution; it costs
no dependency and happens before anything heavy is imported.

OpenMP's threads spin while they wait for each other. Where anything else wants a core (the sandbox, another job) the
spinning keeps the very thread off it that is waited for: a matrix product then took two to three times as long as
with threads that sleep (docs/performance.md). Alone on the machine no difference was measured.
"""

from __future__ import annotations

import os
import sys

from sod.build.allocation import MARK, TUNABLES, lacks_tunables


def reexecute_with_tunables() -> None:
    """Replace this process by itself with the tunables set.

    Does nothing where glibc is not the C library, another allocator is preloaded, the user has set
    GLIBC_TUNABLES or `SOD_ALLOCATOR=off`, or it has been done before.
    """
    env = os.environ
    env.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    if not lacks_tunables():
        return
    env[MARK] = "done"
    env["GLIBC_TUNABLES"] = TUNABLES
    # orig_argv keeps the interpreter's own flags (-m, -X ...), which sys.argv has lost.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
