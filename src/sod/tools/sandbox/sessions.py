"""Sessions of a `LocalSandbox`, seen from our side: one interpreter each, which keeps its state.

A session is a fork of the nursery (see `nursery.py`) that we watch ourselves, through a socket and
a pidfd. Between cells it is frozen and has no other process: what a cell leaves running is killed.
Only `run` and `close` of one `Session` exclude each other; `kill` may come at any time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, cast

from sod.records import Execution, ExecutionStatus, Fault, FaultKind
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.pool import ATTEMPTS, GRACE_SECONDS, START_SECONDS, Worker, WorkerLostError, spawn
from sod.tools.sandbox.program import EXIT_ERROR
from sod.tools.sandbox.watch import Output, verdict, watch, with_note
from sod.tools.sandbox.wire import LENGTH, TOKEN_BYTES

STATE_LOST = "the state of this session is lost"
DYING_SECONDS = 1.0  # from the end of its socket to the end of an interpreter
ROUNDS = 500  # of killing what a cell left running, before its session is given up


class Nursery:
    """The process that sessions are forks of; started with the first of them, and anew when lost."""

    def __init__(self, config: Mapping[str, Any], limits: ProgramLimits) -> None:
        self._config = {**config, "sessions": True}
        self._limits = {**asdict(limits), "cpu_seconds": limits.whole_cpu_seconds}
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._begun = 0
        self.own_namespaces = True

    def begin(self) -> _Process:
        """A new session's process. Raises WorkerLostError or OSError."""
        with self._lock:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    worker = self._worker = self._worker or self._start()
                    return self._begin(worker)
                except (WorkerLostError, OSError):
                    self._drop()
                    if attempt == ATTEMPTS:
                        raise
            raise AssertionError

    def bury(self, process: _Process) -> int:
        """Reap a process that is dead or dying: its exit code. Raises WorkerLostError where we lost it."""
        with self._lock:
            if self._worker is not process.worker:
                raise WorkerLostError("the nursery was lost")
            try:
                head, _ = process.worker.ask({"what": "bury", "pid": process.pid}, (), GRACE_SECONDS)
            except WorkerLostError:
                self._drop()
                raise
            return int(head["exit_code"])

    def pids(self) -> list[int]:
        """Its pid, if it lives; it has descendants."""
        with self._lock:
            return [self._worker.process.pid] if self._worker is not None else []

    def close(self) -> None:
        """End it, and with it every session. Safe to call twice."""
        with self._lock:
            self._drop(orderly=True)

    def _start(self) -> Worker:
        worker = spawn(self._config)
        try:
            self.own_namespaces = worker.reply(START_SECONDS)[0]["kept"]["pid_namespace"]
        except BaseException:
            worker.end(orderly=False)
            raise
        return worker

    def _begin(self, worker: Worker) -> _Process:
        self._begun += 1
        request = {"what": "begin", "number": self._begun, "limits": self._limits}
        head, _ = worker.ask(request, (), GRACE_SECONDS)
        _, (control, handle), _, _ = socket.recv_fds(worker.channel, 1, 2)
        process = _Process(worker, head["pid"], socket.socket(fileno=control), handle)
        try:
            process.await_ready(self.own_namespaces)
        except BaseException:
            process.kill()
            process.close()
            raise
        return process

    def _drop(self, orderly: bool = False) -> None:
        if self._worker is not None:
            self._worker.end(orderly)
            self._worker = None


@dataclass(eq=False)
class _Process:
    """A session's interpreter, and what we hold of it."""

    worker: Worker  # the nursery it is a child of
    pid: int  # as the nursery names it
    control: socket.socket
    handle: int  # pidfd of it, or of its attendant
    root: int = 0  # the same, as we name it
    interpreter: int = 0  # the same as `root`, but where an attendant stands between

    def await_ready(self, own_namespaces: bool) -> None:
        """Wait until it stands confined. Raises OSError."""
        self.control.settimeout(GRACE_SECONDS)
        if not self.control.recv(1):
            raise OSError("a session's limits could not be set")
        with open(f"/proc/self/fdinfo/{self.handle}") as file:
            self.root = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        self.interpreter = self.root if own_namespaces else _children(self.root)[0]

    def kill(self) -> None:
        """The whole of it."""
        if self.interpreter != self.root:  # else its namespace dies with it
            self.signal(signal.SIGSTOP)
            self.kill_others()
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send the interpreter a signal, if it is still there."""
        with suppress(ProcessLookupError):
            if self.interpreter == self.root:
                signal.pidfd_send_signal(self.handle, number)
            else:
                os.kill(self.interpreter, number)

    def kill_others(self) -> bool:
        """Kill every process of the session but the interpreter, which must be frozen; whether it worked.

        Nobody else reaps them (orphans come to a frozen parent), so their pids cannot be another's.
        """
        for _ in range(ROUNDS):
            parents = {self.root, self.interpreter}
            others = [pid for parent in parents for pid in _children(parent) if pid not in parents and _runs(pid)]
            if not others:
                return True
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)  # they die when they are next scheduled
        return False

    def wait(self, seconds: float) -> bool:
        """Whether it is dead, or dies in that time."""
        return bool(select.select([self.handle], [], [], seconds)[0])

    def cpu_seconds(self) -> float:
        """CPU time of the interpreter so far."""
        try:
            return time.clock_gettime((~self.interpreter << 3) | 2)  # the kernel's name of another's clock
        except OSError:  # gone
            return 0.0

    def close(self) -> None:
        self.control.close()
        os.close(self.handle)


def _children(pid: int) -> list[int]:
    """Of all its threads; none where it is gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    return [found for child in _children(pid) for found in (child, *descendants(child))]


