"""What programs hold in memory, by whatever means: counted by a cgroup, or watched and refused where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENT, children, eventually, gone, kill, mine

from sod.records import Execution, Program
from sod.tools.sandbox import cgroup, filters, local
from sod.tools.sandbox.base import Cell, ProgramLimits
from sod.tools.sandbox.cgroup import PREFIX, Cgroups
from sod.tools.sandbox.held import DESCRIPTORS, holds_more
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.sessions import STATE_LOST

MEMORY_MB = 96
SLACK_MB = 64  # of a cgroup for the interpreter itself, or between two looks
LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=MEMORY_MB)
needs_seccomp = pytest.mark.skipif("seccomp" in filters.layers()["missing"], reason="no seccomp to be had")

# Each prints what it has come to hold, in KiB, a line for each piece, and would go on to 400 MiB and wait there.
# Those that a look must find take their time, as on a busy machine two looks may be far apart.
REST = "\nimport time; time.sleep(999)"
ATTACKS = {
    "memfd": (
        "import os\nfor _ in range(50):\n  os.write(os.memfd_create('x'), bytes(8 << 20)); print(8 << 10, flush=True)"
    ),
    "SysV segments": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True); libc.shmat.restype = ctypes.c_void_p\n"
        "for _ in range(50):\n  segment = libc.shmget(0, 8 << 20, 0o1600)\n"
        "  if segment < 0: raise OSError(ctypes.get_errno(), 'shmget')\n"
        "  place = libc.shmat(segment, None, 0); ctypes.memset(place, 1, 8 << 20)\n"
        "  libc.shmdt(ctypes.c_void_p(place)); print(8 << 10, flush=True)"
    ),
    "large socket buffers": (
        "import socket\nkeep = []\nfor _ in range(120):\n  keep += socket.socketpair()\n  for end in keep[-2:]:\n"
        "    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22); end.setblocking(False); n = 0\n"
        "    try:\n      while True: n += end.send(bytes(1 << 15))\n"
        "    except BlockingIOError: print(n >> 10, flush=True)"
    ),
    "many socket buffers": (
        "import os, socket\nfor _ in range(4):\n  if os.fork() == 0: break\n"
        "keep = []\nfor _ in range(120):\n  keep += socket.socketpair()\n"
        "  for end in keep[-2:]:\n    end.setblocking(False); n = 0\n"
        "    try:\n      while True: n += end.send(bytes(1 << 15))\n"
        "    except BlockingIOError: print(n >> 10, flush=True)"
    ),
    "large pipes": (
        "import os, fcntl\nkeep = bytearray(b'x') * (70 << 20); print(70 << 10, flush=True)\n"
        "for _ in range(60):\n  _, end = os.pipe(); fcntl.fcntl(end, 1031, 1 << 20)\n"
        "  print(os.write(end, bytes(1 << 20)) >> 10, flush=True)"
    ),
    "files beside memory": (
        "import time\nkeep = bytearray(b'x') * (MB * 3 // 4 << 20); print(MB * 3 // 4 << 10, flush=True)\n"
        "for i in range(MB - 2):\n"
        "  open(str(i), 'wb').write(bytes(1 << 20)); print(1 << 10, flush=True); time.sleep(0.01)"
    ).replace("MB", str(MEMORY_MB)),
    "many processes": (
        "import os, time\nfor _ in range(5):\n  if os.fork() == 0:\n"
        "    keep = []\n    while len(keep) < 70:\n"
        "      keep.append(b'x' * (1 << 20)); print(1 << 10, flush=True); time.sleep(0.02)\n"
        "    time.sleep(999)"
    ),
    "shared mappings": (
        "import mmap, os, time\nfor _ in range(6):\n  if os.fork() == 0:\n    keep = mmap.mmap(-1, 70 << 20)\n"
        "    for _ in range(70): keep.write(b'x' * (1 << 20)); print(1 << 10, flush=True); time.sleep(0.02)\n"
        "    time.sleep(999)"
    ),
}
REFUSED_WITHOUT_CGROUP = ("memfd", "large socket buffers", "large pipes")


def cgroups_here() -> bool:
    try:
        Cgroups().close()
    except OSError:
        return False
    return True


needs_cgroup = pytest.mark.skipif(not cgroups_here(), reason="this user may make no memory cgroup")


def refuse() -> Cgroups:
    raise PermissionError("as in a container")


@pytest.fixture(scope="module", params=[pytest.param("cgroup", marks=needs_cgroup), "watched"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "watched":
            patch.setattr(local, "Cgroups", refuse)
        made = LocalSandbox(LIMITS, workers=1)
    yield made
    made.close()


def run(sandbox: LocalSandbox, source: str, session: bool = False) -> Execution:
    (result,) = sandbox.run_cells([Cell("a", source)]) if session else sandbox.execute([Program(source)])
    assert isinstance(result, Execution), result
    return result


def held_mb(result: Execution) -> int:
    return sum(map(int, result.stdout.split())) >> 10


@needs_seccomp
@pytest.mark.parametrize("session", [False, True], ids=["program", "session"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_way_holds_more_than_the_limit(sandbox: LocalSandbox, attack: str, session: bool) -> None:
    before = mine()
    result = run(sandbox, ATTACKS[attack] + REST, session)
    counted = sandbox.isolation["memory_cgroup"]
    refused = attack == "SysV segments" or (attack in REFUSED_WITHOUT_CGROUP and not counted)
    few = attack == "many socket buffers" and not counted  # then it is the number of descriptors that ends it
    assert result.status == ("error" if refused or few else "memory"), result
    assert held_mb(result) < MEMORY_MB + SLACK_MB
    if session:
        sandbox.end_sessions(["a"])
    else:
        assert mine() == before  # no worker had to be replaced
    assert run(sandbox, "print(bytes(48 << 20).count(0) >> 20)").stdout == "48\n"  # and nothing was left behind


def test_the_report_says_what_bounds_memory(sandbox: LocalSandbox, request: pytest.FixtureRequest) -> None:
    assert sandbox.isolation["memory_cgroup"] == ("cgroup" in request.node.name)


def test_memory_within_the_limit_is_given(sandbox: LocalSandbox) -> None:
    hold = f"keep = bytearray(b'x') * ({MEMORY_MB - 40} << 20); print(len(keep) >> 20)"
    assert [run(sandbox, hold, session).stdout for session in (False, True)] == [f"{MEMORY_MB - 40}\n"] * 2
    assert run(sandbox, "print(len(keep) >> 20)", session=True).stdout == f"{MEMORY_MB - 40}\n"
    sandbox.end_sessions(["a"])


def test_a_thread_that_grows_between_cells_is_held_to_the_limit(sandbox: LocalSandbox) -> None:
    grow = (
        "import threading\nkeep = []\n"
        "def grow():\n  for i in range(80):\n    keep.append(b'x' * (1 << 20)); open(str(i), 'wb').write(keep[-1])\n"
        "thread = threading.Thread(target=grow, daemon=True)\nthread.start()"
    )
    first = run(sandbox, grow, session=True)
    result = first if first.status == "memory" else run(sandbox, f"thread.join(){REST}", session=True)
    sandbox.end_sessions(["a"])
    assert result.status == "memory"
    assert result.stderr.endswith(f"; {STATE_LOST}\n")


def test_an_idle_session_holds_no_more_than_a_running_one(sandbox: LocalSandbox) -> None:
    take = "keep{0} = bytearray(b'x') * (8 << 20); open('{0}', 'wb').write(bytes(12 << 20)); print('took')"
    results = [run(sandbox, take.format(i), session=True) for i in range(9)]
    sandbox.end_sessions(["a"])
    statuses = [result.status for result in results]
    assert "memory" in statuses  # 180 MiB by small cells, each far below the limit
    assert statuses.index("memory") >= 4


def test_few_descriptors_where_nothing_counts_their_buffers(sandbox: LocalSandbox) -> None:
    count = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])"
    expected = "256\n" if sandbox.isolation["memory_cgroup"] else f"{DESCRIPTORS}\n"
    assert [run(sandbox, count, session).stdout for session in (False, True)] == [expected] * 2
    sandbox.end_sessions(["a"])


# --- cgroups --------------------------------------------------------------------------------------


def directory_of(sandbox: LocalSandbox) -> Path:
    """The directory of the sandbox's cgroups. Others of the machine have theirs beside it."""
    assert sandbox._cgroups is not None
    return sandbox._cgroups._path


