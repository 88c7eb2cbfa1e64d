"""Sessions of the local sandbox: state that is kept, limits that hold per cell, state that is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import PATIENT, alive, eventually, gone, kill, new_marker, sleepers

from sod.records import Execution, Fault, FaultKind
from sod.tools.sandbox.base import Cell, ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.sessions import STATE_LOST

LIMITS = ProgramLimits(seconds=PATIENT, memory_mb=256, processes=5)
HASTY = ProgramLimits(seconds=2.0, memory_mb=256, processes=5)


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalSandbox]:
    local = LocalSandbox(LIMITS, workers=2)
    yield local
    local.close()


@pytest.fixture
def sandbox(shared: LocalSandbox) -> Iterator[LocalSandbox]:
    yield shared
    shared.end_sessions(["a", "b", "c"])


@pytest.fixture(scope="module")
def shared_hasty() -> Iterator[LocalSandbox]:
    local = LocalSandbox(HASTY, workers=2)
    yield local
    local.close()


@pytest.fixture
def hasty(shared_hasty: LocalSandbox) -> Iterator[LocalSandbox]:
    """For cells that do not end by themselves."""
    yield shared_hasty
    shared_hasty.end_sessions(["a", "b", "c"])


def run(sandbox: LocalSandbox, *sources: str, session: str = "a") -> list[Execution]:
    results = sandbox.run_cells([Cell(session, source) for source in sources])
    executions = [result for result in results if isinstance(result, Execution)]
    assert len(executions) == len(sources), results
    return executions


def session_family(sandbox: LocalSandbox) -> list[int]:
    """First are monitor and fork server of each worker, then the session server's monitor and itself, then sessions."""
    return [pid for pid in sandbox.processes()[2 * sandbox.workers :] if alive(pid)]


def is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_names_imports_and_files_are_kept(sandbox: LocalSandbox) -> None:
    run(sandbox, "import math as m\nx = 41\ndef f(): return x + 1\nclass C: pass\nopen('f', 'w').write('text')")
    results = run(sandbox, "print(f(), m.pi)", "x = 1; print(f())", "import os; print(open('f').read(), os.listdir())")
    assert [r.stdout for r in results] == ["42 3.141592653589793\n", "2\n", "text ['f']\n"]
    assert run(sandbox, "import pickle; print(type(pickle.loads(pickle.dumps(C()))) is C)")[0].stdout == "True\n"
    assert run(sandbox, "print(__name__)")[0].stdout == "__main__\n"


def test_sessions_see_nothing_of_each_other(sandbox: LocalSandbox) -> None:
    run(sandbox, "secret = 1; open('secret', 'w').write('x'); open('/dev/shm/s', 'w')")
    (other,) = run(
        sandbox, "import os\nprint(os.listdir(), os.listdir('/dev/shm'), 'secret' in globals())", session="b"
    )
    assert other.stdout == "[] [] False\n"
    (listing,) = run(sandbox, "print([p for p in os.listdir('/proc') if p.isdigit()])", session="b")
    assert listing.stdout.count("'") == 6  # session server, the other's interpreter and its own: as numbers, no more
    (spied,) = run(
        sandbox, "open('/proc/%s/environ' % min(p for p in os.listdir('/proc') if p.isdigit()))", session="b"
    )
    assert spied.status == "error"


def test_an_exception_leaves_the_state(sandbox: LocalSandbox) -> None:
    ok, failed, after = run(sandbox, "def f(n):\n    return 1 / n", "y = 1\nf(0)", "print(y)")
    assert (ok.status, ok.exit_code) == ("ok", 0)
    assert (failed.status, failed.exit_code) == ("error", 1)
    assert "return 1 / n" in failed.stderr  # the source of an earlier cell
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert after.stdout == "1\n"
    syntax, again = run(sandbox, "x = = 1", "print(y)")
    assert (syntax.status, again.stdout) == ("error", "1\n")


def test_cells_run_in_order_and_sessions_at_the_same_time(sandbox: LocalSandbox) -> None:
    marker = new_marker()
    wait = f"import subprocess; subprocess.run(['sleep', '{marker}'])\nn = 1\nprint(n)"
    cells = [Cell(name, source) for source in (wait, "n += 10\nprint(n)") for name in "ab"]
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(sandbox.run_cells, cells)
        assert eventually(lambda: len(sleepers(marker)) == 2)  # both sessions are at it
        kill(sleepers(marker))
        results = answer.result()
    assert [r.stdout for r in results if isinstance(r, Execution)] == ["1\n", "1\n", "11\n", "11\n"]
    assert sandbox.run_cells([]) == []


