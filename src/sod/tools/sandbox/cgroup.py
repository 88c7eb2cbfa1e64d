"""Memory cgroups: the kernel counts all that a program and its processes hold, however they hold it.

Every worker and every session has a cgroup of its own, below one directory of their `LocalSandbox`; the fork servers
themselves stay outside, so that no program's memory can end them. Version 1 and version 2 of cgroups differ in the
names of files. Version 1 has to be writable at our own cgroup; version 2 at the nearest one above us that gives its
children a memory limit.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sod.tools.sandbox.held import CgroupFiles, kills_in, limit_text

PREFIX = "sod-"
# By which a process of one thread moves itself, of the limit, of the events. `tasks` moves a single thread, for which
# the kernel need not hold up all forks of the machine, as it does for `cgroup.procs`, often for milliseconds.
V1_FILES = ("tasks", "memory.limit_in_bytes", "memory.oom_control")
V2_FILES = ("cgroup.procs", "memory.max", "memory.events")
REMOVE_ATTEMPTS = 100  # at a cgroup whose last processes are dying


@final
@dataclass(frozen=True)
class Cgroup:
    """One cgroup, and the names of its files (see V1_FILES). To be removed when its processes are dead."""

    path: Path
    door: str
    limit: str
    events: str

    def open(self) -> CgroupFiles:
        """Descriptors for a fork server, which may not open them itself. To be closed by the caller. Raises OSError."""
        return CgroupFiles(
            os.open(self.path / self.door, os.O_WRONLY | os.O_CLOEXEC),
            os.open(self.path / self.limit, os.O_WRONLY | os.O_CLOEXEC),
            os.open(self.path / self.events, os.O_RDONLY | os.O_CLOEXEC),
        )

    def enter(self, pid: int) -> None:
        """Move a process into the cgroup. Raises OSError."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many processes the kernel has killed in it so far for memory. Raises OSError."""
        return kills_in((self.path / self.events).read_bytes())

    def remove(self) -> None:
        """Remove it; waits a moment for processes that are dying. Never raises."""
        for _ in range(REMOVE_ATTEMPTS):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:  # busy
                time.sleep(0.01)
            else:
                return


@final
class Cgroups:
    """The directory of one sandbox's cgroups. Raises OSError where none is to be had; its text says why.

    The directory is locked as long as we live: one without a lock was left behind by an owner that was killed.
    """

    def __init__(self) -> None:
        version, above = _place()
        _remove_stale(above)
        self._version = version
        self._path, self._lock = _new_directory(above)
        self._count = 0
        try:
            if version == 2:
                (self._path / "cgroup.subtree_control").write_text("+memory")
            self._prove()
        except BaseException:
            self.close()
            raise

    def new(self, memory_mb: int) -> Cgroup:
        """A cgroup for one worker's programs, or for one session. Raises OSError."""
        self._count += 1
        path = self._path / f"{self._count}-{uuid.uuid4().hex[:8]}"
        os.mkdir(path)
        names = V2_FILES if self._version == 2 else V1_FILES
        (path / names[1]).write_text(limit_text(memory_mb))
        for name, value in _settings(self._version, memory_mb):
            with suppress(FileNotFoundError):  # of a kernel without swap, or without what version 1 counted apart
                (path / name).write_text(value)
        return Cgroup(path, *names)

    def close(self) -> None:
        """Remove the directory; its cgroups must have been removed. Safe to call twice."""
        if self._lock < 0:
            return
        for path in [*_below(self._path), self._path]:
            with suppress(OSError):
                os.rmdir(path)
        os.close(self._lock)
        self._lock = -1

    def _prove(self) -> None:
        """Move a child into a cgroup of ours. Raises OSError where that is not permitted."""
        cgroup = self.new(1)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            cgroup.enter(child.pid)
            cgroup.kills()
        finally:
            child.communicate()
            cgroup.remove()


def _settings(version: int, memory_mb: int) -> list[tuple[str, str]]:
    """Further files of a cgroup and what is written to them: no swap, and of version 2, death of all at once."""
    if version == 2:
        return [("memory.swap.max", "0"), ("memory.oom.group", "1")]
    # Buffers of TCP are counted apart there.
    return [("memory.swappiness", "0"), ("memory.kmem.tcp.limit_in_bytes", str(memory_mb << 20))]


def _place() -> tuple[int, Path]:
    """Version, and the directory in which cgroups with a memory limit can be made. Raises OSError."""
    for version, kind, controller in ((1, "cgroup", "memory"), (2, "cgroup2", "")):
        for top, root in _mounts(kind, controller):
            own = _own_path(controller)
            inside = own.removeprefix(root.rstrip("/")) if (own + "/").startswith(root.rstrip("/") + "/") else ""
            here = top / inside.strip("/")
            if version == 1 and os.access(here, os.W_OK):
                return version, here
            for directory in _upwards(here, top) if version == 2 else ():
                if _gives_memory(directory):
                    return version, directory
    raise PermissionError("no memory cgroup that this user may divide")


def _mounts(kind: str, controller: str) -> Iterator[tuple[Path, str]]:
    """Where this kind of cgroups is mounted, and which of them is the topmost one there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, source = line.partition(" - ")
        root, top = place.split()[3:5]
        options = source.split()[-1].split(",")
        if source.split()[0] == kind and (not controller or controller in options):
            yield Path(top), root


def _own_path(controller: str) -> str:
    """This process's own cgroup; version 2 where `controller` is empty."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _upwards(here: Path, top: Path) -> list[Path]:
    """The directory, the one above it, and so on to the topmost."""
    return [path for path in (here, *here.parents) if path == top or top in path.parents]


def _gives_memory(directory: Path) -> bool:
    """Whether we may make cgroups with a memory limit in this directory of version 2, and move processes there."""
    try:
        given = (directory / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return "memory" in given and os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)


def _below(directory: Path) -> list[Path]:
    """The cgroups in it."""
    with suppress(OSError):
        return [path for path in directory.iterdir() if path.is_dir()]
    return []


def _new_directory(above: Path) -> tuple[Path, int]:
    """A new directory for a sandbox's cgroups, and the descriptor that holds its lock. Raises OSError."""
    while True:
        path = above / f"{PREFIX}{uuid.uuid4().hex[:12]}"
        os.mkdir(path)
        with suppress(FileNotFoundError, BlockingIOError):  # another start found it before the lock, and removes it
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.stat(path)
            except OSError:
                os.close(handle)
                raise
            return path, handle


def _remove_stale(above: Path) -> None:
    """Remove what owners that were killed have left. Another sandbox's is locked, and stays."""
    for directory in _below(above):
        if not directory.name.startswith(PREFIX):
            continue
        with suppress(OSError):
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in [*_below(directory), directory]:
                    os.rmdir(path)
            finally:
                os.close(handle)
