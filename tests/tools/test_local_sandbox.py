"""The local sandbox: real processes, hostile programs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from processes import (
    PATIENT,
    children,
    descendants,
    eventually,
    gone,
    kill,
    mine,
    new_marker,
    programs,
    sleepers,
)

from sod.records import Execution, Fault, Program, SodError
from sod.tools.sandbox.base import ProgramLimits, Recall, Sandbox
from sod.tools.sandbox.local import LocalSandbox

LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=256)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    local = LocalSandbox(LIMITS)
    yield local
    local.close()


def run(sandbox: Sandbox, program: str, seconds: float | None = None) -> Execution:
    (result,) = sandbox.execute([Program(program, seconds=seconds)])
    assert isinstance(result, Execution), result
    return result


def sleeping(marker: str, then: str) -> Program:
    """Sleeps until the `sleep` with this marker is killed, then goes on."""
    return Program(f"import subprocess\nsubprocess.run(['sleep', '{marker}'])\n{then}")


# --- ordinary programs ----------------------------------------------------------------------------


def test_ok(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    result = run(sandbox, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.status, result.stdout, result.stderr) == ("ok", "out\n", "err\n")
    assert 0 < result.seconds < time.monotonic() - begun


def test_runs_as_main_with_fresh_globals(sandbox: Sandbox) -> None:
    assert run(sandbox, "if __name__ == '__main__': print('main'); leak = 1").stdout == "main\n"
    assert run(sandbox, "print('leak' in globals(), sorted(k for k in globals() if k[0] != '_'))").stdout == (
        "False []\n"
    )
    classes = "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)"
    assert run(sandbox, classes).stdout == "True\n"


def test_traceback(sandbox: Sandbox) -> None:
    result = run(sandbox, "def f():\n    return 1/0\nprint('before')\nf()")
    assert (result.status, result.stdout) == ("error", "before\n")
    assert result.stderr.startswith('Traceback (most recent call last):\n  File "<program>", line 4')
    assert "return 1/0" in result.stderr
    assert "fork_server" not in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("program", "status", "last"),
    [
        ("import sys; sys.exit()", "ok", ""),
        ("import sys; sys.exit(0)", "ok", ""),
        ("import sys; sys.exit(1)", "error", "process exited with status 1"),
        ("import sys; sys.exit('why')", "error", "why"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("import os; os._exit(3)", "error", "process exited with status 3"),
        ("import os; os._exit(86)", "memory", "more than 256 MiB"),
        ("import ctypes; ctypes.string_at(0)", "error", "process killed by signal 11"),
        ("x = '\\ud800'; print(x)", "error", None),
        ("raise MemoryError", "memory", "more than 256 MiB"),
        ("x = [0] * 10**10", "memory", "more than 256 MiB"),
        ("x = b'x'\nwhile True: x += x", "memory", "more than 256 MiB"),
        ("def f(): f()\nf()", "error", "RecursionError: maximum recursion depth exceeded"),
        ("a = 1\x00", "error", "source code string cannot contain null bytes"),
        ("a = '\ud800'", "error", None),
        ("(" * 300, "error", None),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E", "error", "<exception str() failed>"),
    ],
)
def test_how_programs_end(sandbox: Sandbox, program: str, status: str, last: str | None) -> None:
    result = run(sandbox, program)
    assert result.status == status, result
    if last is not None:
        assert (result.stderr.strip().splitlines() or [""])[-1].endswith(last)


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(100)"])
def test_a_program_that_does_not_end_is_stopped(sandbox: Sandbox, program: str) -> None:
    result = run(sandbox, program, seconds=1.0)
    assert (result.status, result.stderr) == ("timeout", "stopped after 1 s\n")
    assert 1.0 <= result.seconds < PATIENT


def test_threads_are_waited_for(sandbox: Sandbox) -> None:
    program = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()"
    assert run(sandbox, program).stdout == "late\n"
    pool = "from concurrent.futures import ThreadPoolExecutor as P\np = P(2)\nprint(list(p.map(abs, [-1, -2])))"
    assert run(sandbox, pool).stdout == "[1, 2]\n"


def test_subprocesses_work(sandbox: Sandbox) -> None:
    result = run(sandbox, "import subprocess; print(subprocess.run(['echo', 'x'], capture_output=True).stdout)")
    assert result.stdout == "b'x\\n'\n", result
    pool = "import multiprocessing as m\nif __name__ == '__main__':\n  print(m.Pool(2).map(abs, [-1, -2]))"
    assert run(sandbox, pool).stdout == "[1, 2]\n"


def test_stdin_is_given(sandbox: Sandbox) -> None:
    reads = "import sys\nprint(input(), sys.stdin.readline(), repr(sys.stdin.read()), sys.stdin.isatty())"
    (result,) = sandbox.execute([Program(reads, stdin="é\nb\n" + "c" * 200_000)])
    assert isinstance(result, Execution)
    assert result.status == "output_limit"
    assert result.stdout.startswith("é b\n 'cccc")
    (lines,) = sandbox.execute([Program("print(sum(int(x) for x in open(0)))", stdin="1\n2\n3\n")])
    assert isinstance(lines, Execution)
    assert lines.stdout == "6\n"
    assert run(sandbox, "import sys; print(repr(sys.stdin.read()))").stdout == "''\n"  # not the last one's


def test_stdin_is_empty(sandbox: Sandbox) -> None:
    assert run(sandbox, "import sys; print(repr(sys.stdin.read()))").stdout == "''\n"
    assert run(sandbox, "input()").stderr.endswith("EOFError: EOF when reading a line\n")


def test_output_limit_is_in_characters(sandbox: Sandbox) -> None:
    exact = run(sandbox, "import sys; sys.stdout.write('é' * 4096)")
    assert (exact.status, exact.stdout) == ("ok", "é" * 4096)
    over = run(sandbox, "import sys; sys.stdout.write('é' * 4097)")
    assert (over.status, over.stdout) == ("output_limit", "é" * 4096)
    endless = run(sandbox, "while True: print('x')")
    assert (endless.status, endless.stdout) == ("output_limit", "x\n" * 2048)
    assert endless.seconds < PATIENT


def test_of_stderr_the_tail_is_kept(sandbox: Sandbox) -> None:
    result = run(sandbox, "import sys\nfor i in range(20000): print('warn', file=sys.stderr)\n1/0")
    assert (result.status, len(result.stderr)) == ("error", 4096)
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_order_and_concurrency(sandbox: Sandbox) -> None:
    marker = new_marker()
    asked = [
        sleeping(marker, "print(0)"),
        sleeping(marker, "print(1)"),
        *[Program(f"print({i})") for i in range(2, 20)],
    ]
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(sandbox.execute, asked)
        assert eventually(lambda: len(sleepers(marker)) == 2)  # both workers are at it
        kill(sleepers(marker))
        results = answer.result()
    assert [r.stdout for r in results if isinstance(r, Execution)] == [f"{i}\n" for i in range(20)]
    assert sandbox.execute([]) == []


def test_deterministic_across_workers(sandbox: Sandbox) -> None:
    results = sandbox.execute([Program("print({'a', 'b', 'c', 'delta'}, hash('x'), dir())")] * 8)
    assert len({r.stdout for r in results if isinstance(r, Execution)}) == 1


def test_random_numbers_differ_between_calls(sandbox: Sandbox) -> None:
    results = sandbox.execute([Program("import random; print(random.random())")] * 4)
    assert len({r.stdout for r in results if isinstance(r, Execution)}) == 4


def test_callers_in_several_threads(sandbox: Sandbox) -> None:
    got: dict[int, list[Execution | Fault]] = {}

    def work(i: int) -> None:
        got[i] = sandbox.execute([Program(f"print({i})")] * 5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in got.items():
        assert [r.stdout for r in results if isinstance(r, Execution)] == [f"{i}\n"] * 5


def test_exit_codes(sandbox: Sandbox) -> None:
    codes = {
        "": 0, "1/0": 1, "import os; os._exit(3)": 3, "import ctypes; ctypes.string_at(0)": -11,
        "x = [0] * 10**10": None, "while True: print('x')": None,
    }  # fmt: skip
    results = sandbox.execute([*map(Program, codes), Program("import time; time.sleep(9)", seconds=1.0)])
    assert [r.exit_code for r in results if isinstance(r, Execution)] == [*codes.values(), None]


def test_files_go_in_and_come_back(sandbox: Sandbox) -> None:
    source = (
        "import os\nprint(open('a.bin', 'rb').read(), open('d/e/f.txt').read())\n"
        "open('out', 'wb').write(bytes(range(256)))\nos.makedirs('x/y'); open('x/y/z', 'w').write('deep')\n"
        "open('a.bin', 'w').write('changed')"
    )
    files = {"a.bin": b"\0\xff", "d/e/f.txt": b"text"}
    fetch = ("out", "x/y/z", "a.bin", "d/e/f.txt", "missing", "x", "x/y/z/none")
    (result,) = sandbox.execute([Program(source, files=files, fetch=fetch)])
    assert isinstance(result, Execution)
    assert result.stdout == "b'\\x00\\xff' text\n"
    expected = {"out": bytes(range(256)), "x/y/z": b"deep", "a.bin": b"changed", "d/e/f.txt": b"text"}
    assert result.files == expected
    assert list(result.files) == ["out", "x/y/z", "a.bin", "d/e/f.txt"]


def test_files_of_a_stopped_program_come_back(sandbox: Sandbox) -> None:
    endless = Program("open('a', 'w').write('b')\nwhile True: pass", fetch=("a",), seconds=2.0)
    (result,) = sandbox.execute([endless])
    assert isinstance(result, Execution)
    assert (result.status, result.files) == ("timeout", {"a": b"b"})


def test_only_plain_files_of_the_scratch_directory_come_back(sandbox: Sandbox) -> None:
    source = (
        "import os\nos.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'dir'); os.mkfifo('fifo')\n"
        "os.symlink('/proc/self/environ', 'env'); open('closed', 'w').write('x'); os.chmod('closed', 0)\n"
        "open('huge', 'wb').truncate((16 << 20) + 1); open('half', 'wb').truncate(9 << 20)\n"
        "os.link('half', 'other')"
    )
    fetch = ("link", "dir/passwd", "fifo", "env", "huge", "half", "other")
    (result,) = sandbox.execute([Program(source, fetch=fetch)])
    assert isinstance(result, Execution)
    assert result.status == "ok", result
    assert result.files == {"half": bytes(9 << 20)}  # `other` would be more than 16 MiB together with it


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "./a", "a/", "a\0b", "x" * 256])
def test_names_that_leave_the_scratch_directory_are_the_callers_bug(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative file name"):
        sandbox.execute([Program("", files={name: b""})])
    with pytest.raises(ValueError, match="not a plain relative file name"):
        sandbox.execute([Program("", fetch=(name,))])


def test_files_that_cannot_be_placed_are_the_callers_bug(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="16 MiB in all"):
        sandbox.execute([Program("", files={"a": bytes(16 << 20), "b": b"x"})])
    with pytest.raises(ValueError, match="2 MiB in all"):
        sandbox.execute([Program("", files={"a": bytes(3 << 20)}, memory_mb=2)])
    with pytest.raises(ValueError, match="lies below another file"):
        sandbox.execute([Program("", files={"a": b"", "a/b": b""})])
    with pytest.raises(ValueError, match="at most 1000"):
        sandbox.execute([Program("", files={str(i): b"" for i in range(1001)})])
    with pytest.raises(ValueError, match="must be positive"):
        sandbox.execute([Program("", seconds=0)])


def test_limits_of_a_program_replace_the_sandboxs() -> None:
    holes = "x = bytearray(400 << 20); open('f', 'wb').truncate(300 << 20); print('done')"
    local = LocalSandbox(ProgramLimits(seconds=1.5, memory_mb=256))
    slow, quick, large, small = local.execute(
        [
            Program("import time; time.sleep(1.8); print('done')", seconds=PATIENT),
            Program("while True: pass", seconds=1.0),
            Program(holes, seconds=PATIENT, memory_mb=500),
            Program("x = bytearray(400 << 20)", seconds=PATIENT, memory_mb=300),
        ]
    )
    local.close()
    assert isinstance(slow, Execution)
    assert isinstance(quick, Execution)
    assert isinstance(large, Execution)
    assert isinstance(small, Execution)
    assert (slow.status, slow.stdout) == ("ok", "done\n")
    assert (quick.status, quick.stderr) == ("timeout", "stopped after 1 s\n")
    assert (large.status, large.stdout) == ("ok", "done\n")
    assert (small.status, small.stderr) == ("memory", "more than 300 MiB\n")


def test_an_interrupted_caller_does_not_disturb_others() -> None:
    """Ctrl-C reaches the main thread only; another thread's programs go on, and so does the sandbox."""
    script = (
        "import os, signal, threading, time\nfrom sod.records import Program\n"
        "from sod.tools.sandbox.base import ProgramLimits\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs begin without
        "from sod.tools.sandbox.local import LocalSandbox\n"
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}), workers=2)\n"
        "got = []\ndef other():\n"
        "  for i in range(30):\n"
        "    got.append(s.execute([Program(f'import time; time.sleep(.02); print({i})')])[0].stdout)\n"
        "t = threading.Thread(target=other)\n"
        "def interrupt():\n"
        "  t.start()\n"
        "  while len(s.processes()) < 4 + 2: time.sleep(.001)\n"  # of the two programs the other's is one at most
        "  os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        "  threading.Thread(target=interrupt).start()\n"
        "  s.execute([Program('import time; time.sleep(.5); print(\"wrong\")')] * 9)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
        "print(s.execute([Program('print(\"right\")')] * 3)[2].stdout.strip())\n"
        "t.join(); print(got == [f'{i}\\n' for i in range(30)])\ns.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=2 * PATIENT)
    assert done.stdout.split() == ["interrupted", "right", "True"], done.stderr