@needs_cgroup
def test_closing_leaves_no_cgroup() -> None:
    made = LocalSandbox(LIMITS, workers=2)
    run(made, "x = 1", session=True)
    directory = directory_of(made)
    assert directory.name.startswith(PREFIX)
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 3
    made.end_sessions(["a"])
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 2
    made.close()
    assert not directory.exists()


@needs_cgroup
def test_a_lost_worker_takes_its_cgroup_with_it() -> None:
    made = LocalSandbox(LIMITS, workers=1)
    directory = directory_of(made)
    (old,) = [path for path in directory.iterdir() if path.is_dir()]
    worker = made.processes()[:2]  # its monitor and itself, which may answer once more after the monitor is gone
    kill(worker)
    assert gone(worker)
    assert run(made, "print(1)").stdout == "1\n"
    (new,) = [path for path in directory.iterdir() if path.is_dir()]
    made.close()
    assert new != old


@needs_cgroup
def test_what_a_killed_owner_left_is_removed_by_the_next_and_nothing_else_is() -> None:
    script = (
        "import time\nfrom sod.tools.sandbox.local import LocalSandbox\n"
        "s = LocalSandbox(workers=1)\nprint(s._cgroups._path, flush=True)\ntime.sleep(999)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory = Path(owner.stdout.readline().strip())
    other = LocalSandbox(LIMITS, workers=1)
    assert directory.is_dir()  # its owner lives
    family = [pid for child in children(owner.pid) for pid in (child, *children(child))]
    owner.kill()
    owner.communicate()

    def removed_by_another_start() -> bool:
        Cgroups().close()
        return not directory.exists()

    assert eventually(removed_by_another_start)
    assert run(other, "print(1)").stdout == "1\n"
    other.close()
    assert family


def test_a_start_beside_others_keeps_its_directory(tmp_path: Path) -> None:
    """Each removes what has no lock, which the others' newest have not yet."""
    over = threading.Event()

    def start_others() -> None:
        while not over.is_set():
            cgroup._remove_stale(tmp_path)

    others = [threading.Thread(target=start_others) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        made = [cgroup._new_directory(tmp_path) for _ in range(300)]
        for _ in range(10):
            cgroup._remove_stale(tmp_path)
    finally:
        over.set()
        for thread in others:
            thread.join()
    assert [path for path, _ in made if not path.is_dir()] == []
    for _, lock in made:
        os.close(lock)


def test_a_fork_server_of_an_owner_with_many_files_passes_on_no_descriptor() -> None:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    made = LocalSandbox(LIMITS, workers=1)
    result = run(made, "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:9])")
    made.close()
    for descriptor in opened:
        os.close(descriptor)
    assert result.stdout == "[0, 1, 2, 3]\n"  # the last is the listing's own


# --- looking it up --------------------------------------------------------------------------------


def test_what_processes_hold_together_is_seen(tmp_path: Path) -> None:
    hold = "keep = bytearray(b'x') * (40 << 20); print(1, flush=True); input()"
    holders = [
        subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "ab"
    ]
    for holder in holders:
        assert holder.stdout is not None
        holder.stdout.readline()
    pids = [holder.pid for holder in holders]
    assert not holds_more(pids[:1], "", 70)
    assert holds_more(pids, "", 70)
    for holder in holders:
        holder.communicate(b"\n")
    assert not holds_more(pids, "", 70)  # gone
