"""The `sod` command's second start: with the allocator's tunables that PyTorch needs on a CPU.

glibc gives every large tensor back to the kernel and faults it in again at the next use, which makes CPU
training several times slower. The tunables are read at program start only, hence the re-execution; it costs
no dependency and happens before anything heavy is imported.

How OpenMP's threads wait needs no second start: `sod.build.openmp`.
"""

from __future__ import annotations

import os
import sys

from sod.build.allocation import forget_tunables, lacks_tunables, started_environment


def reexecute_with_tunables() -> None:
    """Replace this process by itself with the tunables set; the second time, take them out of the environment again.

    Does nothing where glibc is not the C library, another allocator is preloaded, the user has set
    GLIBC_TUNABLES or `SOD_ALLOCATOR=off`, a launcher (torchrun: RANK) has started this as one of several processes,
    or CUDA computes.
    """
    forget_tunables()
    if "RANK" in os.environ or not lacks_tunables():
        return
    os.environ.update(started_environment())
    # orig_argv keeps the interpreter's own flags (-m, -X ...), which sys.argv has lost.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