def test_closing_ends_what_still_runs() -> None:
    local = LocalSandbox(LIMITS, workers=1)
    got: list[Execution | Fault] = []
    caller = threading.Thread(target=lambda: got.extend(local.execute([Program("while True: pass")] * 3)))
    caller.start()
    assert eventually(lambda: len(programs(local)) == 1)
    begun = time.monotonic()
    local.close()
    caller.join()
    assert time.monotonic() - begun < PATIENT / 3  # not by the time limit
    assert [(type(r), getattr(r, "retryable", None)) for r in got] == [(Fault, False)] * 3


# --- hostile programs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "import os\nwhile True:\n  if os.fork() == 0: os.setsid()",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal\nfor s in (2, 9, 15, 19): os.kill(-1, s)",
        "import os, signal\nos.killpg(0, signal.SIGKILL)",
        "import os\nos.closerange(0, 100)",
        "import os\nfor fd in range(100):\n  try: os.write(fd, b'\\x00' * 999)\n  except OSError: pass",
        "import os\nfor fd in range(3, 100):\n  try: os.read(fd, 9); print('read', fd)\n  except OSError: pass",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()",
        "import resource\nfor p in range(1, 9):\n  try: resource.prlimit(p, resource.RLIMIT_CPU, (0, 0))\n"
        "  except OSError: pass",
        "import os, sys\nsys.stdout = None\nos.close(1)\nraise SystemExit",
        "import builtins\nfor name in list(vars(builtins)): delattr(builtins, name)",
        "import os, signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        "import os\nfor i in range(10**6): os.mkdir('d'); os.chdir('d')",
        "import os\nfor i in range(10**5): open(str(i), 'w')\nos.chmod('.', 0)",
        "import os\nf = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    ],
)
def test_the_sandbox_survives(sandbox: Sandbox, program: str) -> None:
    before = mine()
    run(sandbox, program, seconds=2.0)
    assert mine() == before  # no worker had to be replaced
    results = sandbox.execute([Program("print(12*7)")] * 4)
    assert [r.stdout for r in results if isinstance(r, Execution)] == ["84\n"] * 4


