"""Ways out of the sandbox, each tried by a program of a real one, at `full` and at `reduced`.

The level `reduced` is had as in `test_isolation.py`: in a process that lacks what a container's default profile takes
away. Every attack prints one word, `out` or `kept`; what it reaches for is made here, and nothing of the machine's.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
from processes import PATIENT
from test_isolation import CONTAINER, TESTS, needs_layers, run

from sod.tools.sandbox import filters
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox

TOOLS = str(Path(filters.__file__).parents[1])
IOPRIO_SET, MQ_OPEN = (251, 240) if os.uname().machine == "x86_64" else (30, 180)  # by number: libc has no such calls
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
    libc = ctypes.CDLL(None)
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
        libc = ctypes.CDLL(None)
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
        "a POSIX queue": f"libc.syscall({MQ_OPEN}, b'sod-test', 0o102, 0o666, 0) >= 0",
        "the machine's shared memory": "os.path.exists('/dev/shm/sod-test')",
        "limits of a process": f"__import__('resource').prlimit({victim}, 7) is not None",
        "priority of a process": f"os.setpriority(os.PRIO_PROCESS, {victim}, 19) is None",
        "priority of its user": "libc.setpriority(2, 0, 0) == 0 and 'full' not in LEVEL",
        "processors of a process": f"os.sched_setaffinity({victim}, [0]) is None",
        "schedule of a process": f"os.sched_setscheduler({victim}, os.SCHED_BATCH, os.sched_param(0)) is None",
        "disk priority of a process": f"libc.syscall({IOPRIO_SET}, 1, {victim}, 0) == 0",
        "a signal to a process": f"os.kill({victim}, 0) is None",
        "a descriptor of a process": f"libc.syscall(438, libc.syscall(434, {victim}, 0), 0, 0) >= 0",
        "memory of a process": f"open('/proc/{victim}/environ').read()",
        "its root": f"os.listdir('/proc/{victim}/root')",
    }


def in_level(level: str, programs: list[str]) -> tuple[str, list[Any]]:
    """The level had, and of each program its status, stdout and stderr there."""
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


def test_no_way_to_the_machines_files_or_sockets(target: Target) -> None:
    """None of them exists for a program of the level `full`: there is nothing to open or to connect to."""
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), workers=1)
    places = [target.directory, target.path_socket, "/run", "/home", "/srv", "/root/.ssh", os.getcwd(), TESTS]
    found = run(local, f"import os\nprint([path for path in {places} if os.path.exists(path)])")
    local.close()
    assert local.level == "full"
    assert found.stdout == "[]\n", found


def test_a_project_that_python_imports_from_is_not_shown(tmp_path: Path) -> None:
    """An editable install adds the project's root: of it programs see the preloaded package, not its runs."""
    project, environment = tmp_path / "project", tmp_path / "environment"
    (project / "runs" / "one").mkdir(parents=True)
    (project / "runs" / "one" / "truth.jsonl").write_text("42")
    (project / "helper").mkdir()
    (project / "helper" / "__init__.py").write_text("from helper.more import value\n")
    (project / "helper" / "more.py").write_text("value = 42\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text(f"{project}\n{Path(filters.__file__).parents[3]}\n")
    for without in ("", "sys.modules['landlock'] = sys.modules['pyseccomp'] = None"):
        script = (
            f"import sys\n{without}\nfrom sod.records import Program\n"
            "from sod.tools.sandbox.local import LocalSandbox\n"
            "s = LocalSandbox(workers=1, preload=['helper'])\n"
            f"p = 'import os, helper; print(helper.value, os.path.exists(\"{project / 'runs'}\"))'\n"
            "print(s.level, s.execute([Program(p)])[0].stdout)\ns.close()"
        )
        command = [environment / "bin" / "python", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENT)
        assert done.stdout == "full 42 False\n\n", done


@needs_layers
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other architectures of this processor")
@pytest.mark.parametrize("call", ["libc.syscall(0x40000000 + 41, 1, 1, 0)", "libc.syscall(0x40000000 + 39)"])
def test_calls_of_another_architecture_end_the_program(call: str) -> None:
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), workers=1)
    result = run(local, f"import ctypes\nlibc = ctypes.CDLL(None)\n{call}\nprint('out')")
    local.close()
    assert (result.status, result.exit_code) == ("error", -signal.SIGSYS), result


@needs_layers
def test_reduced_bounds_the_files_of_a_program_together() -> None:
    source = "for i in range(400):\n  open(str(i), 'wb').write(bytes(1 << 20))\nprint('out')\nwhile True: pass"
    script = (
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}, memory_mb=64), workers=1)\n"
        f"r = s.execute([Program({source!r}), Program('import os; print(os.listdir())')])\n"
        "print([(x.status, x.stdout, x.stderr) for x in r])\ns.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", CONTAINER.format(tools=TOOLS) + script], capture_output=True, text=True, cwd=TESTS
    )
    (full, _, note), after = eval(done.stdout)
    assert (full, note) == ("memory", "more than 64 MiB\n"), done
    assert after == ("ok", "[]\n", "")


@needs_layers
def test_reduced_bounds_the_files_of_a_session_together() -> None:
    source = "for i in range(400):\n  open(str(i), 'wb').write(bytes(1 << 20))\nprint('out')\nwhile True: pass"
    script = (
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}, memory_mb=64), workers=1)\n"
        f"r = s.run_cells([Cell('a', {source!r}), Cell('b', 'import os; print(os.listdir())')])\n"
        "r += s.run_cells([Cell('a', 'import os; print(os.listdir())')])\n"
        "print([(x.status, x.stdout) for x in r])\ns.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", CONTAINER.format(tools=TOOLS) + script], capture_output=True, text=True, cwd=TESTS
    )
    (full, _), other, again = eval(done.stdout)
    assert full == "memory", done
    assert other == again == ("ok", "[]\n")


@needs_layers
def test_scratch_of_killed_workers_is_removed_by_the_next_start() -> None:
    script = (
        'p = \'import os; os.makedirs("a/b"); open("a/b/c", "w"); os.chmod("a", 0); print(os.getcwd())\'\n'
        "import signal\nfrom contextlib import suppress\n"
        "s = LocalSandbox(workers=1)\nprint(s.execute([Program(p)])[0].stdout.strip())\n"
        "for pid in s.processes():\n  with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)\n"
        "live = LocalSandbox(workers=1)\n"
        "print(live.execute([Program('import os; print(os.getcwd())')])[0].stdout.strip())\n"
        "again = LocalSandbox(workers=1)\n"
        "print([p for p in os.listdir('/tmp') if p.startswith('sod-sandbox-')])\n"
        "print(live.execute([Program('print(1)')])[0].stdout.strip())\nfor x in (live, again, s): x.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", CONTAINER.format(tools=TOOLS) + script], capture_output=True, text=True, cwd=TESTS
    )
    lost, living, left, answer = done.stdout.split("\n")[:4]
    assert os.path.basename(lost) not in eval(left), done
    assert os.path.basename(living) in eval(left), done
    assert answer == "1"
