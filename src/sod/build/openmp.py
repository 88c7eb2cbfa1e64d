"""How OpenMP's threads wait for each other: briefly awake, then asleep.

Threads that sleep at once pay a wake-up for every small operation, and a decoding step is made of those. Threads that
spin without end keep the core from whoever they wait for, wherever anything else wants one (the sandbox, another job).
So they spin for a while and then sleep; docs/performance.md has the figures, also of a machine that is overcrowded.

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
    with environment(POLICY):
        _load_openmp()


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
