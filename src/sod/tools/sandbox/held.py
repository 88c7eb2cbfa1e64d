"""What memory processes hold together: as a cgroup of the kernel counts it, or else as far as it can be looked up.

Part of the fork server too (see `fork_server.py`): standard library only. Cgroups are made in `cgroup.py`.
Where there are none, what is in no process's memory map (memfd, SysV segments, buffers of sockets and pipes)
is not seen here: programs are refused those calls (`filters.py`), or have few enough of them (DESCRIPTORS).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

DESCRIPTORS = 64  # of each process where there is no cgroup; a socket's buffer has up to 0.2 MiB
OVERHEAD_MB = 32  # of the interpreter itself: pages copied after the fork, page tables, files it reads
EVENTS_BYTES = 448  # of a cgroup's text of events, at most; small enough for Python's own memory
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@final
@dataclass(frozen=True)
class CgroupFiles:
    """Descriptors of a cgroup's files, opened by the process that may write to them. Good in its children too."""

    processes: int
    limit: int
    events: int

    def enter(self) -> None:
        """Move this process, which must have one thread only, into the cgroup. Raises OSError."""
        os.write(self.processes, b"0")

    def set_limit(self, memory_mb: int) -> None:
        """Let its processes hold so many MiB together, beside OVERHEAD_MB. Raises OSError."""
        os.pwrite(self.limit, limit_text(memory_mb).encode(), 0)

    def kills(self) -> int:
        """How many processes the kernel has killed in it so far for memory. Raises OSError."""
        return kills_in(os.pread(self.events, EVENTS_BYTES, 0))


def limit_text(memory_mb: int) -> str:
    """A limit as the kernel takes it."""
    return str((memory_mb + OVERHEAD_MB) << 20)


def kills_in(events: bytes) -> int:
    """The kernel's count of processes that it killed, from the text of a cgroup's events."""
    words = events.split()
    return int(words[words.index(b"oom_kill") + 1])


def children_of(pid: int) -> list[int]:
    """The children of all threads of a process; none where it is gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    return [found for child in children_of(pid) for found in (child, *descendants(child))]


def holds_more(pids: Sequence[int], scratch: str, memory_mb: int) -> bool:
    """Whether these processes and the files in `scratch` ("" for none) hold more than so many MiB together.

    `scratch` is a tmpfs. A page that several processes share counts once.
    """
    limit = (memory_mb << 20) - _file_bytes(scratch)
    if sum(map(_resident_bytes, pids)) <= limit:  # counts shared pages several times, and is cheap
        return False
    return sum(map(_proportional_bytes, pids)) > limit


def _file_bytes(scratch: str) -> int:
    """What the files of a tmpfs hold."""
    if not scratch:
        return 0
    try:
        state = os.statvfs(scratch)
    except OSError:  # its process is gone
        return 0
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process, pages that it shares included; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _proportional_bytes(pid: int) -> int:
    """Resident memory of a process, of pages that it shares its part."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except PermissionError:  # it has closed itself to us: all counts
        return _resident_bytes(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0
