"""What is kept from programs and by what: the extra walls, and the levels below `full`.

The levels are tried in processes that lack what a container's default profile takes away.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENT, eventually, new_marker, programs, sleepers

from sod.records import Execution, Program
from sod.tools.sandbox import filters
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.probe import EXECUTIONS, attempts, healthy, probe
from support import CONTAINER_PROFILE

TESTS = str(Path(__file__).parent)
HAVE = filters.layers()
SCRATCH = "/tmp/sod-sandbox-"
needs_layers = pytest.mark.skipif(bool(HAVE["missing"]), reason=f"not to be had: {HAVE['missing']}")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    local = LocalSandbox(ProgramLimits(seconds=PATIENT, memory_mb=256), workers=1)
    yield local
    local.close()


def run(sandbox: LocalSandbox, program: str) -> Execution:
    (result,) = sandbox.execute([Program(program)])
    assert isinstance(result, Execution), result
    return result


# --- full -----------------------------------------------------------------------------------------


def test_full_where_namespaces_are_to_be_had(sandbox: LocalSandbox) -> None:
    assert sandbox.level == "full"
    by_namespaces = ("unprivileged", "network", "pid_namespace", "filesystem")
    layers = {name: name not in HAVE["missing"] for name in ("seccomp", "landlock")}
    isolation = dict(sandbox.isolation)
    isolation.pop("memory_cgroup")  # see test_memory.py
    assert isolation == {**dict.fromkeys(by_namespaces, True), **layers}


def test_full_is_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LocalSandbox(workers=1).close()
    assert caplog.records == []


def test_every_real_attempt_is_stopped(sandbox: LocalSandbox) -> None:
    kept = attempts(sandbox)
    assert kept == dict.fromkeys(kept, True)
    assert len(kept) == 14


@needs_layers
def test_system_calls_that_are_refused(sandbox: LocalSandbox) -> None:
    numbers = {  # the ones that x86-64 and arm64 share are few: by name where libc has one
        "unshare": "libc.unshare(0x10000000)",
        "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "ptrace": "libc.ptrace(0, 0, 0, 0)",
        "setns": "libc.setns(0, 0)",
        "process_vm_readv": "libc.process_vm_readv(1, 0, 0, 0, 0, 0)",
        "io_uring_setup": "libc.syscall(425, 8, b'0' * 200)",
        "clone of a user namespace": "libc.syscall(56, 0x10000000, 0, 0, 0, 0)"
        if os.uname().machine == "x86_64"
        else "-1",
        "keyctl": "libc.syscall(250, 0, -3, 1)" if os.uname().machine == "x86_64" else "-1",
        "bpf": "libc.syscall(321, 0, 0, 0)" if os.uname().machine == "x86_64" else "-1",
        "userfaultfd": "libc.syscall(323, 0)" if os.uname().machine == "x86_64" else "-1",
        "perf_event_open": "libc.syscall(298, 0, 0, 0, 0, 0)" if os.uname().machine == "x86_64" else "-1",
    }
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor call in {calls!r}:\n"
        "  ctypes.set_errno(1)\n  print(eval(call), ctypes.get_errno())"
    )
    result = run(sandbox, program.format(calls=list(numbers.values())))
    assert result.stdout.splitlines() == ["-1 1"] * len(numbers), result  # 1: EPERM


@needs_layers
def test_only_the_systems_and_pythons_files_are_to_be_read(sandbox: LocalSandbox, tmp_path: Path) -> None:
    below_tests = Path(TESTS) / "test_isolation.py"
    os.chmod(below_tests, stat.S_IMODE(below_tests.stat().st_mode) | 0o044)
    result = run(sandbox, f"open({str(below_tests)!r})")
    assert result.stderr.splitlines()[-1].startswith(("PermissionError", "FileNotFoundError"))
    assert run(sandbox, "import os; os.listdir('/')").stderr.splitlines()[-1].startswith("PermissionError")
    assert run(
        sandbox, "import os, json; print(len(os.listdir('/etc')) > 3, open('/proc/self/stat').read()[:1])"
    ).stdout


@needs_layers
def test_ordinary_programs_still_work(sandbox: LocalSandbox) -> None:
    program = (
        "import subprocess, multiprocessing, tempfile, os, asyncio, threading, signal\n"
        "print(subprocess.run(['sh', '-c', 'echo a > f; cat f'], capture_output=True, text=True).stdout.strip())\n"
        "child = subprocess.Popen(['sleep', '9'], stdout=subprocess.DEVNULL)\nchild.kill(); print(child.wait())\n"
        "print(tempfile.NamedTemporaryFile().write(b'x'))\n"
        "os.mkdir('d'); os.rename('d', 'e'); os.symlink('e', 's'); print(sorted(os.listdir('.')))\n"
        "async def main(): return await asyncio.sleep(0, 'async')\nprint(asyncio.run(main()))\n"
        "if __name__ == '__main__': print(multiprocessing.Pool(2).map(abs, [-1]))\n"
    )
    result = run(sandbox, program)
    assert result.stdout.splitlines() == ["a", "-9", "1", "['e', 'f', 's']", "async", "[1]"], result


def test_without_the_packages_it_is_still_full_but_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    monkeypatch.setitem(sys.modules, "landlock", None)
    local = LocalSandbox(workers=1)
    assert (local.level, local.isolation["seccomp"], local.isolation["landlock"]) == ("full", False, False)
    kept = attempts(local)
    assert run(local, "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))").stdout == "-1\n"
    local.close()
    # It is seccomp that refuses these. What they reach is in namespaces of their own, but for vsock.
    assert {name for name, held in kept.items() if not held} == {"other sockets", "shared memory"}


def test_without_seccomp_shared_memory_ends_with_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """What outlives its processes lies in a namespace that does not: the worker's next program has another."""
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), workers=1)
    libc = "import ctypes\nlibc = ctypes.CDLL(None)\n"
    kept = "libc.shmget(4711, 4096, {0}) >= 0, libc.msgget(4711, {0}) >= 0, libc.semget(4711, 1, {0}) >= 0"
    made = run(local, f"{libc}print({kept.format(0o1600)})\nprint({kept.format(0o600)})")
    found = run(local, f"{libc}print({kept.format(0o600)})")
    local.close()
    assert made.stdout == "True True True\n" * 2, made
    assert found.stdout == "False False False\n", found