def test_no_survivors(sandbox: Sandbox) -> None:
    marker = new_marker()
    program = (
        "import os, subprocess, time\n"
        f"for _ in range(3): subprocess.Popen(['sleep', '{marker}'], start_new_session=True)\n"
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(1000)\n"
        "print('started', flush=True)\n"
    )
    # Other tests of the session may have left children of another kind (a tracker's service).
    monitors = [child for child in mine() if len(descendants(child)) == 1]
    assert monitors
    for ending, status, seconds in (("", "ok", None), ("time.sleep(1000)", "timeout", 4.0), ("1/0", "error", None)):
        result = run(sandbox, program + ending, seconds)
        assert (result.status, result.stdout.splitlines()[0]) == (status, "started")
        assert sleepers(marker) == []
        assert eventually(lambda: all(len(descendants(monitor)) == 1 for monitor in monitors))


def test_processes_are_limited() -> None:
    count = (
        "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(9)\n    n += 1\n"
        "except OSError: print(n)"
    )
    local = LocalSandbox(ProgramLimits(seconds=PATIENT, processes=5), workers=2)
    results = local.execute([Program(count)] * 4)
    local.close()
    assert [r.stdout for r in results if isinstance(r, Execution)] == ["4\n"] * 4


def test_cpu_time_is_limited() -> None:
    local = LocalSandbox(ProgramLimits(seconds=PATIENT, cpu_seconds=1), workers=1)
    result = run(local, "while True: pass")
    local.close()
    assert (result.status, result.stderr) == ("timeout", "stopped after 1 s of CPU time\n")


