"""Ways out of the sandbox, each tried by a program of a real one, at `full` and at `reduced`.

The level `reduced` is had as in `test_isolation.py`: in a process that lacks what a container's default profile takes
away. Every attack prints one word, `out` or `kept`; what it reaches for is made here, and nothing of the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
from processes import PATIENT, eventually
from test_isolation import CONTAINER, HAVE, TESTS, needs_layers, run

from sod.tools.sandbox import filters
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox

TOOLS = str(Path(filters.__file__).parents[1])
PLACES = tuple(filter(os.path.isdir, ("/srv", "/opt", "/home", "/var/lib", "/mnt", "/media")))
TRY = (
    "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "try:\n  print('out' if ({attack}) else 'kept')\nexcept OSError as error: print('kept')\n"
)


@final
@dataclass(frozen=True)
class Target:
    """What programs reach for: a directory of the machine that every user may read, and what is in it."""

    directory: str
    secret: str  # a file, as a run's ground truth
    path_socket: str
    abstract: str  # the name of a socket without a path
    segment: int  # of System V shared memory
    queue: int  # of System V messages


def targets() -> Iterator[Target]:
    """One target in each of PLACES that we may write to."""
    libc = __import__("ctypes").CDLL(None)
    for place in filter(lambda path: os.access(path, os.W_OK), PLACES):
        directory = tempfile.mkdtemp(prefix="sod-test-", dir=place)
        os.chmod(directory, 0o755)
        Path(directory, "truth.jsonl").write_text("42")
        yield Target(
            directory,
            f"{directory}/truth.jsonl",
            f"{directory}/docker.sock",
            f"sod-test-{os.path.basename(directory)}",
            libc.shmget(0, 4096, 0o1666),
            libc.msgget(0, 0o1666),
        )


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A target with its sockets listening; gone afterwards."""
    made = list(targets())
    if not made:
        pytest.skip(f"none of {PLACES} may be written to")
    listening = [listen(one.path_socket) for one in made] + [listen("\0" + one.abstract) for one in made]
    try:
        yield made[0]
    finally:
        libc = __import__("ctypes").CDLL(None)
        for one in made:
            shutil.rmtree(one.directory)
            libc.shmctl(one.segment, 0, None)
            libc.msgctl(one.queue, 0, None)
        for server in listening:
            server.close()


def listen(name: str) -> socket.socket:
    """A socket that anybody may connect to."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen()
    if not name.startswith("\0"):
        os.chmod(name, 0o777)
    return server


def attacks(target: Target, victim: int) -> dict[str, str]:
    """Attacks by name, each an expression that is true where it got through. `victim`: a process of the machine."""
    return {
        "a file of the machine": f"open({target.secret!r}).read()",
        "a socket with a path": f"socket.socket(socket.AF_UNIX).connect({target.path_socket!r}) is None",
        "a datagram socket": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "a socket with a name": f"socket.socket(socket.AF_UNIX).connect('\\0' + {target.abstract!r}) is None",
        "vsock": "socket.socket(40, socket.SOCK_STREAM)",
        "the kernel's ciphers": "socket.socket(38, socket.SOCK_SEQPACKET)",
        "packets": "libc.socket(17, 3, 0) >= 0",
        "tipc": "libc.socket(30, 1, 0) >= 0",
        "bluetooth": "libc.socket(31, 3, 1) >= 0",
        "a family with high bits": "libc.socket(ctypes.c_ulong((1 << 32) | 1), 1, 0) >= 0",
        "a pair of another family": "libc.socketpair(30, 1, 0, (ctypes.c_int * 2)()) == 0",
        "new shared memory": "libc.shmget(0, 4096, 0o1666) >= 0",
        "shared memory by its number": f"libc.shmctl({target.segment}, 2, ctypes.create_string_buffer(256)) >= 0",
        "a new queue": "libc.msgget(0, 0o1666) >= 0",
        "a queue by its number": f"libc.msgsnd({target.queue}, b'1234567890123456', 4, 0) == 0",
        "new semaphores": "libc.semget(0, 1, 0o1666) >= 0",
        "a POSIX queue": "libc.syscall(240, b'sod-test', 0o102, 0o666, 0) >= 0"
        if os.uname().machine == "x86_64"
        else "False",
        "the machine's shared memory": "os.path.exists('/dev/shm/sod-test')",
        "limits of a process": f"__import__('resource').prlimit({victim}, 7) is not None",
        "priority of a process": f"os.setpriority(os.PRIO_PROCESS, {victim}, 19) is None",
        "priority of its user": "libc.setpriority(2, 0, 0) == 0 and 'full' not in LEVEL",
        "processors of a process": f"os.sched_setaffinity({victim}, [0]) is None",
        "schedule of a process": f"os.sched_setscheduler({victim}, os.SCHED_BATCH, os.sched_param(0)) is None",
        "disk priority of a process": f"libc.syscall({251 if os.uname().machine == 'x86_64' else 30}, 1, {victim}, 0) == 0",
        "a signal to a process": f"os.kill({victim}, 0) is None",
        "a descriptor of a process": f"libc.syscall(438, libc.syscall(434, {victim}, 0), 0, 0) >= 0",
        "memory of a process": f"open('/proc/{victim}/environ').read()",
        "its root": f"os.listdir('/proc/{victim}/root')",
    }


def in_level(level: str, programs: list[str]) -> tuple[str, list[Any]]:
    """The level had, and status and output of each program there: run as the same user as ours, where that is not root."""
    script = (
        f"import json\ns = LocalSandbox(ProgramLimits(seconds={PATIENT}, memory_mb=256), workers=1)\n"
        f"found = s.execute([Program(p) for p in json.loads({json.dumps(json.dumps(programs))})])\n"
        "print(json.dumps([s.level, [[r.status, r.stdout, r.stderr] for r in found]]))\ns.close()"
    )
    start = CONTAINER.format(tools=TOOLS)
    if level == "full":
        start = start.replace("rules.load()", "")
    elif level == "full without Landlock":
        start = start.replace("rules.load()", "sys.modules['landlock'] = None")
    elif level == "full without either":
        start = start.replace("rules.load()", "")
        script = "sys.modules['landlock'] = sys.modules['pyseccomp'] = None\n" + script
    done = subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True, cwd=TESTS)
    had, results = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else ("", done.stderr)
    return had, results


@pytest.mark.slow
@needs_layers
@pytest.mark.parametrize("level", ["full", "full without Landlock", "reduced"])
def test_every_way_out_is_closed(level: str, target: Target) -> None:
    Path("/dev/shm/sod-test").touch()
    victim = subprocess.Popen(["sleep", "1000"])
    try:
        tried = attacks(target, victim.pid)
        programs = [f"LEVEL = {level!r}\n" + TRY.format(attack=attack) for attack in tried.values()]
        had, results = in_level(level, programs)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
        os.unlink("/dev/shm/sod-test")
    assert had == level.split()[0], results
    answers = dict(zip(tried, results, strict=True))
    # At `reduced` the machine's process tree and names of /dev/shm exist; what counts is that they cannot be used.
    answers.pop("the machine's shared memory" if level == "reduced" else "", None)
    assert {name: answer for name, answer in answers.items() if answer[:2] != ["ok", "kept\n"]} == {}
