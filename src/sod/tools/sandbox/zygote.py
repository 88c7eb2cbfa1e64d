"""The warm process behind `LocalSandbox`: forks itself once per program, confines and watches the fork.

Runs as `-m sandbox.zygote` in an interpreter of its own and imports nothing of ours but `confine`
(so `sandbox/__init__.py` must stay free of imports): forks of a small process are cheap, and what
every program does first is warmed up here once. The processes of one worker:

    LocalSandbox -- keeper (waits)
                      `- zygote, pid 1 of namespace A (this file's loop; one program at a time)
                           `- program, pid 1 of namespace B, new for every call

Killing pid 1 kills its namespace whole, so nothing a program starts outlives the call, and nothing
at all outlives the zygote. A program cannot name the zygote (other pid namespace), and what it
writes is only ever handled as bytes.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
import types
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from .confine import Isolation, drop_capabilities, fresh_scratch, isolate, new_pid_namespace, prctl

# The wire: a request is a length and UTF-8 source; a reply a status (index into STATUSES), seconds,
# the lengths of stdout and stderr, and both. The first reply is `ready` with the isolation as JSON.
REQUEST = struct.Struct(">I")
REPLY = struct.Struct(">BdII")
STATUSES = ("ok", "error", "timeout", "memory", "output_limit", "ready", "fault")

EXIT_ERROR, EXIT_MEMORY = 1, 86
FILENAME = "<program>"
PR_SET_DUMPABLE = 4


@dataclass
class Worker:
    """What the loop needs to know, fixed at start."""

    channel: int  # socket to LocalSandbox
    owner: int  # pidfd of the process of LocalSandbox
    started: int  # eventfd by which a fork says that its limits stand
    own_namespace: int  # this process's pid namespace, -1 without namespaces
    isolation: Isolation
    config: dict[str, Any]
    address_space: int  # limit of a program's processes (bytes)


# --- in the fork ----------------------------------------------------------------------------------


def confine(worker: Worker, out: int, err: int) -> None:
    """Descriptors, limits and privileges of a program. What follows is the model's doing."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    set_limit(resource.RLIMIT_AS, worker.address_space)
    set_limit(resource.RLIMIT_CPU, worker.config["cpu_seconds"])
    if worker.own_namespace >= 0:
        drop_capabilities()
    os.chdir(os.environ["HOME"])
    os.eventfd_write(worker.started, 1)
    os.closerange(3, 256)


def run_main(source: str) -> int:
    """Run the source as `__main__`, then what an interpreter does at its end. The exit status."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    status = 0
    try:
        exec(compile(source, FILENAME, "exec"), module.__dict__)
        if (threads := sys.modules.get("threading")) is not None:
            threads._shutdown()  # waits for threads and idle pools
    except BaseException as error:
        status = report(error, source)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed or replaced by the program: its own doing
            stream.flush()
    return status


def report(error: BaseException, source: str) -> int:
    """Print an uncaught exception as Python would; the exit status."""
    if isinstance(error, MemoryError):
        return EXIT_MEMORY
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        text = f"{error.code}\n"
    else:
        sys.setrecursionlimit(10_000)
        sys.modules["linecache"].cache[FILENAME] = (len(source), None, source.splitlines(True), FILENAME)
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without our own
        text = "".join(traceback.format_exception(type(error), error, frames, limit=-20))
    with suppress(Exception):
        sys.stdout.flush()
    os.write(2, text.encode("utf-8", "backslashreplace"))
    return EXIT_ERROR


def become_program(worker: Worker, source: bytes, out: int, err: int) -> NoReturn:
    """The whole life of a fork."""
    status = EXIT_ERROR
    try:
        confine(worker, out, err)
        if (random := sys.modules.get("numpy.random")) is not None:
            random.seed()  # else every fork draws the same numbers
        status = run_main(source.decode("utf-8", "surrogatepass"))
    except MemoryError:
        status = EXIT_MEMORY
    finally:
        os._exit(status)


# --- watching it ----------------------------------------------------------------------------------


class Output:
    """Bytes read from a program: all of stdout up to its limit, or the tail of stderr."""

    def __init__(self, descriptor: int, limit: int, tail: bool) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.limit = limit  # characters
        self.tail = tail
        self.data = b""
        self.over = False

    def read(self) -> bool:
        """Take what is there, at most 64 KiB; whether more may come."""
        try:
            chunk = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return False
        self.data += chunk
        if self.tail:
            self.data = self.data[-4 * self.limit :]
        elif len(self.data) > self.limit:
            self.over = len(self.data.decode("utf-8", "replace")) > self.limit
        return bool(chunk) and not self.over


def watch(worker: Worker, pid: int, out: Output, err: Output) -> str:
    """Wait until the program ends or breaks a limit: `exited`, `timeout` or `output_limit`.

    Ends this process when LocalSandbox is gone.
    """
    deadline = time.monotonic() + worker.config["seconds"]
    outputs = {out.descriptor: out, err.descriptor: err}
    program = os.pidfd_open(pid)
    poller = select.poll()
    for descriptor in (program, worker.owner, *outputs):
        poller.register(descriptor, select.POLLIN)
    poller.register(worker.channel, 0)  # hang-up only
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(math.ceil(left * 1000)))
            if worker.owner in ready or worker.channel in ready:
                end(worker, pid)
                leave(worker)
            for descriptor in outputs.keys() & ready.keys():
                if not outputs[descriptor].read():
                    poller.unregister(descriptor)
            if out.over:
                return "output_limit"
            if program in ready:
                return "exited"
        return "timeout"
    finally:
        os.close(program)


def end(worker: Worker, pid: int) -> tuple[int, float]:
    """Kill what is left of a program. Its wait status and the CPU time it used (seconds)."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)  # of a pid 1: returns when its whole namespace is dead
    while worker.own_namespace < 0:  # without namespaces: orphans come to us, as subreaper
        with open("/proc/thread-self/children") as file:
            orphans = [int(child) for child in file.read().split()]
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
        if not orphans:
            break
    return status, usage.ru_utime + usage.ru_stime


