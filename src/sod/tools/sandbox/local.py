"""The default sandbox: programs run on this machine, in forks of warm processes (see `fork_server.py`).

What the kernel keeps from a program is in `LocalSandbox.isolation`, and how in `LocalSandbox.level`:

- `full`: namespaces of its own (user, pid, mount, network, IPC), a root of its own with the system's
  and Python's files, read-only, and scratch directories; and, where `pyseccomp` and `landlock` are
  installed, a filter of system calls and a list of directories that may be read (the system's and Python's).
- `reduced`, where user namespaces are not to be had: the last two alone keep files and network away.
  The processes of the machine exist for a program (it cannot signal, trace or list them), and its
  sessions share a limit of processes.
- `unsafe`: less than that, and only where the caller said `unsafe=True`.

What all processes of a program hold in memory, and their files, is counted by a cgroup of the kernel where this user
may make one (`memory_cgroup` in `isolation`). Elsewhere it is looked up some twenty times a second; what would not be
seen so is refused by the filter (memfd, SysV segments, larger buffers), and few descriptors bound the rest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import repeat
from typing import Any, Literal, TypeVar, cast, final

from sod.records import Execution, ExecutionStatus, Fault, FaultKind, Program, SodError
from sod.tools.sandbox.base import Cell, ProgramLimits, Recall
from sod.tools.sandbox.cgroup import Cgroups
from sod.tools.sandbox.filters import layers
from sod.tools.sandbox.held import descendants
from sod.tools.sandbox.pool import ForkServerLostError, Pool, closed_fault
from sod.tools.sandbox.sessions import Session, SessionServer
from sod.tools.sandbox.wire import FILES_BYTES, FILES_COUNT

IsolationLevel = Literal["full", "reduced", "unsafe"]
T = TypeVar("T")
logger = logging.getLogger("sod.sandbox")


@final
class LocalSandbox:
    """Runs programs, up to `workers` of them at a time: a worker is a fork server, each program a fork of its own.

    `preload` names modules that are imported before the forks (numpy, sympy): without any, only the
    standard library is importable. `unsafe` accepts a machine that does not permit the isolation.
    Raises SodError when a worker cannot start or the isolation is not to be had. Several threads may
    call at the same time: programs are begun in the order in which they were handed in.
    """

    def __init__(
        self,
        limits: ProgramLimits = ProgramLimits(),  # noqa: B008  # frozen
        workers: int = 2,
        preload: Sequence[str] = (),
        unsafe: bool = False,
    ) -> None:
        if workers < 1:
            raise SodError(f"sandbox: workers must be at least 1, not {workers}")
        self.limits = limits
        self.workers = workers
        self._cgroups = _cgroups()
        new_cgroup = partial(self._cgroups.new, limits.memory_mb) if self._cgroups is not None else None
        counted = layers(counted=self._cgroups is not None)
        config = {"preload": list(preload), "unsafe": unsafe, "sessions": False, **counted}
        try:
            self._pool = Pool(config, workers, new_cgroup)
        except (ForkServerLostError, OSError) as error:
            self._close_cgroups()
            raise SodError(f"sandbox: {error}") from error
        state = self._pool.started
        self._level = cast(IsolationLevel, state["level"])
        self._isolation: Mapping[str, bool] = {**state["kept"], "memory_cgroup": self._cgroups is not None}
        if self._level != "full":
            why = "; ".join([state["problem"], *state["missing"].values()])
            logger.warning("isolation of programs is %s, not full: %s", self._level, why)
        self._threads = ThreadPoolExecutor(workers, "sandbox")  # each waits for one program: first in, first out
        self._session_server = SessionServer(config, limits, new_cgroup)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()  # of `_sessions`

    @property
    def level(self) -> IsolationLevel:
        """`full`, `reduced` or `unsafe`: by what means programs are kept in; see the top of this file."""
        return self._level

    @property
    def isolation(self) -> Mapping[str, bool]:
        """What is kept from the programs: `unprivileged`, `network`, `pid_namespace`, `filesystem`.

        And which of the two extra layers there are: `seccomp`, `landlock`; and whether a cgroup counts
        the memory of programs (`memory_cgroup`): else it is watched.
        """
        return self._isolation

    def execute(self, programs: Sequence[Program], recall: Recall | None = None) -> list[Execution | Fault]:
        """Run every program; see `SessionSandbox.execute`. A program whose fork server is lost is tried once more.

        Raises ValueError for a file name that is absolute or leaves the working directory, for files
        of more than FILES_BYTES or FILES_COUNT, and for limits that are not positive. Files fetched
        are the plain ones, up to FILES_BYTES in all.
        """
        requests = [_request(program, self.limits) for program in programs]
        tasks = [lambda request=request: self._run(recall, *request) for request in requests]
        return [result or closed_fault() for result in self._gather(tasks)]

    def run_cells(self, cells: Sequence[Cell], seconds: float | None = None) -> list[Execution | Fault]:
        """Run every cell; see `SessionSandbox.run_cells`. Processes that a cell leaves running are killed.

        The limits hold for each cell anew; that of CPU time counts the interpreter's own.
        """
        sources: dict[str, list[str]] = {}
        for cell in cells:
            sources.setdefault(cell.session, []).append(cell.source)
        limits = self.limits if seconds is None else replace(self.limits, seconds=min(seconds, self.limits.seconds))
        with self._lock:
            sessions = [self._sessions.setdefault(name, Session(self._session_server, limits)) for name in sources]
        tasks = [
            lambda session=session, own=own: [session.run(source) for source in own]
            for session, own in zip(sessions, sources.values(), strict=True)
        ]
        # Each session's results come in the order of its own cells: taken one by one they fall into everybody's order.
        results = {
            name: iter(repeat(closed_fault(), len(own)) if answers is None else answers)
            for (name, own), answers in zip(sources.items(), self._gather(tasks), strict=True)
        }
        return [next(results[cell.session]) for cell in cells]

    def end_sessions(self, sessions: Sequence[str]) -> None:
        """Kill the interpreters and forget the state; unknown names are ignored."""
        with self._lock:
            ended = [self._sessions.pop(name) for name in dict.fromkeys(sessions) if name in self._sessions]
        for session in ended:
            session.end()

    def processes(self) -> list[int]:
        """The pids of everything that runs for this sandbox at this moment."""
        roots = (*self._pool.pids(), *self._session_server.pids())
        return [pid for root in roots for pid in (root, *descendants(root))]

    def close(self) -> None:
        """End the fork servers and sessions, and what they run. Safe to call twice."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()
        self.end_sessions(list(self._sessions))
        self._session_server.close()
        self._threads.shutdown(wait=True)
        self._close_cgroups()

    def _close_cgroups(self) -> None:
        if self._cgroups is not None:
            self._cgroups.close()

    def _gather(self, tasks: Sequence[Callable[[], T]]) -> list[T | None]:
        """Run the tasks in our threads: their results in order, None where we are closed.

        An interrupt drops those not yet begun.
        """
        futures: list[Future[T]] = []
        try:
            for task in tasks:
                futures.append(self._threads.submit(task))
            return [_result(future) for future in futures]
        except RuntimeError:  # shut down
            return [None for _ in tasks]
        finally:
            for future in futures:
                future.cancel()

    def _run(
        self, recall: Recall | None, head: dict[str, Any], blobs: list[bytes], limits: ProgramLimits
    ) -> Execution | Fault:
        if recall is not None and recall.called:
            return Fault(FaultKind.SANDBOX, "called off before it began", retryable=False)
        reply = self._pool.ask(head, blobs, limits.seconds, recall)
        return reply if isinstance(reply, Fault) else _execution(*reply, limits.output_chars)


