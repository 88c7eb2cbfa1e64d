"""Scratch directories below `reduced`, where a fork server has no mounts: made in /tmp, bounded, removed when lost.

Part of the fork server (see `fork_server.py`): standard library only. A live fork server holds a lock on its
directory. One that was killed could not remove it; the next one to start, which finds it without a lock, does.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

TEMPORARY, PREFIX = "/tmp", "sod-sandbox-"
LOOKED_AT = 10_000  # files: a directory with more is too full, however small they are


def make_home() -> str:
    """Make a scratch directory, and lock it for as long as this process lives. Raises OSError."""
    import tempfile  # most fork servers have no need of it

    while True:
        home = tempfile.mkdtemp(prefix=PREFIX, dir=TEMPORARY)
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # another fork server found it before the lock, and removes it
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(home).st_ino == os.fstat(handle).st_ino:
                return home
        os.close(handle)


def remove_lost_homes(first_uid: int) -> None:
    """Remove the scratch directories of fork servers that were killed.

    Ours, and as root those of users from `first_uid` on, which no real user has.
    """
    with suppress(OSError):  # no such directory, or closed to us
        for name in os.listdir(TEMPORARY):
            if name.startswith(PREFIX):
                with suppress(OSError):  # gone, not ours, or in use
                    remove_lost(os.path.join(TEMPORARY, name), first_uid)


def remove_lost(home: str, first_uid: int) -> None:
    """Remove a scratch directory. Raises OSError where its fork server lives or it is another user's."""
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner, us = os.fstat(handle).st_uid, os.geteuid()
        if owner != us and (us != 0 or owner < first_uid):
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for _, directories, _, at in os.fwalk(home, follow_symlinks=False):
            for name in directories:
                open_for_us(name, at)
        import shutil  # as above

        shutil.rmtree(home)  # by descriptors: a program that outlived its fork server cannot lead it elsewhere
    finally:
        os.close(handle)


def open_for_us(name: str, at: int) -> None:
    """Let us into a directory that a program closed; a link is left alone."""
    with suppress(OSError):
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=at)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)


def too_full(home: str, memory_mb: int) -> bool:
    """Whether the files below a directory hold more than so many MiB together, or are more than LOOKED_AT."""
    left, files = memory_mb << 20, LOOKED_AT
    for _, directories, names, at in os.fwalk(home, follow_symlinks=False):
        files -= len(names) + len(directories)
        for name in names:
            with suppress(OSError):  # gone by now
                left -= os.stat(name, dir_fd=at, follow_symlinks=False).st_blocks * 512
        if left < 0 or files < 0:
            return True
    return False
