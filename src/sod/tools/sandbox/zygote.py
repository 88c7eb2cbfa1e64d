"""The warm process behind `LocalSandbox`: forks itself once per program, confines and watches the fork.

Runs as `-m sandbox.zygote` in an interpreter of its own and imports only its neighbours here that
need the standard library alone (so `sandbox/__init__.py` must stay free of imports): forks of a
small process are cheap, and what every program does first is warmed up here once. The processes of
one worker:

    LocalSandbox -- keeper (waits)
                      `- zygote, pid 1 of namespace A (this file's loop; one program at a time)
                           `- program, pid 1 of namespace B, new for every call

Killing pid 1 kills its namespace whole, so nothing a program starts outlives the call, and nothing
at all outlives the zygote. A program cannot name the zygote (other pid namespace), and what it
writes is only ever handled as bytes.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, NoReturn

from . import nursery
from .confine import drop_capabilities, fresh_scratch, new_pid_namespace
from .files import empty_directory, fetch, place
from .layers import apply
from .program import EXIT_ERROR, EXIT_MEMORY, run_main, seed_random, set_limit, set_memory_limits
from .watch import Output, end, verdict, watch, with_note
from .wire import pack, unpack
from .worker import Worker, leave, receive, send, start


def confine(worker: Worker, limits: dict[str, Any], stdin: bytes, out: int, err: int) -> None:
    """Descriptors, limits and privileges of a program. What follows is the model's doing."""
    os.setsid()
    if stdin:
        handle = os.memfd_create("stdin")
        with open(handle, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(handle, 0, os.SEEK_SET)
        os.dup2(handle, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    set_memory_limits(limits["memory_mb"], worker.mapped)
    set_limit(resource.RLIMIT_CPU, limits["cpu_seconds"])
    set_limit(resource.RLIMIT_NPROC, worker.processes + limits["processes"])
    if worker.own_namespace >= 0:
        drop_capabilities()
    os.chdir(os.environ["HOME"])
    apply(worker.layers, worker.isolation.scratch or [os.environ["HOME"]])
    os.eventfd_write(worker.started, 1)
    os.closerange(3, 256)


def become_program(worker: Worker, limits: dict[str, Any], source: bytes, stdin: bytes, out: int, err: int) -> NoReturn:
    """The whole life of a fork."""
    status = EXIT_ERROR
    try:
        confine(worker, limits, stdin, out, err)
        seed_random()
        status = run_main(source.decode("utf-8", "surrogatepass"))
    except MemoryError:
        status = EXIT_MEMORY
    finally:
        os._exit(status)


def execute(worker: Worker, head: dict[str, Any], blobs: list[bytes]) -> bytes:
    """Run one program in a fork; the frame of its reply. Raises OSError for failures of ours."""
    source, stdin, *contents = blobs
    limits = head["limits"]
    home = os.environ["HOME"]
    if worker.isolation.scratch:
        fresh_scratch(worker.isolation.scratch, limits["memory_mb"])
    else:
        empty_directory(home)
    place(home, dict(zip(head["files"], contents, strict=True)))
    begun = time.monotonic()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    if worker.own_namespace >= 0:
        new_pid_namespace(worker.own_namespace)
    if (pid := os.fork()) == 0:
        become_program(worker, limits, source, stdin, out_write, err_write)
    os.close(out_write)
    os.close(err_write)
    out = Output(out_read, limits["output_chars"], tail=False)
    err = Output(err_read, limits["output_chars"], tail=True)
    status, code, note = see_to_its_end(worker, pid, limits, out, err)
    os.close(out_read)
    os.close(err_read)
    try:
        os.eventfd_read(worker.started)
    except BlockingIOError:
        raise OSError("a program's limits could not be set") from None
    if status == "error" and not note and not err.data:
        note = "process exited with status 1"
    seconds = time.monotonic() - begun
    found = fetch(home, head["fetch"])
    reply = {"status": status, "exit_code": code, "seconds": seconds, "files": list(found)}
    return pack(reply, [out.data, with_note(err.data, note), *found.values()])


def see_to_its_end(
    worker: Worker, pid: int, limits: dict[str, Any], out: Output, err: Output
) -> tuple[str, int | None, str]:
    """Watch a program, kill what is left of it, and judge it. Ends this process when LocalSandbox is gone."""
    program = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(worker.owner, select.POLLIN)
    poller.register(worker.channel, 0)  # hang-up only
    try:
        seen = watch((program, worker.owner, worker.channel), (out, err), limits["seconds"])
    finally:
        os.close(program)
    wait_status, cpu_seconds = end(pid, orphans_are_ours=worker.own_namespace < 0)
    if poller.poll(0):
        leave(worker)
    while out.read() or err.read():
        pass
    code = os.waitstatus_to_exitcode(wait_status)
    # The kernel enforces this limit by its tick counter, which may run well ahead of the measured time.
    if seen == "done" and code == -signal.SIGKILL and cpu_seconds >= limits["cpu_seconds"] / 2:
        seen = "cpu"
    return verdict(limits, "output_limit" if out.over else seen, code)


def main() -> None:
    """Serve programs until LocalSandbox goes away. A failure of ours is told, then ends the worker."""
    config = json.loads(sys.argv[1])
    sys.argv[:] = sys.orig_argv[:] = ["program.py"]
    sys.path.remove(os.environ.pop("PYTHONPATH"))
    del os.environ["LD_BIND_NOW"]
    try:
        worker = start(config)
        sys.path.insert(0, "")  # a program may import what it wrote
        state = {"level": worker.level, "kept": worker.kept, "problem": worker.isolation.problem}
        send(worker.channel, pack({"status": "ready", **state, "missing": config["missing"]}))
        if config["sessions"]:
            nursery.serve(worker)
        while True:
            head, blobs = unpack(lambda length: receive(worker, length))
            send(worker.channel, execute(worker, head, blobs))
    except Exception as error:
        send(config["channel"], pack({"status": "fault", "detail": f"{type(error).__name__}: {error}"}))
        sys.exit(1)


if __name__ == "__main__":
    main()