def _cgroups() -> Cgroups | None:
    """Memory cgroups for programs, or None where this user may make none."""
    try:
        return Cgroups()
    except OSError as error:
        logger.info("the memory of programs is watched, not counted by a cgroup: %s", error)
        return None


def _result(future: Future[T]) -> T | None:
    """What the future's task returns, or None where it was cancelled before it began."""
    try:
        return future.result()
    except CancelledError:
        return None


def _request(program: Program, limits: ProgramLimits) -> tuple[dict[str, Any], list[bytes], ProgramLimits]:
    """A program as a fork server takes it: head, blobs, and the limits that hold. Raises ValueError."""
    limits = limits_of(program, limits)
    if sum(map(len, program.files.values())) > min(FILES_BYTES, limits.memory_mb << 20):
        raise ValueError(f"a program's files may have {min(FILES_BYTES >> 20, limits.memory_mb)} MiB in all")
    head = {
        "limits": {**asdict(limits), "cpu_seconds": limits.whole_cpu_seconds},
        "files": list(program.files),
        "fetch": program.fetch,
    }
    texts = [text.encode("utf-8", "surrogatepass") for text in (program.source, program.stdin)]
    return head, [*texts, *program.files.values()], limits


def limits_of(program: Program, limits: ProgramLimits) -> ProgramLimits:
    """The limits that hold for a program: its own, else those given. Raises ValueError, also for its file names."""
    check_names(program.files)
    check_names(program.fetch)
    seconds = limits.seconds if program.seconds is None else program.seconds
    memory_mb = limits.memory_mb if program.memory_mb is None else program.memory_mb
    return replace(limits, seconds=seconds, memory_mb=memory_mb)


def check_names(names: Mapping[str, bytes] | Sequence[str]) -> None:
    """Raise ValueError unless every name is a relative path that stays below the working directory."""
    if len(names) > FILES_COUNT:
        raise ValueError(f"{len(names)} files, at most {FILES_COUNT}")
    for name in names:
        parts = name.split("/")
        if any(part in ("", ".", "..") or len(part.encode()) > 255 or "\0" in part for part in parts):
            raise ValueError(f"not a plain relative file name: {name!r}")
        # Fetching a file and one below it is no contradiction, only one of the two can be found. Placing both is.
        if any("/".join(parts[:depth]) in names for depth in range(1, len(parts))) and isinstance(names, Mapping):
            raise ValueError(f"{name!r} lies below another file")


def _execution(head: dict[str, Any], blobs: list[bytes], limit: int) -> Execution:
    """A fork server's reply as an execution; `limit` of stdout and stderr in characters."""
    out, err, *contents = blobs
    stdout, stderr = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    status = cast(ExecutionStatus, head["status"])
    files = dict(zip(head["files"], contents, strict=True))
    return Execution(status, stdout[:limit], stderr[-limit:], head["seconds"], head["exit_code"], files)
