"""A program's files: put into its scratch directory before, taken from it after.

Part of the fork server (see `fork_server.py`): standard library only. After a program, the directory is
whatever the program made of it: no symbolic link is followed, and nothing but plain files of the same
mount is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from .wire import FILES_BYTES


def place(home: str, files: Mapping[str, bytes]) -> None:
    """Write the files; their names have been checked. Raises OSError."""
    for name, data in files.items():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def fetch(home: str, names: Sequence[str]) -> dict[str, bytes]:
    """The named files that are there and are plain, up to FILES_BYTES in all; the others are left out."""
    found: dict[str, bytes] = {}
    left = FILES_BYTES
    for name in names:
        with suppress(OSError):
            data = read_plain(home, name, left)
            found[name] = data
            left -= len(data)  # a later, smaller file may still fit where this one did not
    return found


def read_plain(home: str, name: str, limit: int) -> bytes:
    """A file of at most `limit` bytes. Raises OSError where it is anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for the writer of a FIFO
    handle = os.open(home, flags | os.O_DIRECTORY)
    try:
        device = os.fstat(handle).st_dev
        # Part by part: O_NOFOLLOW holds for the last part of a path only.
        *parents, last = name.split("/")
        for part in parents:
            handle = step(handle, part, flags | os.O_DIRECTORY)
        handle = step(handle, last, flags)
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode) or about.st_dev != device or about.st_size > limit:
            raise OSError(f"{name}: not a plain file of at most {limit} bytes")
        with open(handle, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(handle)


def step(directory: int, name: str, flags: int) -> int:
    """Open an entry of a directory; the directory's descriptor is closed where that succeeds. Raises OSError."""
    handle = os.open(name, flags, dir_fd=directory)
    os.close(directory)
    return handle


def empty_directory(path: str) -> None:
    """Delete everything in a directory, links as links. Raises OSError."""
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)  # the program may have closed it
            empty_directory(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
