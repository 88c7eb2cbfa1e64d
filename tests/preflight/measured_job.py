"""A program of the tests here: one run, and what its memory grew by at its peak; or the run under a limit.

    python measured_job.py RECIPE DIRECTORY train|sft [MIB]

Started by a launcher it is one rank of such a run, whose own memory it prints. Prints two growths in bytes, from after
all imports: of what is allocated, which glibc is asked for every millisecond (weights that are mapped from their files
beside it), and of what the kernel has given, which is more by what lies between. With MIB, at most so many may be
mapped beyond what is mapped when the run is ready; an error is printed as the `sod` command does.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import threading
from contextlib import closing
from pathlib import Path

import torch

from sod.build.recipe import read_recipe
from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.models.ranks import ALONE, Ranks, launched
from sod.recipe import Recipe
from sod.records import SodError


def status(key: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


class Mallinfo2(ctypes.Structure):
    """As in malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that this process has from malloc."""
    info = ASKED()
    return int(info.uordblks + info.hblkhd)


def mapped() -> int:
    """Bytes of files of weights that are mapped: what was saved in the precision asked for is not copied."""
    found = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(".safetensors"):
            first, last = line.split()[0].split("-")
            found += int(last, 16) - int(first, 16)
    return found


ASKED = ctypes.CDLL(None).mallinfo2
ASKED.restype = Mallinfo2


class Watch(threading.Thread):
    """Looks every millisecond for the most that was allocated."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.001):
            self.most = max(self.most, allocated())


def joined(recipe: Recipe) -> Ranks:
    """The other ranks, where a launcher has started any, in the recipe's teams."""
    if not launched():
        return ALONE
    from sod.models.parallel import join, teamed

    return teamed(join(), recipe.parallel.sequence)


def main() -> None:
    """See above."""
    file, directory, kind, *limit = sys.argv[1:]
    torch.ones(64, 64) @ torch.ones(64, 64)  # threads and libraries that every program has
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here on
    before, had, watch = status("VmRSS"), allocated(), Watch()
    prepare = prepare_sft if kind == "sft" else prepare_train
    asked = read_recipe(file, (), print)
    ranks = joined(asked)
    with closing(prepare(asked, Path(directory), False, lambda text: None, ranks=ranks)) as job:
        if limit:
            most = status("VmSize") + int(limit[0]) * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        weights = mapped()
        watch.start()
        job.start([])
        watch.over.set()
        watch.join()
    print(watch.most - had + weights, status("VmHWM") - before)


if __name__ == "__main__":
    try:
        main()
    except SodError as error:
        sys.exit(f"error: {error}")