def _runs(pid: int) -> bool:
    """Whether it is more than a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Session:
    """One conversation's interpreter; there is none before the first cell, and after its state is lost."""

    def __init__(self, nursery: Nursery, limits: ProgramLimits) -> None:
        self._nursery = nursery
        self._limits = limits
        self._lock = threading.Lock()  # held for a whole cell
        self._guard = threading.Lock()  # held while `_process` is closed, or killed by `end`
        self._ended = threading.Event()
        self._process: _Process | None = None
        self._fault: Fault | None = None

    def run(self, source: str) -> Execution | Fault:
        """Run a cell; see `SessionSandbox.run_cells`."""
        with self._lock:
            if self._ended.is_set():
                return _lost("the session was ended")
            if self._fault is not None:
                return self._fault
            try:
                self._process = self._process or self._nursery.begin()
            except (WorkerLostError, OSError) as error:
                return Fault(FaultKind.SANDBOX, f"no session begins: {error}")
            try:
                return self._run(self._process, source)
            except (WorkerLostError, OSError) as error:
                self._fault = _lost(str(error))
                self._bury()
                return self._fault

    def end(self) -> None:
        """Kill the interpreter, at once; a cell that is running becomes a fault."""
        self._ended.set()
        with self._guard:
            if self._process is not None:
                self._process.kill()
        with self._lock:
            self._bury()

    def _run(self, process: _Process, source: str) -> Execution | Fault:
        begun = time.monotonic()
        out, err, seen, code = self._watch(process, source)
        if lost := code is None:
            died = seen == "done" and process.wait(DYING_SECONDS)
            process.kill()
            code = self._nursery.bury(process)
            self._forget()
            if not died:
                code = EXIT_ERROR  # it was us
            # Within its namespace nobody can kill pid 1. Without, it may have been the model's own doing.
            elif code == -signal.SIGKILL and (self._ended.is_set() or self._nursery.own_namespaces):
                raise WorkerLostError("its interpreter was killed from outside")
        limits = {**asdict(self._limits), "cpu_seconds": self._limits.whole_cpu_seconds}
        status, exit_code, note = verdict(limits, seen, code)
        if lost:
            note = f"{note or 'the interpreter ended'}; {STATE_LOST}"
        limit = self._limits.output_chars
        stdout = out.data.decode("utf-8", "replace")[:limit]
        stderr = with_note(err.data, note).decode("utf-8", "replace")[-limit:]
        return Execution(cast(ExecutionStatus, status), stdout, stderr, time.monotonic() - begun, exit_code)

    def _watch(self, process: _Process, source: str) -> tuple[Output, Output, str, int | None]:
        """Hand over a cell and see it through: its output, what was seen, its status or None for an end."""
        limit = self._limits.output_chars
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            out, err = Output(out_read, limit, tail=False), Output(err_read, limit, tail=True)
            token = os.urandom(TOKEN_BYTES)
            self._hand_over(process, token, source, [out_write, err_write])
            budget = process.cpu_seconds() + self._limits.whole_cpu_seconds
            done = (process.control.fileno(), process.handle)
            seen = watch(done, (out, err), self._limits.seconds, lambda: budget - process.cpu_seconds())
            code = self._status(process, token) if seen == "done" else None
            if code is not None:
                process.signal(signal.SIGSTOP)
                if not process.kill_others():
                    seen, code = "crowd", None
            while out.read() or err.read():
                pass
            if out.over and code is not None:
                seen, code = "output_limit", None
        finally:
            os.close(out_read)
            os.close(err_read)
        return out, err, seen, code

    def _hand_over(self, process: _Process, token: bytes, source: str, outputs: list[int]) -> None:
        """The source, and where it may write. Where the interpreter is gone, the watch will say so."""
        data = source.encode("utf-8", "surrogatepass")
        try:
            process.signal(signal.SIGCONT)
            socket.send_fds(process.control, [LENGTH.pack(len(data)) + token], outputs)
            process.control.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            for descriptor in outputs:
                os.close(descriptor)

    def _status(self, process: _Process, token: bytes) -> int | None:
        """The status that the interpreter answered; None where it ended, or answered what was not asked."""
        if not select.select([process.control], [], [], 0)[0]:
            return None
        try:
            answer = process.control.recv(2 * TOKEN_BYTES)
        except ConnectionResetError:
            return None
        return answer[-1] if answer[:-1] == token else None

    def _bury(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(WorkerLostError):  # dead all the same
                self._nursery.bury(self._process)
            self._forget()

    def _forget(self) -> None:
        with self._guard:
            if self._process is not None:
                self._process.close()
                self._process = None


def _lost(detail: str) -> Fault:
    return Fault(FaultKind.SESSION, detail, retryable=False)
