"""A program does what it would do as `python program.py`: each is run both ways. And what ends it is its own doing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENT

from sod.records import Execution, Program
from sod.tools.sandbox.base import Cell, ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from sod.tools.sandbox.sessions import STATE_LOST


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    made = LocalSandbox(ProgramLimits(seconds=PATIENT, memory_mb=256), workers=1)
    yield made
    made.close()


def as_program(sandbox: LocalSandbox, source: str) -> Execution:
    (result,) = sandbox.execute([Program(source)])
    assert isinstance(result, Execution), result
    return result


def as_cell(sandbox: LocalSandbox, source: str) -> Execution:
    (result,) = sandbox.run_cells([Cell("a", source)])
    assert isinstance(result, Execution), result
    return result


def last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize(
    "source",
    [
        # the builtins of `site`
        "exit()",
        "quit()",
        "exit(0)",
        "exit(5)",
        "quit(-1)",
        "exit('why')",
        "exit(None)",
        "print('a', end=''); exit(3)",
        "print(exit, quit, sep='\\n'); print(repr(help))",
        "print(str(copyright)[:20], len(str(credits)) > 0, type(license).__name__)",
        "help(len)",
        "try: exit()\nexcept SystemExit as e: print('caught', e.code)",
        # integers of more than 4300 digits
        "str(10**5000)",
        "print(10**5000)",
        "int('1' * 5000)",
        "f'{10**4300}'",
        "print(len(str(10**4299)))",
        "import sys; sys.set_int_max_str_digits(0); print(len(str(10**5000)))",
        "print(hex(10**5000)[:9])",
        "x = 1" + "0" * 5000,
        # the module
        "import os; print(__name__, os.path.basename(__file__), os.path.isabs(__file__), __doc__, __package__)",
        "import sys; print(sys.argv, sys.modules['__main__'].__dict__ is globals(), type(__builtins__).__name__)",
        "def f(x: int) -> str: ...\nprint(f.__annotations__)",
        "x: int = 1\nprint(__annotations__)",
        "from dataclasses import dataclass\n@dataclass\nclass A: x: list\nprint(A.__dataclass_fields__['x'].type)",
        # its end
        "input()",
        "import sys; print(repr(sys.stdin.read()))",
        "import atexit; atexit.register(print, 'bye'); print('end')",
        "import atexit; atexit.register(print, 'bye'); atexit.register(print, 'first'); 1/0",
        "import atexit; atexit.register(print, 'bye'); exit(4)",
        "import atexit\n@atexit.register\ndef f(): 1/0\nprint('end')",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('thread'))).start()\n1/0",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('thread'))).start()\nexit(2)",
        "import threading\ndef f(): raise ValueError('in a thread')\nthreading.Thread(target=f).start()",
        "import os\nif os.fork() == 0: exit(7)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
        "import sys; sys.stdout.write('no newline')",
        "import sys\nsys.excepthook = lambda kind, error, frames: print('mine:', error)\nraise ValueError('x')",
        "class A:\n  def __del__(self): print('dropped')\na = A()",
        "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')",
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(print, 'in a pool')",
        "import warnings; warnings.warn('careful')",
        "import inspect\ndef f(): return 1\nprint(inspect.getsource(f))",
        "raise SystemExit(True)",
        "raise SystemExit([1])",
    ],
)
def test_a_program_ends_as_a_file_does(sandbox: LocalSandbox, source: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(source)
    command = [sys.executable, "program.py"]
    file = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    ours = as_program(sandbox, source)
    assert (ours.stdout, ours.exit_code) == (file.stdout, file.returncode)
    assert ours.status == ("error" if file.returncode else "ok")
    if last(file.stderr):
        assert last(ours.stderr).removeprefix("<program>") == last(file.stderr).removeprefix(f"{tmp_path}/program.py")


def test_files_left_open_are_written_out(sandbox: LocalSandbox) -> None:
    source = "f = open('left', 'w'); f.write('text')\ng = open('other', 'wb'); g.write(b'bytes')"
    for ending in ("", "\nexit(2)", "\n1/0"):
        (result,) = sandbox.execute([Program(source + ending, fetch=("left", "other"))])
        assert isinstance(result, Execution)
        assert result.files == {"left": b"text", "other": b"bytes"}


@pytest.mark.parametrize(
    ("source", "status", "exit_code", "said"),
    [
        ("exit()", "ok", 0, "the interpreter ended"),
        ("quit(0)", "ok", 0, "the interpreter ended"),
        ("exit(3)", "error", 3, "process exited with status 3"),
        ("exit('why')", "error", 1, "why\nthe interpreter ended"),
        ("import atexit; atexit.register(print, 'bye'); exit()", "ok", 0, "the interpreter ended"),
    ],
)
def test_exit_ends_a_session(sandbox: LocalSandbox, source: str, status: str, exit_code: int, said: str) -> None:
    as_cell(sandbox, "x = 1")
    result = as_cell(sandbox, source)
    assert (result.status, result.exit_code) == (status, exit_code)
    assert result.stderr == f"{said}; {STATE_LOST}\n"
    assert result.stdout == ("bye\n" if "bye" in source else "")
    assert as_cell(sandbox, "print('x' in globals())").stdout == "False\n"
    sandbox.end_sessions(["a"])


@pytest.mark.parametrize("source", ["str(10**5000)", "int('1' * 5000)"])
def test_long_integers_in_a_session(sandbox: LocalSandbox, source: str) -> None:
    result = as_cell(sandbox, source)
    sandbox.end_sessions(["a"])
    assert (result.status, last(result.stderr).startswith("ValueError: Exceeds the limit (4300")) == ("error", True)


BURN = "\nwhile True: pass"
LOWER = "import resource\nresource.setrlimit(resource.{}, ({}, {}))"


@pytest.mark.parametrize("session", [False, True], ids=["program", "session"])
@pytest.mark.parametrize(
    ("source", "statuses"),
    [
        (LOWER.format("RLIMIT_CPU", 0, 0) + BURN, ["timeout"]),
        (LOWER.format("RLIMIT_CPU", 1, 1) + BURN, ["timeout"]),
        pytest.param(LOWER.format("RLIMIT_CPU", 1, 2) + BURN, ["timeout"], marks=pytest.mark.slow),
        pytest.param(
            LOWER.format("RLIMIT_CPU", 1, 1) + "\nimport signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)" + BURN,
            ["timeout"],
            marks=pytest.mark.slow,
        ),
        # by a process of its own, against its first one
        (
            "import os, resource\nif os.fork() == 0:\n  resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))\n"
            "  os._exit(0)" + BURN,
            ["timeout"],
        ),
        (LOWER.format("RLIMIT_AS", 0, 0) + "\nkeep = [0] * 10**6", ["memory"]),
        (LOWER.format("RLIMIT_DATA", 0, 0) + "\nkeep = [0] * 10**6", ["memory"]),
        (LOWER.format("RLIMIT_FSIZE", 0, 0) + "\nwith open('f', 'w') as f: f.write('x')", ["error"]),
        (LOWER.format("RLIMIT_NOFILE", 0, 0) + "\nopen('f', 'w')", ["error"]),
        (LOWER.format("RLIMIT_NPROC", 0, 0) + "\nimport os; os.fork()", ["error"]),
        (LOWER.format("RLIMIT_STACK", 0, 0) + "\nimport subprocess; subprocess.run(['true'])", ["ok", "error"]),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ["ok", "error"]),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", ["ok", "timeout"]),
        (
            "import os, signal; signal.pthread_kill(__import__('threading').get_ident(), signal.SIGKILL)",
            ["ok", "error"],
        ),
        ("import os, signal; signal.raise_signal(signal.SIGTERM)", ["ok", "error"]),
        ("import signal, time; signal.alarm(1); time.sleep(1.5)", ["ok", "error"]),
        ("import os; os.abort()", ["error"]),
    ],
)
def test_what_a_program_does_to_itself_is_no_fault(
    sandbox: LocalSandbox, source: str, statuses: list[str], session: bool
) -> None:
    """`ok`: the first process of a namespace is not killed by its own signals."""
    servers = sandbox.processes()[:2]
    result = (as_cell if session else as_program)(sandbox, source)
    assert result.status in statuses, result
    sandbox.end_sessions(["a"])
    assert sandbox.processes()[:2] == servers  # no worker had to be replaced


def test_a_cell_that_dies_of_an_earlier_ones_limit_is_a_time_out(sandbox: LocalSandbox) -> None:
    assert as_cell(sandbox, LOWER.format("RLIMIT_CPU", 1, 1)).status == "ok"
    result = as_cell(sandbox, BURN)
    assert (result.status, result.stderr) == ("timeout", f"stopped at its own limit of CPU time; {STATE_LOST}\n")
    sandbox.end_sessions(["a"])
