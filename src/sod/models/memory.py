"""A lack of memory as one line that names the phase in which it came."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sod.records import SodError

_SAID = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
"""What RuntimeErrors say for it: PyTorch's allocators on a CPU and on CUDA, and C++ in between."""


class OutOfMemoryError(SodError):
    """There is not enough memory for a phase of the run."""


def short_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, on a CPU or on a device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
    return said or isinstance(error, MemoryError)


@contextmanager
def naming_phase(phase: str) -> Iterator[None]:
    """A lack of memory inside ends in an OutOfMemoryError that names the phase; every other error passes."""
    try:
        yield
    except Exception as error:
        if not short_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory in {phase}; `sod plan RECIPE`, with the same KEY=VALUE, says what takes it and which "
            "keys make it fit"
        ) from error
