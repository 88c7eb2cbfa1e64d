"""Trying a sandbox out: what it really keeps from programs, and how fast it is.

`sod sandbox probe` shows the whole of it; a run asks `healthy` before its first step.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sod.records import Execution, Fault, FaultKind, Program, SodError
from sod.tools.sandbox.base import Cell, Sandbox
from sod.tools.sandbox.local import LocalSandbox

EXECUTIONS = 40
EPISODES, CALLS = 64, 5
SESSIONS = 200
TRIVIAL, ANSWER = "print(12*7)", "84\n"
THROUGH = "got through"

CONNECT = f"import socket\nsocket.create_connection(('127.0.0.1', {{port}}), 0.5)\nprint({THROUGH!r})"
TRY_ALL = (
    f"for path in {{paths!r}}:\n  try:\n    open(path, {{mode!r}})\n    print({THROUGH!r})\n  except OSError: pass"
)
SEE = "print(open('/proc/{pid}/cmdline').read())"
FORK = (
    "import os, time\nn = 0\ntry:\n  while n < 500:\n    if os.fork() == 0: time.sleep(9)\n    n += 1\n"
    f"  print({THROUGH!r})\nexcept OSError: pass"
)
MEMORY = f"x = bytearray(96 << 20)\nprint({THROUGH!r})"
FILL = f"for name in 'abcd':\n  open(name, 'wb').write(bytes(24 << 20))\nprint({THROUGH!r})"
SOCKETS = (
    "import socket\nfor family, kind in ((1, 1), (1, 2), (40, 1), (38, 5), (30, 1)):\n"
    f"  try:\n    socket.socket(family, kind)\n    print({THROUGH!r})\n  except OSError: pass"
)
SHARED = (
    "import ctypes\nlibc = ctypes.CDLL(None)\n"
    f"if max(libc.shmget(0, 4096, 0o600), libc.msgget(0, 0o600), libc.semget(0, 1, 0o600)) >= 0: print({THROUGH!r})"
)
LIMITS = (
    "import os, resource\nfor attempt in (lambda: resource.prlimit({pid}, resource.RLIMIT_NOFILE), "
    "lambda: os.sched_setaffinity({pid}, [0]), lambda: os.kill({pid}, 0)):\n"
    f"  try:\n    attempt()\n    print({THROUGH!r})\n  except OSError: pass"
)
SURVIVE = "import subprocess\nsubprocess.Popen(['sleep', '{seconds}'], start_new_session=True)\nprint('left it')"


@final
@dataclass(frozen=True)
class Probe:
    """What trying a sandbox out has shown.

    `kept` names what programs really tried; True: it was kept from them. Times are of programs that
    print one line: milliseconds from call to result, one at a time, and the seconds that EPISODES
    threads with CALLS calls each took. `total_mb` is the memory (MiB, proportional set size) of all
    processes of the sandbox while `sessions` sessions were open, each after one trivial cell; None
    where this user may not see it.
    """

    level: str
    isolation: Mapping[str, bool]
    kept: Mapping[str, bool]
    median_ms: float
    p95_ms: float
    burst_seconds: float
    sessions: int
    total_mb: float | None


def healthy(sandbox: Sandbox) -> Fault | None:
    """None where the sandbox answers one trivial program rightly, else the fault, or one that says what it answered."""
    (outcome,) = sandbox.execute([Program(TRIVIAL)])
    if isinstance(outcome, Fault):
        return outcome
    if (outcome.status, outcome.stdout) != ("ok", ANSWER):
        said = (outcome.stdout + outcome.stderr).strip()[-200:]
        return Fault(FaultKind.SANDBOX, f"`{TRIVIAL}` ended as {outcome.status} and gave {said!r}")
    return None


def probe(sandbox: LocalSandbox, sessions: int = SESSIONS) -> Probe:
    """Run all attempts and take all times; some seconds. Raises SodError where the sandbox does not answer.

    What a program was not kept from is in the result, not raised.
    """
    if (fault := healthy(sandbox)) is not None:
        raise SodError(f"sandbox: {fault.detail}")
    kept = attempts(sandbox)
    times = sorted(_timed(sandbox) for _ in range(EXECUTIONS))
    burst = _burst(sandbox)
    total_mb = _open_sessions(sandbox, sessions)
    p95 = times[int(0.95 * (EXECUTIONS - 1))]
    return Probe(
        level=sandbox.level,
        isolation=sandbox.isolation,
        kept=kept,
        median_ms=statistics.median(times),
        p95_ms=p95,
        burst_seconds=burst,
        sessions=sessions,
        total_mb=total_mb,
    )


def attempts(sandbox: LocalSandbox) -> dict[str, bool]:
    """What programs may not do, each tried by a program: True where it was kept from it. Raises SodError."""
    marker = f"9{uuid.uuid4().int % 10**9}.5"
    outside = [str(path / marker) for path in (Path("/"), Path("/usr"), Path.home(), Path(__file__).parent)]
    secrets = ["/etc/shadow", "/etc/gshadow", "/proc/1/environ"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        programs = {
            "network": Program(CONNECT.format(port=server.getsockname()[1])),
            "write outside": Program(TRY_ALL.format(paths=outside, mode="w")),
            "root-only files": Program(TRY_ALL.format(paths=secrets, mode="r")),
            "host processes": Program(SEE.format(pid=os.getpid())),
            "other sockets": Program(SOCKETS),
            "shared memory": Program(SHARED),
            "reaching processes": Program(LIMITS.format(pid=os.getpid())),
            "the trainer's files": Program(TRY_ALL.format(paths=[__file__], mode="r")),
            "fork limit": Program(FORK),
            "memory limit": Program(MEMORY, memory_mb=64),
            "scratch limit": Program(FILL, memory_mb=64),
            "output limit": Program("while True: print('x')"),
            "time limit": Program("while True: pass", seconds=0.5),
            "survivors": Program(SURVIVE.format(seconds=marker)),
        }
        outcomes = dict(zip(programs, sandbox.execute(list(programs.values())), strict=True))
    kept = {name: _held(name, outcome) for name, outcome in outcomes.items()}
    # What the programs say is not all: they may have done more than they could tell of.
    kept["write outside"] &= not any(os.path.exists(path) for path in outside)
    kept["host processes"] &= not _mentions(outcomes["host processes"], Path("/proc/self/cmdline").read_text())
    # Where files are counted after the fact, it says that it got through, and its result says that it was too much.
    scratch = outcomes["scratch limit"]
    kept["scratch limit"] |= isinstance(scratch, Execution) and scratch.status == "memory"
    kept["survivors"] = _mentions(outcomes["survivors"], "left it") and not _running(marker)
    return kept


def _held(name: str, outcome: Execution | Fault) -> bool:
    """Whether a program did not get through, by its own words, and was stopped where it had to be. Raises SodError."""
    if isinstance(outcome, Fault):
        raise SodError(f"sandbox: the attempt `{name}` ended as a fault: {outcome.detail}")
    expected = {"memory limit": "memory", "output limit": "output_limit", "time limit": "timeout"}
    return THROUGH not in outcome.stdout and outcome.status == expected.get(name, outcome.status)


def _mentions(outcome: Execution | Fault, text: str) -> bool:
    """Whether the program printed this."""
    return isinstance(outcome, Execution) and text in outcome.stdout


def _running(argument: str) -> bool:
    """Whether any process of the machine has this argument."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"\0{argument}\0".encode() in entry.read_bytes():
                return True
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return False


