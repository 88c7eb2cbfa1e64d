"""What programs of the level `full` see of the machine: a root of their own, filled from a list.

Part of the fork server (see `fork_server.py`): standard library only. What is not listed does not exist for a program,
with or without the layers of `layers.py`: homes, runs, sockets of services, disks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from .mounts import MS_BIND, MS_NODEV, MS_NOSUID, MS_REC, bind, mount

# The system's files that programs see at all: what is not listed here, or in `python_paths`, does not exist for them.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/nix/store", "/gnu/store", "/sys/devices/system/cpu")
ETC = (
    *("alternatives", "debian_version", "fonts", "group", "host.conf", "hosts", "inputrc", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "locale.alias", "localtime", "magic", "mime.types", "networks", "nsswitch.conf", "os-release"),
    *("passwd", "protocols", "rpc", "services", "shells", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
DEVICE_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}  # name in /dev: in /proc/self
BASE, OLD = "/proc", "/.old"  # where the new root is made, and where in it the old one is until it is taken away
MAX_LINKS = 40  # as the kernel


def furnish(paths: Sequence[str], writable: Sequence[str]) -> tuple[str, ...]:
    """Fill the new root from the old one, which is at OLD. Which of `writable` there are then; raises OSError."""
    # Links are followed as the old root has them: Python's environment may be reached by one.
    shown = [path for path in (*SYSTEM, *paths) if os.path.lexists(OLD + resolved(path))]
    for path in outermost_names(shown):
        show(path)
    for name in ETC:
        show_setting("/etc/" + name)
    for path in DEVICES:
        show(path)
    for name, target in DEVICE_LINKS.items():
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    os.mkdir("/proc")
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    except OSError:  # refused where /proc is partly masked (Docker); only hides host processes
        mount(OLD + "/proc", "/proc", None, MS_BIND | MS_REC)
    # A directory that Python lives in is there already, and is no place to write to.
    scratch = tuple(directory for directory in writable if not os.path.exists(directory))
    for directory in scratch:
        os.makedirs(directory)
    return scratch


def outermost_names(paths: Sequence[str]) -> list[str]:
    """As `outermost`, of paths that need not be there."""
    below = tuple(path + "/" for path in paths)
    return sorted({path for path in paths if not path.startswith(below)})


def show(path: str) -> None:
    """Bind a file or directory of the old root to its place in the new one; a link on the way holds there too.

    A symbolic link at the top (/bin) stays one. Raises OSError.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.dirname(path) == "/" and os.path.islink(OLD + path):
        os.symlink(os.readlink(OLD + path), path)
        return
    real = resolved(path)
    for target in {path, real}:
        if os.path.exists(OLD + real) and not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            bind(OLD + real, target)


def resolved(path: str) -> str:
    """Where symbolic links of the old root lead, as seen from that root."""
    for _ in range(MAX_LINKS):
        parts = path.split("/")
        prefixes = ["/".join(parts[:depth]) for depth in range(2, len(parts) + 1)]
        link = next((prefix for prefix in prefixes if os.path.islink(OLD + prefix)), None)
        if link is None:
            return path
        target = os.path.join(os.path.dirname(link), os.readlink(OLD + link))
        path = os.path.normpath(target + path.removeprefix(link))
    return path


def show_setting(path: str) -> None:
    """Put a file or directory of /etc into the new root: a file as a copy, which needs no mount. Raises OSError."""
    real = resolved(path)
    if not os.path.exists(OLD + real):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(OLD + real):
        bind(OLD + real, path)
        return
    # One that not everybody may read is left out.
    with suppress(PermissionError), open(OLD + real, "rb") as source, open(path, "wb") as target:
        target.write(source.read())
