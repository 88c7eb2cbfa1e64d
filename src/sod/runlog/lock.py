"""One process at a time writes into a directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sod.records import SodError
from sod.runlog.files import writing

LOCK = ".lock"
"""In the directory while someone writes there, with the holder's pid and host; gone when it is released.

The lock is the kernel's (flock), not the file: what a killed process leaves of it holds nobody up.
"""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory`, which is made if it is not there, against every other process and thread.

    Where nothing was written into a directory that this made, it is gone afterwards. Warns where the file system
    knows no locks. Raises SodError naming the holder where there is one, or where the lock cannot be written.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    handle = _taken(directory)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        with writing(directory / LOCK):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        yield
    finally:
        (directory / LOCK).unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # not empty: the run was begun
            for path in missing:
                path.rmdir()


def _taken(directory: Path) -> int:
    """An open file that holds the lock. Raises SodError."""
    path = directory / LOCK
    while True:
        with writing(path):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # whoever made the directory has just removed it
                continue
        try:
            _lock(handle, directory)
            if _is_file(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed the file between our two calls


def _lock(handle: int, directory: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = f"{_holder(handle)} is writing here; wait until it ends, or choose another directory"
        raise SodError(f"{directory}: {problem}") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(f"{directory}: this file system knows no locks; start no second run here", stacklevel=5)


def _holder(handle: int) -> str:
    """Who holds the lock, in words."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has the lock, and has not yet written who it is
        return "another process"


def _is_file(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
