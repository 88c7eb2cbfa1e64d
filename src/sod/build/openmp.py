"""How OpenMP's threads wait for each other: briefly awake, then asleep.

Threads that sleep at once pay a wake-up for every small operation, and a decoding step is made of those. Threads that
spin without end keep the core from whoever they wait for, wherever anything else wants one (the sandbox, another job).
So they spin for a while and then sleep; and sleep at once where no core is free when PyTorch is loaded: on a crowded
machine spinning makes everything several times slower (docs/results/2026-11-27-cpu-speed.md).

GNU's OpenMP, which PyTorch's wheels bring along, reads its settings when it is loaded. It is loaded with ours just
before PyTorch is; the environment is then again as it was, so that no child of this process inherits anything. Other
runtimes (Intel's or LLVM's, where PyTorch was built with one) keep their own settings: theirs spin for 200 ms, which
`KMP_BLOCKTIME` changes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import final

POLICY = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
"""Spin so many times, then sleep."""
ASLEEP = {"OMP_WAIT_POLICY": "passive"}
"""Sleep at once."""
SONAME = "libgomp.so.1"
TORCH_CAME_FIRST = "torch" in sys.modules  # when `sod` was imported


@final
class _BeforeTorch(MetaPathFinder):
    """Finds no module; it is asked before PyTorch is loaded, and settles the policy then, once."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch":
            sys.meta_path.remove(self)
            settle_openmp()


def settle_with_torch() -> None:
    """Have the policy settled just before PyTorch is imported; nothing where it has been. Loads nothing by itself."""
    if not TORCH_CAME_FIRST:
        sys.meta_path.insert(0, _BeforeTorch())


def settle_openmp() -> None:
    """Load GNU's OpenMP with our policy, unless the user has one."""
    if _decided() or not sys.platform.startswith("linux"):
        return
    with environment(ASLEEP if crowded() else POLICY):
        _load_openmp()


def crowded(loads: Path = Path("/proc/loadavg")) -> bool:
    """Whether every core has something else to run at this moment."""
    try:
        running = int(loads.read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running - 1 >= (os.cpu_count() or 1)  # this process is one of them


def spins_on() -> bool:
    """Whether OpenMP's threads spin for as long as they do by themselves, as PyTorch was imported before `sod`."""
    return TORCH_CAME_FIRST and not _decided() and sys.platform.startswith("linux")


def torch_libraries() -> Path | None:
    """The directory of PyTorch's own libraries, found without importing it; None where there is no PyTorch."""
    spec = importlib.util.find_spec("torch")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "lib"


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set; they are gone after it."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def _decided() -> bool:
    return any(name in os.environ for name in POLICY)


def _load_openmp() -> None:
    libraries = torch_libraries()
    # PyTorch finds it loaded: by its file where a wheel has its own, else by its name.
    own = [] if libraries is None else sorted(map(str, libraries.glob("libgomp*.so*")))
    for name in own or [SONAME]:
        try:
            ctypes.CDLL(name)
        except OSError:  # PyTorch has another runtime, or looks for this one elsewhere
            continue