def test_no_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # reachable from here
        result = run(sandbox, f"import socket; socket.create_connection(('127.0.0.1', {port}), .5)")
    assert result.status == "error"
    assert "OSError: [Errno" in result.stderr
    assert run(sandbox, "import socket; print(socket.if_nameindex())").stdout == "[(1, 'lo')]\n"


def test_no_privileges(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert run(sandbox, "import os; os.setuid(0)").stderr.startswith("Traceback")
    assert run(sandbox, "import os; os.chroot('.')").stderr.startswith("Traceback")
    assert run(sandbox, f"open({str(secret)!r}, 'w')").status == "error"
    for path in (Path(__file__).parent / "written", Path.home() / "written", Path("/usr/written")):
        assert run(sandbox, f"open({str(path)!r}, 'w')").status == "error"
        assert not path.exists()
    capabilities = run(sandbox, "print([l for l in open('/proc/self/status') if l[:6] == 'CapEff'])").stdout
    assert "0000000000000000" in capabilities
    unshare = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"
    assert run(sandbox, unshare).stdout == "-1\n"


def test_host_processes_are_invisible(sandbox: Sandbox) -> None:
    listing = "import os; print([p for p in os.listdir('/proc') if p.isdigit()])"
    assert run(sandbox, listing).stdout.count("'") == 4  # the fork server and the program
    assert run(sandbox, "open('/proc/1/mem', 'rb')").status == "error"


def test_files_are_gone_at_the_next_call() -> None:
    local = LocalSandbox(LIMITS, workers=1)
    listing = "import os; print(os.listdir('.'), os.listdir('/dev/shm'), os.stat('.').st_mode & 0o777 == 0o700)"
    assert run(local, listing).stdout == "[] [] True\n"
    write = (
        "import os, tempfile\nopen('a', 'w').write('x'); os.mkdir('d'); open('d/f', 'w')\n"
        "open('/dev/shm/s', 'w'); tempfile.mkstemp(); os.chmod('d', 0); print(len(os.listdir('.')), open('a').read())"
    )
    assert run(local, write).status == "ok"
    assert run(local, listing).stdout == "[] [] True\n"
    module = "open('helper.py', 'w').write('y = 3')\nimport helper\nprint(helper.y)"
    assert run(local, module).stdout == "3\n"
    assert run(local, "import helper").status == "error"
    local.close()


# --- failures of ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])  # the monitor, the fork server
def test_a_lost_worker_is_replaced_and_the_program_retried(depth: int) -> None:
    before = mine()
    local = LocalSandbox(LIMITS, workers=2)
    monitors = [pid for pid in mine() if pid not in before]
    victims = [[monitor, *children(monitor)][depth] for monitor in monitors]
    marker = new_marker()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(local.execute, [sleeping(marker, f"print({i})") for i in range(3)])
        assert eventually(lambda: len(sleepers(marker)) == 2)
        lost = sleepers(marker)
        kill(victims)
        assert gone(lost)  # with their namespaces
        while not answer.done():  # the retried two and the third go on
            kill(sleepers(marker))
            time.sleep(0.01)
        results = answer.result()
    assert [r.stdout for r in results if isinstance(r, Execution)] == ["0\n", "1\n", "2\n"]
    assert gone(victims)
    local.close()
    assert mine() == before


def test_killed_while_idle() -> None:
    before = mine()
    local = LocalSandbox(LIMITS, workers=2)
    kill([pid for pid in mine() if pid not in before])
    results = local.execute([Program("print(1)")] * 4)
    assert [r.stdout for r in results if isinstance(r, Execution)] == ["1\n"] * 4
    local.close()


def test_fault_when_no_worker_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mine()
    local = LocalSandbox(LIMITS, workers=2)
    monitors = [pid for pid in mine() if pid not in before]
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(local.execute, [Program("import time; time.sleep(1000)")] * 3)
        assert eventually(lambda: len(programs(local)) == 2)
        kill(monitors)
        results = answer.result()
    assert [type(r) for r in results] == [Fault] * 3
    assert all(r.kind == "sandbox" for r in results if isinstance(r, Fault))
    monkeypatch.undo()
    assert run(local, "print(1)").stdout == "1\n"  # better times
    local.close()


def test_fault_after_two_losses() -> None:
    before = mine()
    local = LocalSandbox(LIMITS, workers=1)
    marker = new_marker()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(local.execute, [sleeping(marker, "")])
        for _ in range(2):
            assert eventually(lambda: len(sleepers(marker)) == 1)
            sleeper = sleepers(marker)
            lost = [pid for pid in mine() if pid not in before]
            kill(lost)
            assert gone(sleeper)
        (result,) = answer.result()
    assert isinstance(result, Fault)
    assert (result.kind, "(2 attempts)" in result.detail) == ("sandbox", True)
    local.close()
    assert mine() == before


def test_close_is_idempotent_and_leaves_nothing() -> None:
    before = mine()
    local = LocalSandbox(workers=2)
    monitors = [pid for pid in mine() if pid not in before]
    pids = [pid for monitor in monitors for pid in (monitor, *descendants(monitor))]
    assert len(pids) == 4
    local.close()
    local.close()
    assert gone(pids)
    assert [type(r) for r in local.execute([Program("print(1)")])] == [Fault]


def test_nothing_outlives_the_killed_owner(tmp_path: Path) -> None:
    marker = new_marker()
    script = (
        "import os, threading, time\nfrom sod.records import Program\n"
        "from sod.tools.sandbox.base import ProgramLimits\n"
        "from sod.tools.sandbox.local import LocalSandbox\n"
        f"s = LocalSandbox(ProgramLimits(seconds={PATIENT}), workers=2)\n"
        "if os.fork() == 0: time.sleep(1000)\n"  # holds copies of the channels
        f's.execute([Program(\'import subprocess; subprocess.run(["sleep", "{marker}"])\')] * 2)'
    )
    owner = subprocess.Popen([sys.executable, "-c", script])
    assert eventually(lambda: len(sleepers(marker)) == 2)
    family = descendants(owner.pid)
    (bystander,) = [pid for pid in children(owner.pid) if not children(pid)]
    family.remove(bystander)
    assert len(family) >= 8
    owner.kill()
    owner.wait()
    assert gone(family)
    os.kill(bystander, signal.SIGKILL)


def test_a_sandbox_outlives_the_thread_that_made_it() -> None:
    made: list[LocalSandbox] = []
    thread = threading.Thread(target=lambda: made.append(LocalSandbox(workers=1)))
    thread.start()
    thread.join()
    assert eventually(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())
    before = mine()
    assert run(made[0], "print(1)").stdout == "1\n"
    assert mine() == before
    made[0].close()


def test_without_namespaces_only_unsafe_starts() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1)")
    script = (
        "import sys\nfrom sod.records import Program, SodError\nfrom sod.tools.sandbox.local import LocalSandbox\n"
        "try: LocalSandbox()\nexcept SodError as error: print(error)\n"
        "s = LocalSandbox(unsafe=True)\nprint(s.isolation)\n"
        'p = \'import os, time\\nopen("f", "w")\\n'
        "if os.fork() == 0: os.setsid(); time.sleep(76543)\\nprint(os.listdir(), os.getcwd())'\n"
        "print([r.stdout for r in s.execute([Program(p)] * 4)])\ns.close()"
    )
    shell = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    command = ["unshare", "-Ur", "sh", "-c", shell, sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENT)
    if done.stderr.startswith("unshare:"):
        pytest.skip("user namespaces are not permitted")
    error, isolation, output = done.stdout.splitlines()
    assert error.startswith("sandbox: OSError: no isolation of: ")
    assert "unprivileged, pid_namespace" in error
    assert "'pid_namespace': False" in isolation
    listings, homes = zip(*(said.split() for said in eval(output)), strict=True)
    assert listings == ("['f']",) * 4
    assert not [home for home in homes if Path(home).exists()]  # those of killed ones go with a start