def verdict(worker: Worker, seen: str, wait_status: int, cpu_seconds: float) -> tuple[str, str]:
    """The status of an execution, and the line that says why where the program did not."""
    config = worker.config
    code = os.waitstatus_to_exitcode(wait_status)
    if seen == "output_limit":
        return seen, f"more than {config['output_chars']} characters of output"
    if seen == "timeout":
        return seen, f"stopped after {config['seconds']:g} s"
    # The kernel enforces this limit by its tick counter, which may run well ahead of the measured time.
    if code == -signal.SIGKILL and cpu_seconds >= config["cpu_seconds"] / 2:
        return "timeout", f"stopped after {config['cpu_seconds']} s of CPU time"
    if code == EXIT_MEMORY:
        return "memory", f"more than {config['memory_mb']} MiB"
    if code < 0:
        return "error", f"process killed by signal {-code}"
    return ("error" if code else "ok"), (f"process exited with status {code}" if code > 1 else "")


def execute(worker: Worker, source: bytes) -> tuple[str, bytes, bytes]:
    """Run one program in a fork. Status, stdout, stderr. Raises OSError for failures of ours."""
    if worker.isolation.scratch:
        fresh_scratch(worker.isolation.scratch, worker.config["memory_mb"])
    else:
        empty_directory(os.environ["HOME"])
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    if worker.own_namespace >= 0:
        new_pid_namespace(worker.own_namespace)
    if (pid := os.fork()) == 0:
        become_program(worker, source, out_write, err_write)
    os.close(out_write)
    os.close(err_write)
    limit = worker.config["output_chars"]
    out, err = Output(out_read, limit, tail=False), Output(err_read, limit, tail=True)
    seen = watch(worker, pid, out, err)
    wait_status, cpu_seconds = end(worker, pid)
    while out.read() or err.read():
        pass
    os.close(out_read)
    os.close(err_read)
    try:
        os.eventfd_read(worker.started)
    except BlockingIOError:
        raise OSError("a program's limits could not be set") from None
    status, note = verdict(worker, "output_limit" if out.over else seen, wait_status, cpu_seconds)
    if status == "error" and not note and not err.data:
        note = "process exited with status 1"
    if note:
        err.data += (b"" if err.data[-1:] in (b"", b"\n") else b"\n") + note.encode() + b"\n"
    return status, out.data, err.data