def test_programs_of_one_sandbox_do_not_wait_for_a_hanging_one() -> None:
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), workers=2)
    hanging = threading.Thread(target=lambda: local.execute([Program("while True: pass")]))
    hanging.start()
    assert eventually(lambda: len(programs(local)) == 1)
    outcomes = [run(local, f"print({i})").stdout for i in range(20)]
    assert hanging.is_alive()
    local.close()
    hanging.join()
    assert outcomes == [f"{i}\n" for i in range(20)]


def test_python_below_a_private_directory(tmp_path: Path) -> None:
    """As root with a virtual environment of mode 0700, the dropped user must still reach it."""
    if os.geteuid() != 0:
        pytest.skip("only root drops to another user")
    environment = tmp_path / "private"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "small_module.py").write_text("value = 42\n")
    (packages / "ours.pth").write_text(str(Path(filters.__file__).parents[3]) + "\n")
    os.chmod(environment, 0o700)
    script = (
        "from sod.records import Program\nfrom sod.tools.sandbox.local import LocalSandbox\n"
        "s = LocalSandbox(workers=1, preload=['small_module'])\n"
        "print(s.level, s.execute([Program('import small_module; print(small_module.value)')])[0].stdout)\ns.close()"
    )
    python = environment / "bin" / "python"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=2 * PATIENT)
    assert done.stdout == "full 42\n\n", done.stderr


# --- reduced --------------------------------------------------------------------------------------

CONTAINER = (
    CONTAINER_PROFILE
    + """
import logging
logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
from sod.records import *
from sod.tools.sandbox.base import *
from sod.tools.sandbox.local import LocalSandbox
"""
)


def in_container(script: str) -> subprocess.CompletedProcess[str]:
    tools = str(Path(filters.__file__).parents[1])
    command = [sys.executable, "-c", CONTAINER.format(tools=tools) + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENT, cwd=TESTS)


