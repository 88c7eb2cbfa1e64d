"""Mounts, as the kernel's calls make them. Part of the fork server (see `fork_server.py`): standard library only."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 0x1000, 0x4000, 0x40000

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError when a C call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or change a mount, as mount(2). Raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None)
    checked(libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def bind(source: str, target: str) -> None:
    """Show a file, directory or symbolic link in another place too. Raises OSError."""
    # A descriptor in /proc is a link as well, but stands for what it points to.
    if os.path.islink(source) and not source.removeprefix("/proc/self/fd/").isdigit():
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)