@pytest.mark.parametrize(
    ("source", "status", "last", "exit_code"),
    [
        ("while True: pass", "timeout", "stopped after 2 s", None),
        ("import time; time.sleep(9)", "timeout", "stopped after 2 s", None),
        ("z = bytearray(10**10)", "memory", "more than 256 MiB", None),
        ("while True: print('x')", "output_limit", "more than 4096 characters of output", None),
        ("import os; os._exit(3)", "error", "process exited with status 3", 3),
        ("import sys; sys.exit(0)", "ok", "the interpreter ended", 0),
        ("import sys; sys.exit('why')", "error", "the interpreter ended", 1),
        ("import ctypes; ctypes.string_at(0)", "error", "process killed by signal 11", -11),
        ("import os; os.closerange(0, 256)", "error", "the interpreter ended", 1),
    ],
)
def test_how_the_state_is_lost(
    sandbox: LocalSandbox, hasty: LocalSandbox, source: str, status: str, last: str, exit_code: int | None
) -> None:
    sandbox = hasty if status == "timeout" else sandbox
    run(sandbox, "x = 1; open('f', 'w')")
    (result,) = run(sandbox, source)
    assert (result.status, result.exit_code) == (status, exit_code), result
    assert result.stderr.splitlines()[-1] == f"{last}; {STATE_LOST}"
    (anew,) = run(sandbox, "import os; print('x' in globals(), os.listdir())")
    assert anew.stdout == "False []\n"


@pytest.mark.slow
def test_cpu_time_is_limited_per_cell() -> None:
    local = LocalSandbox(ProgramLimits(seconds=PATIENT, cpu_seconds=1), workers=1)
    burn = "import time\nend = time.process_time() + .6\nwhile time.process_time() < end: pass\nprint('done')"
    results = run(local, burn, burn, burn, "while True: pass")
    local.close()
    assert [r.stdout for r in results] == ["done\n"] * 3 + [""]
    assert results[3].status == "timeout"
    assert results[3].stderr == f"stopped after 1 s of CPU time; {STATE_LOST}\n"


def test_processes_are_limited_per_session(sandbox: LocalSandbox) -> None:
    count = (
        "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(9)\n    n += 1\n"
        "except OSError: print(n)"
    )
    cells = [Cell(name, source) for source in ("pass", count, count) for name in "abc"]
    results = sandbox.run_cells(cells)
    assert [r.stdout for r in results[3:] if isinstance(r, Execution)] == ["4\n"] * 6  # and anew in every cell


def test_files_are_limited_together(sandbox: LocalSandbox) -> None:
    fill = "for i in range(5): open(str(i), 'wb').write(bytes(100 << 20))"
    (result,) = run(sandbox, fill)
    assert result.stderr.splitlines()[-1].startswith("OSError: [Errno 28] No space left")


def test_nothing_runs_on_between_cells(sandbox: LocalSandbox) -> None:
    marker = new_marker()
    leave = (
        "import os, subprocess, threading, time\nticks = []\n"
        "def tick():\n  while True: ticks.append(time.monotonic()); time.sleep(.01)\n"
        "threading.Thread(target=tick, daemon=True).start()\n"
        f"subprocess.Popen(['sleep', '{marker}'], start_new_session=True)\n"
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(999)\n"
        "while len(ticks) < 5: time.sleep(.01)"
    )
    run(sandbox, leave)
    assert eventually(lambda: len(session_family(sandbox)) == 3)  # session server and its monitor, and the interpreter
    interpreter = session_family(sandbox)[-1]
    assert sleepers(marker) == []
    assert eventually(lambda: is_frozen(interpreter))
    frozen = time.monotonic()
    time.sleep(0.5)
    thawed = time.monotonic()
    resume = "n = len(ticks)\nwhile len(ticks) == n: time.sleep(.01)\n"
    (resumed,) = run(sandbox, f"{resume}print([t for t in ticks if {frozen} < t < {thawed}])")
    assert resumed.stdout == "[]\n"


def test_a_fork_that_falls_out_of_the_cell_is_not_a_second_interpreter(sandbox: LocalSandbox) -> None:
    for ending in ("pass", "1/0"):
        run(sandbox, f"import os\nx = os.fork()\nif x == 0: {ending}\nelse: os.waitpid(x, 0)")
        assert [r.stdout for r in run(sandbox, *[f"print({i}, x > 0)" for i in range(5)])] == [
            f"{i} True\n" for i in range(5)
        ]


def test_answers_that_were_not_asked_for_end_the_session(sandbox: LocalSandbox) -> None:
    forge = "import os\nfor fd in range(3, 256):\n  try: os.write(fd, b'\\0' * 50)\n  except OSError: pass"
    (forged,) = run(sandbox, forge)
    assert forged.stderr == f"the interpreter ended; {STATE_LOST}\n"
    assert [r.stdout for r in run(sandbox, *[f"print({i})" for i in range(3)])] == ["0\n", "1\n", "2\n"]


