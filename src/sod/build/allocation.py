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
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

from sod.build.openmp import POLICY, environment, spins_on, torch_libraries

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MARK = "SOD_ALLOCATOR"
DONE = "done"
"""What `MARK` is from the second start of the `sod` command on, until `forget_tunables`."""


def lacks_tunables() -> bool:
    """Whether glibc has its own settings and nobody has decided that, by tunables, by `MARK` or by a preload.

    Where CUDA computes they are not needed, and count as not lacking.
    """
    decided = (MARK, "GLIBC_TUNABLES", "LD_PRELOAD")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in decided):
        return False
    return not started_with_tunables() and not sees_cuda(Path("/dev"), torch_libraries())


def started_with_tunables() -> bool:
    """Whether this very process was started by us with the tunables, whatever its environment says by now."""
    try:
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # no Linux
        return False
    return f"{MARK}={DONE}".encode() in given


def forget_tunables() -> None:
    """Take what the `sod` command set for its own start out of the environment: no child is to inherit it."""
    if os.environ.get(MARK) == DONE:
        del os.environ[MARK]
        os.environ.pop("GLIBC_TUNABLES", None)


def tunables_for_workers() -> AbstractContextManager[None]:
    """A context in which processes of our own are started that compute: they get the tunables that this one has."""
    return environment(started_environment()) if started_with_tunables() else nullcontext()


def started_environment() -> dict[str, str]:
    """What a process must be started with to have the tunables; it calls `forget_tunables` in its turn."""
    return {MARK: DONE, "GLIBC_TUNABLES": TUNABLES}


def sees_cuda(devices: Path, libraries: Path | None) -> bool:
    """Whether PyTorch would find a CUDA device: it is built for it, there is a device file, and none is hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    built = libraries is not None and (libraries / "libtorch_cuda.so").exists()
    return built and any(devices.glob("nvidia[0-9]*"))


@cache
def warn_of_slow_allocation() -> None:
    """Warn, once in a process, where training and evaluation would be several times slower than they need to be."""
    if lacks_tunables():
        warnings.warn(
            "PyTorch on a CPU is several times slower with glibc's own settings, which only the start of a program can "
            f"change; {_better_start()}; {MARK}=off silences this warning)",
            RuntimeWarning,
            stacklevel=2,
        )
    if spins_on() and not sees_cuda(Path("/dev"), torch_libraries()):
        settings = " ".join(f"{name}={value}" for name, value in POLICY.items())
        warnings.warn(
            "torch was imported before sod, so its threads keep cores busy while they wait, which slows down whatever "
            f"runs beside them; import sod first, or start the program with {settings}",
            RuntimeWarning,
            stacklevel=2,
        )


def _better_start() -> str:
    """How this process is to be started, up to a bracket that is left open."""
    tunables = f"GLIBC_TUNABLES={TUNABLES}"
    if "RANK" in os.environ:  # by a launcher of the user's; what it is given, its ranks have
        return f"start the launcher, as torchrun, with\n    {tunables}\n(a run by `parallel.shards` does this by itself"
    command = shlex.join(sys.orig_argv)
    if "\n" in command:  # a program given with -c
        command = f"{shlex.quote(sys.executable)} ..."
    by_itself = "the `sod` command, or `python -m sod`, does this by itself"
    return f"start it as\n    {tunables} {command}\n({by_itself}"