def test_start_errors_are_one_line() -> None:
    with pytest.raises(SodError, match=r"^sandbox: .*no_such_module[^\n]*$"):
        LocalSandbox(preload=["no_such_module"])
    with pytest.raises(SodError, match="workers must be at least 1"):
        LocalSandbox(workers=0)
    with pytest.raises(ValueError, match="must be positive"):
        ProgramLimits(seconds=0)


def test_preloaded_modules() -> None:
    pytest.importorskip("numpy")
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), preload=["numpy"], workers=2)
    results = local.execute([Program("import numpy as np; print(np.arange(4).sum(), np.random.rand())")] * 4)
    outputs = [r.stdout.split() for r in results if isinstance(r, Execution)]
    assert [words[0] for words in outputs] == ["6"] * 4
    assert len({words[1] for words in outputs}) == 4
    big = run(local, "import numpy as np; np.ones(10**10)")
    assert big.status == "memory"
    local.close()


@pytest.mark.slow
def test_throughput(sandbox: Sandbox) -> None:
    """200 programs take less than half the time of 200 new interpreters one after the other, on any machine."""

    def interpreters(count: int) -> float:
        begun = time.monotonic()
        for _ in range(count):
            subprocess.run([sys.executable, "-c", "print(12*7)"], capture_output=True, check=True)
        return time.monotonic() - begun

    new = interpreters(10)
    begun = time.monotonic()
    results = sandbox.execute([Program("print(12*7)")] * 200)
    seconds = time.monotonic() - begun
    new += interpreters(10)
    assert seconds < 0.5 * 10 * new
    assert all(isinstance(r, Execution) and r.stdout == "84\n" for r in results)


def test_a_program_called_off_before_its_source_begins_costs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def hasty(recall: Recall, stop: Callable[[], None]) -> Iterator[None]:
        stop()
        yield

    monkeypatch.setattr(Recall, "running", hasty)
    with closing(LocalSandbox(ProgramLimits(seconds=PATIENT), workers=1)) as local:
        workers = local.processes()
        results = [local.execute([Program("while True: pass")], Recall())[0] for _ in range(10)]
        assert run(local, "print(1)").stdout == "1\n"
        assert local.processes() == workers
    assert not any(isinstance(result, Fault) for result in results), results