@needs_layers
@pytest.mark.slow
def test_an_environment_that_is_reached_by_a_link(tmp_path: Path) -> None:
    """Its packages are there for programs, also where the link is an absolute one."""
    program = tmp_path / "program.py"
    program.write_text("import numpy\nprint(numpy.__version__)")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are private, and opened in another way
        os.chmod(folder, 0o755)
        linked = Path(folder) / "venv"
        linked.symlink_to(sys.prefix)
        command = [linked / "bin" / "python", "-m", "sod", "sandbox", "run", "--code-file", program]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENT)
    assert '"status": "ok"' in ended.stdout, ended.stdout + ended.stderr


@needs_layers
@pytest.mark.slow
def test_an_environment_in_a_private_folder_that_is_reached_by_a_link(tmp_path: Path) -> None:
    """As one in a home of root's, which is opened for programs as far as its packages."""
    program = tmp_path / "program.py"
    program.write_text("import numpy, mine\nprint(mine.__name__)")
    with tempfile.TemporaryDirectory(dir="/tmp") as private, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{private}/venv"], check=True)
        (packages,) = Path(private).glob("venv/lib/python*/site-packages")
        (packages / "mine.py").touch()
        added = [sysconfig.get_path("purelib"), str(Path(TESTS).parents[1] / "src")]
        (packages / "added.pth").write_text("\n".join(added))
        linked = Path(folder) / "venv"
        linked.symlink_to(f"{private}/venv")
        command = [linked / "bin" / "python", "-m", "sod", "sandbox", "run", "--code-file", program]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENT)
    assert '"stdout": "mine\\n"' in ended.stdout, ended.stdout + ended.stderr


def test_reduced_is_named_and_logged_once() -> None:
    done = in_container("s = LocalSandbox(workers=2)\nprint(s.level, dict(s.isolation))\ns.close()")
    level, isolation = done.stdout.split(" ", 1)
    assert level == "reduced", done.stderr
    assert {name: kept for name, kept in eval(isolation).items() if name != "memory_cgroup"} == {
        **dict.fromkeys(("unprivileged", "network", "filesystem", "seccomp", "landlock"), True),
        "pid_namespace": False,
    }
    assert done.stderr.count("WARNING") == 1
    assert "sod.sandbox WARNING isolation of programs is reduced, not full: [Errno 1] unshare" in done.stderr


@needs_layers
def test_reduced_keeps_what_it_names() -> None:
    script = (
        "from sod.tools.sandbox.probe import attempts\ns = LocalSandbox(workers=2)\n"
        "print(sorted(name for name, kept in attempts(s).items() if not kept))\ns.close()"
    )
    done = in_container(script)
    assert done.stdout == "[]\n", done.stderr


@needs_layers
@pytest.mark.skipif(not HAVE["scoped"], reason="Landlock does not scope signals before Linux 6.12")
def test_reduced_survives_hostile_programs() -> None:
    programs = [
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal\nfor s in (15, 9): os.kill(-1, s)",  # succeeds, and reaches nobody
        "import os\nfor _ in range(3):\n  if os.fork() == 0: os.setsid()\nopen('left', 'w')",
        "import socket; socket.socket()",
        "open('/dev/shm/x', 'w')",
        "print(__import__('os').listdir('.'), open('../../tmp/x', 'w'))",
    ]
    script = (
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}), workers=1)\nbefore = s.processes()\n"
        f"for r in s.execute([Program(p) for p in {programs!r}]): print(r.status)\n"
        "print(s.processes() == before, s.execute([Program('import os; print(os.listdir())')])[0].stdout)\ns.close()"
    )
    done = in_container(script)
    lines = done.stdout.splitlines()
    assert lines[:6] == ["error", "ok", "ok", "error", "error", "error"], done
    assert lines[6] == "True []"