def _timed(sandbox: Sandbox) -> float:
    """Milliseconds of one execution. Raises SodError."""
    begun = time.perf_counter()
    fault = healthy(sandbox)
    elapsed = time.perf_counter() - begun
    if fault is not None:
        raise SodError(f"sandbox: {fault.detail}")
    return elapsed * 1e3


def _burst(sandbox: Sandbox) -> float:
    """Seconds until EPISODES threads have made their CALLS. Raises SodError."""

    def episode(_: int) -> None:
        for _ in range(CALLS):
            _timed(sandbox)

    begun = time.perf_counter()
    with ThreadPoolExecutor(EPISODES) as threads:
        list(threads.map(episode, range(EPISODES)))
    return time.perf_counter() - begun


def _open_sessions(sandbox: LocalSandbox, count: int) -> float | None:
    """MiB of all the sandbox's processes with that many sessions open; they are ended. Raises SodError."""
    names = [f"probe-{uuid.uuid4()}" for _ in range(count)]
    try:
        for outcome in sandbox.run_cells([Cell(name, "x = 1\n" + TRIVIAL) for name in names]):
            if isinstance(outcome, Fault):
                raise SodError(f"sandbox: no session: {outcome.detail}")
        return _megabytes(sandbox)
    finally:
        sandbox.end_sessions(names)


def _megabytes(sandbox: LocalSandbox) -> float | None:
    """Proportional set size (MiB) of all its processes; None where this user may not see it."""
    try:
        return sum(_pss_kb(pid) for pid in sandbox.processes()) / 1024
    except PermissionError:
        return None


def _pss_kb(pid: int) -> int:
    """Proportional set size (KiB) of a process, 0 where it is gone. Raises PermissionError."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
