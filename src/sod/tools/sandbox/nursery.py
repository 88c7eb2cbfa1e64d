"""The worker that begins sessions: one fork each, which then talks to `LocalSandbox` directly.

Part of the zygote (see `zygote.py`): standard library only.

    LocalSandbox -- keeper (waits)
                      `- nursery, pid 1 of namespace A (begins and buries sessions)
                           `- session, pid 1 of namespace B: one interpreter, a socket to LocalSandbox

Without pid namespaces an attendant stands between nursery and session, to whom orphans come.
A session answers every cell with its token and one byte, its exit status. That and everything else
it writes is the model's to forge; it can only misreport itself, or end its session.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from .confine import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    drop_capabilities,
    enter_session,
    fresh_scratch,
    new_pid_namespace,
    prctl,
)
from .files import empty_directory
from .layers import REHEARSALS, apply
from .program import EXIT_ERROR, flush, fresh_main, remember, report, seed_random, set_limit, set_memory_limits
from .watch import kill_children
from .wire import LENGTH, TOKEN_BYTES, pack, unpack
from .worker import Worker, receive, send

CONTROL = 255  # the highest descriptor there may be: programs that count from 3 do not find it
READY = b"\xff"


def serve(worker: Worker) -> NoReturn:
    """Begin and bury sessions until LocalSandbox goes away."""
    sessions: dict[int, str] = {}  # pid: the home to be removed, where it is no mount of its own
    channel = socket.socket(fileno=os.dup(worker.channel))
    rehearse()
    while True:
        head, _ = unpack(lambda length: receive(worker, length))
        if head["what"] == "begin":
            home = "" if worker.isolation.scratch else os.path.join(os.environ["HOME"], str(head["number"]))
            ours, theirs = socket.socketpair()
            pid = begin(worker, head["limits"], ours, theirs, home, len(sessions))
            sessions[pid] = home
            handle = os.pidfd_open(pid)
            send(worker.channel, pack({"status": "begun", "pid": pid}))
            socket.send_fds(channel, [b"\0"], [ours.fileno(), handle])
            os.close(handle)
            ours.close()
            theirs.close()
        else:
            _, status = os.waitpid(head["pid"], 0)
            if home := sessions.pop(head["pid"]):
                empty_directory(home)
                os.rmdir(home)
            if worker.own_namespace < 0:
                kill_children(but=sessions)  # orphans that a session's attendant did not live to kill
            code = os.waitstatus_to_exitcode(status)
            send(worker.channel, pack({"status": "buried", "exit_code": code}))


def rehearse() -> None:
    """Do here what every session does: forks share what this writes, and would each have a copy else."""
    ours, theirs = socket.socketpair()
    null = os.open("/dev/null", os.O_WRONLY)
    for _ in range(REHEARSALS):
        socket.send_fds(ours, [LENGTH.pack(1) + bytes(TOKEN_BYTES) + b"1"], [null])
        _, source, (handle,) = next_cell(theirs) or (b"", "", [])
        os.close(handle)
        run_cell(source, fresh_main(), "<cell 1>")
        flush()
    ours.close()
    theirs.close()
    os.close(null)
    gc.collect()
    gc.freeze()


def begin(
    worker: Worker, limits: dict[str, Any], ours: socket.socket, theirs: socket.socket, home: str, others: int
) -> int:
    """Fork a session (or its attendant). Its pid."""
    if worker.own_namespace >= 0:
        new_pid_namespace(worker.own_namespace)
    if (pid := thin_fork()) != 0:
        return pid
    try:
        ours.close()
        if worker.own_namespace < 0:
            attend()
        if home:
            os.mkdir(home, 0o700)
        confine(worker, limits, theirs.detach(), home, others)
        run_cells(socket.socket(fileno=CONTROL))
    except BaseException as error:
        with suppress(OSError):  # nobody reads a lost session's words but a person at a debugger
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(EXIT_ERROR)


def thin_fork() -> int:
    """As `os.fork`, where that pays: without Python's own work after a fork, which copies 1 MB of pages.

    In a process of one thread that work changes nothing but the seed of `random` (see `seed_random`).
    """
    if len(os.listdir("/proc/self/task")) > 1:  # some preloaded module began a thread
        return os.fork()
    pid = int(ctypes.PyDLL(None, use_errno=True).fork())
    if pid < 0:
        raise OSError(ctypes.get_errno(), "fork")
    return pid


def attend() -> None:
    """Fork again; the original waits for the fork, kills what it leaves, and ends as it ended."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if (pid := os.fork()) == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(3, 256)
    _, status = os.waitpid(pid, 0)
    kill_children()
    if (code := os.waitstatus_to_exitcode(status)) < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def confine(worker: Worker, limits: dict[str, Any], control: int, home: str, others: int) -> None:
    """Namespaces, descriptors, limits and privileges of a session."""
    os.setsid()
    scratch = worker.isolation.scratch
    if worker.own_namespace >= 0:
        enter_session(worker.isolation)
    if scratch:
        fresh_scratch(scratch, limits["memory_mb"])
    if home:
        os.environ.update(HOME=home, TMPDIR=home)
    os.dup2(control, CONTROL, inheritable=False)
    set_memory_limits(limits["memory_mb"], worker.mapped)
    if worker.own_namespace >= 0:
        set_limit(resource.RLIMIT_NPROC, limits["processes"])
        drop_capabilities()
    else:
        set_limit(resource.RLIMIT_NPROC, worker.processes + 2 * others + 2 + limits["processes"])
    os.chdir(os.environ["HOME"])
    apply(worker.layers, scratch or [home])
    os.closerange(3, CONTROL)


def run_cells(control: socket.socket) -> None:
    """Serve the session's cells until its socket closes."""
    seed_random()
    names = fresh_main()
    itself = os.getpid()
    control.sendall(READY)
    number = 0
    while True:
        number += 1
        if (cell := next_cell(control)) is None:
            return
        token, source, outputs = cell
        for target, descriptor in enumerate(outputs, start=1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        status = run_cell(source, names, f"<cell {number}>")
        flush()
        if os.getpid() != itself:  # a fork that the cell made and that came this far: its end, as in a script
            os._exit(status)
        control.sendall(token + bytes([status]))


def next_cell(control: socket.socket) -> tuple[bytes, str, list[int]] | None:
    """Its token, the next source, and the descriptors it may write to; None at the end."""
    data, descriptors, _, _ = socket.recv_fds(control, LENGTH.size + TOKEN_BYTES, 2)
    if not data:
        return None
    (length,) = LENGTH.unpack_from(data)
    source = bytearray()
    while len(source) < length:
        source += control.recv(length - len(source))
    with suppress(ChildProcessError):  # what was killed after the last cell still counts as a process
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return data[LENGTH.size :], source.decode("utf-8", "surrogatepass"), descriptors


def run_cell(source: str, names: dict[str, Any], filename: str) -> int:
    """Run one cell. Its exit status; where that ends the interpreter, does not return."""
    try:
        exec(compile(source, filename, "exec"), names)
    except (SystemExit, MemoryError) as error:
        status = report(error, source, filename)
        flush()
        os._exit(status)
    except BaseException as error:
        return report(error, source, filename)
    remember(source, filename)  # a later traceback may pass through it
    return 0