def test_output_of_one_cell_does_not_reach_the_next(sandbox: LocalSandbox) -> None:
    late = (
        "import threading\nsecond_cell = threading.Event()\n"
        "thread = threading.Thread(target=lambda: (second_cell.wait(), print('late')))\nthread.start()"
    )
    first, second = run(sandbox, late, "second_cell.set(); thread.join(); print('second')")
    assert first.stdout == ""
    assert second.stdout == "late\nsecond\n"  # what a thread prints later is in the cell then running


@pytest.mark.parametrize(
    "source",
    [
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "import os\nfor fd in range(3, 256):\n  try: os.write(fd, b'\\x00' * 999)\n  except OSError: pass",
        "import os\nfor fd in range(3, 256):\n  try: os.write(fd, b'\\xff')\n  except OSError: pass",
        "import os, signal\nfor s in (2, 9, 15, 19): os.kill(-1, s)",
        "import os, signal\nos.kill(1, signal.SIGKILL); os.kill(os.getppid(), signal.SIGKILL)",
        "import builtins\nfor name in list(vars(builtins)): delattr(builtins, name)",
        "import sys\nfor m in list(sys.modules.values()): m.__dict__.clear()",
        "import os, signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
    ],
)
def test_hostile_cells_harm_only_themselves(hasty: LocalSandbox, source: str) -> None:
    run(hasty, "x = 5", session="b")
    results = hasty.run_cells([Cell("a", source), Cell("a", "pass")])
    assert all(isinstance(result, Execution) for result in results), results
    assert run(hasty, "print(x)", session="b")[0].stdout == "5\n"
    hasty.end_sessions(["a"])
    assert run(hasty, "print(1)")[0].stdout == "1\n"


def test_ending_forgets_and_kills(sandbox: LocalSandbox) -> None:
    run(sandbox, "x = 1")
    run(sandbox, "x = 1", session="b")
    assert len(session_family(sandbox)) == 4
    sandbox.end_sessions(["a", "b", "a", "never begun"])
    assert len(session_family(sandbox)) == 2
    assert run(sandbox, "print('x' in globals())")[0].stdout == "False\n"


def test_ending_a_session_that_runs(sandbox: LocalSandbox) -> None:
    marker = new_marker()
    got: list[Execution | Fault] = []
    cell = Cell("a", f"import subprocess; subprocess.run(['sleep', '{marker}'])")
    caller = threading.Thread(target=lambda: got.extend(sandbox.run_cells([cell] * 2)))
    caller.start()
    assert eventually(lambda: len(sleepers(marker)) == 1)
    begun = time.monotonic()
    sandbox.end_sessions(["a"])
    caller.join()
    assert time.monotonic() - begun < PATIENT / 3  # not by the time limit
    assert [(r.kind, r.retryable) for r in got if isinstance(r, Fault)] == [(FaultKind.SESSION, False)] * 2


@pytest.mark.parametrize("victim", [0, 1, 2])  # the monitor, the session server, the interpreter
def test_a_session_lost_by_our_doing_is_a_fault_until_it_is_ended(victim: int) -> None:
    local = LocalSandbox(LIMITS, workers=1)
    run(local, "x = 1")
    family = session_family(local)
    kill([family[victim]])
    assert gone(family[victim:])
    for _ in range(2):
        (fault,) = local.run_cells([Cell("a", "print(x)")])
        assert isinstance(fault, Fault)
        assert (fault.kind, fault.retryable) == (FaultKind.SESSION, False)
    assert run(local, "print(2)", session="b")[0].stdout == "2\n"  # others begin
    local.end_sessions(["a"])
    assert run(local, "print('x' in globals())")[0].stdout == "False\n"
    local.close()


def test_random_numbers_differ_between_sessions(sandbox: LocalSandbox) -> None:
    results = sandbox.run_cells([Cell(name, "import random; print(random.random())") for name in "abc"])
    assert len({r.stdout for r in results if isinstance(r, Execution)}) == 3


def test_close_leaves_no_process_and_then_faults() -> None:
    local = LocalSandbox(LIMITS, workers=1)
    run(local, "x = 1")
    pids = local.processes()
    assert len(pids) == 5
    local.close()
    local.close()
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    (fault,) = local.run_cells([Cell("a", "print(x)")])
    assert isinstance(fault, Fault)
    assert not fault.retryable


@pytest.mark.slow
def test_two_hundred_sessions_in_600_mib() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may see the memory of other users' processes")
    pytest.importorskip("numpy")
    pytest.importorskip("sympy")
    local = LocalSandbox(ProgramLimits(seconds=PATIENT), preload=["numpy", "sympy"])
    names = [str(i) for i in range(200)]
    local.run_cells([Cell(name, f"import numpy, sympy\nx = {name}") for name in names])
    results = local.run_cells([Cell(name, "print(x)") for name in names])
    kib = 0
    for pid in local.processes():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    local.close()
    assert [r.stdout for r in results if isinstance(r, Execution)] == [f"{name}\n" for name in names]
    assert kib / 1024 < 600