@needs_layers
@pytest.mark.slow
def test_reduced_sessions() -> None:
    cells = [
        "x = 1; open('f', 'w').write('a')",
        "import os\nprint(x, open('f').read(), os.getcwd())\nif os.fork() == 0:\n  os.setsid()\n  while True: pass",
        "while True: pass",
        "print(os.listdir() if 'os' in dir() else 'anew', __import__('os').getcwd())",
    ]
    script = (
        f"cells = {cells!r}\ns = LocalSandbox(ProgramLimits(seconds=3), workers=2)\n"
        "for r in s.run_cells([Cell(n, c) for c in cells for n in 'ab']): print(r.status, r.stdout, r.stderr)\n"
        "print(len(s.processes()))\ns.end_sessions(['a', 'b'])\nprint(len(s.processes()))\ns.close()\n"
    )
    done = in_container(script)
    homes = re.findall(rf" ({SCRATCH}\S*)", done.stdout)
    words = [re.sub(rf" {SCRATCH}\S*", "", line).strip() for line in done.stdout.splitlines() if line.strip()]
    lost = "stopped after 3 s; the state of this session is lost"
    assert words == [
        *["ok"] * 2, *["ok 1 a"] * 2, *[f"timeout  {lost}"] * 2, *["ok anew"] * 2, "7", "3",
    ], done  # fmt: skip
    assert len(set(homes)) == 4, done  # two of sessions whose state was lost, two of the new ones
    assert not [home for home in homes if Path(home).exists()]  # those of killed ones are gone by now


@needs_layers
def test_nothing_outlives_a_killed_owner_in_reduced() -> None:
    marker = new_marker()
    script = (
        f'import threading, time\np = \'import subprocess; subprocess.run(["sleep", "{marker}"])\'\n'
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}), workers=2)\n"
        "for act, what in ((s.execute, Program(p)), (s.run_cells, Cell('a', p))):\n"
        "  threading.Thread(target=act, args=([what],), daemon=True).start()\n"
        "time.sleep(1000)"
    )
    tools = str(Path(filters.__file__).parents[1])
    owner = subprocess.Popen([sys.executable, "-c", CONTAINER.format(tools=tools) + script], stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: len(sleepers(marker)) == 2)
    finally:
        owner.kill()
        owner.wait()
    assert eventually(lambda: sleepers(marker) == [])


# --- less -----------------------------------------------------------------------------------------


def test_less_is_refused_in_one_line_with_the_fix() -> None:
    pytest.importorskip("pyseccomp")
    script = (
        "import sys\nsys.modules['landlock'] = None\n"
        "try: LocalSandbox()\nexcept SodError as error: print(error)\n"
        "s = LocalSandbox(unsafe=True)\nprint(s.level, s.execute([Program('print(1)')])[0].stdout)\ns.close()"
    )
    done = in_container(script)
    refusal, unsafe, *_ = done.stdout.splitlines()
    assert refusal.startswith("sandbox: OSError: no isolation of: pid_namespace, filesystem (")
    assert "`landlock` is not installed" in refusal
    assert refusal.endswith("or set `unsafe` if you trust the programs")
    assert unsafe == "unsafe 1"
    assert "isolation of programs is unsafe, not full" in done.stderr


# --- the probe ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_probe_measures(sandbox: LocalSandbox) -> None:
    begun = time.monotonic()
    found = probe(sandbox, sessions=5)
    seconds = time.monotonic() - begun
    assert (found.level, found.isolation) == ("full", sandbox.isolation)
    assert set(found.kept.values()) == {True}
    assert 0 < found.median_ms <= found.p95_ms
    assert found.burst_seconds > 0
    # The times are parts of the whole; of the single ones, at least half took the median.
    assert EXECUTIONS / 2 * found.median_ms / 1000 + found.burst_seconds < seconds
    assert found.sessions == 5
    if os.geteuid() == 0:
        assert found.total_mb is not None
        assert 5 < found.total_mb < 100


def test_healthy_says_what_is_wrong() -> None:
    local = LocalSandbox(workers=1)
    assert healthy(local) is None
    local.close()
    fault = healthy(local)
    assert fault is not None
    assert fault.detail == "the sandbox is closed"
    tiny = LocalSandbox(ProgramLimits(output_chars=1), workers=1)
    fault = healthy(tiny)
    tiny.close()
    assert fault is not None
    assert "`print(12*7)` ended as output_limit" in fault.detail
