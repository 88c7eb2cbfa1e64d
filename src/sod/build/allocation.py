"""glibc's tunables for PyTorch on a CPU, and the warning where a program runs without them.

They are read at program start only: the `sod` command starts itself again with them (`sod.cli.allocator`), an import
cannot set them.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import warnings
from functools import cache

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MARK = "SOD_ALLOCATOR"


def lacks_tunables() -> bool:
    """Whether glibc has its own settings and nobody has decided that, by tunables, by `MARK` or by a preload."""
    decided = (MARK, "GLIBC_TUNABLES", "LD_PRELOAD")
    return platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in decided)


@cache
def warn_of_slow_allocation() -> None:
    """Warn, once in a process, where training and evaluation would be several times slower than they need to be."""
    if lacks_tunables():
        command = shlex.join(sys.orig_argv)
        if "\n" in command:  # a program given with -c
            command = f"{shlex.quote(sys.executable)} ..."
        warnings.warn(
            "PyTorch on a CPU is several times slower with glibc's own settings, which only the start of a program can "
            f"change; start it as\n    GLIBC_TUNABLES={TUNABLES} {command}\n(the `sod` command, or `python -m sod`, "
            f"does this by itself; {MARK}=off silences this warning)",
            RuntimeWarning,
            stacklevel=2,
        )