def empty_directory(path: str) -> None:
    """Without namespaces: delete the last program's files."""
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            empty_directory(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


# --- the worker -----------------------------------------------------------------------------------


def limit_once(config: dict[str, Any], isolation: Isolation) -> None:
    """The limits that this process can live with too: its forks inherit them at no cost."""
    set_limit(resource.RLIMIT_FSIZE, config["memory_mb"] << 20)
    set_limit(resource.RLIMIT_NOFILE, 256)
    set_limit(resource.RLIMIT_CORE, 0)
    if isolation.obtained["pid_namespace"]:  # else it would count the user's other processes too
        set_limit(resource.RLIMIT_NPROC, config["processes"] + 2)  # keeper and zygote count


def set_limit(which: int, value: int) -> None:
    """Soft and hard limit, never above the present hard limit."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def mapped_bytes() -> int:
    """Address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def warm_up(preload: list[str]) -> None:
    """Do once what every program would pay for: first compile, first traceback, big imports."""
    for name in preload:
        __import__(name)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed program keeps its lines
    try:
        exec(compile("def f(x):\n  return 1 / x\nprint([f(0) for _ in 'a'])", FILENAME, "exec"), {})
    except ZeroDivisionError:
        traceback.format_exc()
    print(end="")
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, the shared pages in every fork


def start(config: dict[str, Any]) -> Worker:
    """Isolate, warm up, and gather what the loop needs."""
    owner = os.pidfd_open(config["owner"])
    isolation = isolate()
    if not config["unsafe"] and not all(isolation.obtained.values()):
        missing = ", ".join(name for name, obtained in isolation.obtained.items() if not obtained)
        fix = "allow user namespaces, or set `unsafe` if you trust the programs"
        raise OSError(f"no isolation of: {missing} ({isolation.problem}); {fix}")
    home = isolation.scratch[0] if isolation.scratch else make_home()
    os.environ.update(HOME=home, TMPDIR=home)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY) if isolation.obtained["pid_namespace"] else -1
    warm_up(config["preload"])
    started = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    limit_once(config, isolation)
    address_space = mapped_bytes() + (config["memory_mb"] << 20)
    if own >= 0:
        prctl(PR_SET_DUMPABLE, 0)
    return Worker(config["channel"], owner, started, own, isolation, config, address_space)


def make_home() -> str:
    """Without a private filesystem: a directory in /tmp, removed at the worker's orderly end."""
    import tempfile

    return tempfile.mkdtemp(prefix="sod-sandbox-")


def receive(worker: Worker, length: int) -> bytes:
    """That many bytes from LocalSandbox. Ends this process when it is gone."""
    data = b""
    poller = select.poll()
    poller.register(worker.channel, select.POLLIN)
    poller.register(worker.owner, select.POLLIN)
    while len(data) < length:
        ready = dict(poller.poll())
        chunk = os.read(worker.channel, length - len(data)) if worker.channel in ready else b""
        if not chunk:
            leave(worker)
        data += chunk
    return data


def leave(worker: Worker) -> NoReturn:
    """End in good order."""
    if not worker.isolation.scratch:
        empty_directory(os.environ["HOME"])
        os.rmdir(os.environ["HOME"])
    os._exit(0)


def send(channel: int, status: str, seconds: float, out: bytes, err: bytes) -> None:
    data = REPLY.pack(STATUSES.index(status), seconds, len(out), len(err)) + out + err
    while data:
        data = data[os.write(channel, data) :]


def main() -> None:
    """Serve programs until LocalSandbox goes away. A failure of ours is told, then ends the worker."""
    config = json.loads(sys.argv[1])
    sys.argv[:] = sys.orig_argv[:] = ["program.py"]
    sys.path.remove(os.environ.pop("PYTHONPATH"))
    del os.environ["LD_BIND_NOW"]
    try:
        worker = start(config)
        sys.path.insert(0, "")  # a program may import what it wrote
        ready = json.dumps(worker.isolation.obtained)
        send(worker.channel, "ready", 0.0, ready.encode(), b"")
        while True:
            (length,) = REQUEST.unpack(receive(worker, REQUEST.size))
            source = receive(worker, length)
            begun = time.monotonic()
            status, out, err = execute(worker, source)
            send(worker.channel, status, time.monotonic() - begun, out, err)
    except Exception as error:
        send(config["channel"], "fault", 0.0, f"{type(error).__name__}: {error}".encode(), b"")
        sys.exit(1)


if __name__ == "__main__":
    main()
