"""Runs inside the sandbox: the candidate once per test, each time in a fork; outputs go to a file.

The text of this file is the program; stdin brings the job as JSON (`code`, `prelude`, `fn_name`,
`tests` with what is `given`, `limit` in bytes of an output, `seconds` per test, `total_seconds`,
`nonce`), `report.json` takes the results, up to the first test that did not run to its end. No expected
output is in here, nor its length, so there is nothing to steal, and a forged report could only claim outputs that
the candidate does not know.

This process (the *judge*) is not *dumpable*: the kernel refuses its forks its memory and descriptors. Each
fork works in a directory of its own, and what the judge imports comes from Python's own directories. The nonce
goes to stdout when the model's code is about to run: what goes wrong without that line is not the candidate's doing.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
import types
from contextlib import suppress
from typing import Any, BinaryIO, NoReturn

REPORT = "report.json"
PR_SET_DUMPABLE = 4
TAIL = 2000  # bytes of stderr looked at
WORDS = 300  # characters of an error kept

libc = ctypes.CDLL(None, use_errno=True)


def set_dumpable(value: int) -> None:
    """Whether other processes of this user may look into this one. Raises OSError."""
    if libc.prctl(PR_SET_DUMPABLE, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def close_to_others() -> None:
    """Refuse forks our memory and descriptors, and leave what they can write. Raises OSError."""
    homes = tuple(os.path.join(os.path.abspath(home), "") for home in (sys.prefix, sys.base_prefix, sys.exec_prefix))
    sys.path[:] = [path for path in sys.path if path.startswith(homes) and os.path.abspath(path) != os.getcwd()]
    os.chdir("/")
    set_dumpable(0)


def become_candidate(job: dict[str, Any], given: Any, workplace: str, streams: tuple[int, int, int]) -> NoReturn:
    """The whole life of a fork: run the candidate in its directory, then end without any cleanup of the harness's."""
    status = 1
    stdin, out, err = streams
    try:
        os.setsid()
        os.chdir(workplace)
        set_dumpable(1)  # a program may look at itself
        sys.path[:] = ["", *job["path"]]  # and import what it wrote
        functional = job["fn_name"] is not None
        null = os.open(os.devnull, os.O_RDWR)
        result = os.dup2(out, 3) if functional else out
        for source, target in ((stdin, 0), (null if functional else out, 1), (err, 2)):
            os.dup2(source, target)
        os.closerange(4 if functional else 3, 256)
        sys.stdin, sys.stdout, sys.stderr = (open(fd, mode) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
        run(job, given, result)
        status = 0
    except SystemExit:
        status = 0  # a program may end itself; its output counts
    except BaseException:
        sys.setrecursionlimit(10_000)
        os.write(2, traceback.format_exc(limit=-5)[-TAIL:].encode("utf-8", "backslashreplace"))
    finally:
        with suppress(BaseException):
            if (threads := sys.modules.get("threading")) is not None:
                threads._shutdown()  # the candidate's work may be in a thread
        with suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def run(job: dict[str, Any], given: Any, result: int) -> None:
    """The program as `__main__`, or one call of the function with its value written as JSON."""
    functional = job["fn_name"] is not None
    module = types.ModuleType("solution" if functional else "__main__")
    sys.modules[module.__name__] = module
    exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), module.__dict__)
    exec(compile(job["code"], "<answer>", "exec", dont_inherit=True), module.__dict__)
    if not functional:
        return
    owner = module.__dict__.get("Solution")
    method = getattr(owner, job["fn_name"], None)
    function = getattr(owner() if owner is not None and method is not None else module, job["fn_name"])
    data = json.dumps(function(*given)).encode()
    while data:
        data = data[os.write(result, data) :]


def in_memory(name: str) -> BinaryIO:
    """A file that is in no directory. Raises OSError."""
    return open(os.memfd_create(name), "r+b", buffering=0)


def run_test(job: dict[str, Any], given: Any, workplace: str, seconds: float) -> dict[str, str]:
    """One test in a fork, watched until it ends, runs out of time or writes too much."""
    functional = job["fn_name"] is not None
    os.mkdir(workplace)
    # Files without a name: no other test finds them, and no full disk keeps them from being written.
    with in_memory("stdin") as stdin, in_memory("stderr") as err:
        stdin.write(b"" if functional else given.encode("utf-8", "surrogatepass"))
        stdin.seek(0)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            become_candidate(job, given, workplace, (stdin.fileno(), write_end, err.fileno()))
        os.close(write_end)
        ended, data = watch(pid, read_end, job["limit"], seconds)
        os.close(read_end)
        code = reap(pid)
        size = os.fstat(err.fileno()).st_size
        last = os.pread(err.fileno(), TAIL, max(0, size - TAIL)).decode("utf-8", "replace").strip()
    if ended == "exited" and code == 0:
        return {"status": "ok", "output": data.decode("utf-8", "replace"), "detail": ""}
    detail = f"killed by signal {-code}" if code < 0 else last.rpartition("\n")[2][-WORDS:]
    return {"status": "error" if ended == "exited" else ended, "output": "", "detail": detail}


def watch(pid: int, read_end: int, limit: int, seconds: float) -> tuple[str, bytes]:
    """`exited`, `timeout` or `output_limit`, and what was written (bytes)."""
    data, deadline = b"", time.monotonic() + seconds
    process = os.pidfd_open(pid)
    os.set_blocking(read_end, False)
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.register(read_end, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(left * 1000))
            more = True
            while more and len(data) <= limit and (read_end in ready or process in ready):
                try:
                    chunk = os.read(read_end, 1 << 16)
                except BlockingIOError:
                    break
                data, more = data + chunk, bool(chunk)
            if not more and read_end in ready:
                with suppress(KeyError):
                    poller.unregister(read_end)
            if len(data) > limit:
                return "output_limit", b""
            if process in ready:
                return "exited", data
        return "timeout", b""
    finally:
        os.close(process)


def reap(pid: int) -> int:
    """Kill what is left of a test, its descendants too where they can be found. The exit code."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if os.getpid() == 1:  # of a pid namespace of our own: nobody else is in it
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
    return code


def run_all(job: dict[str, Any], home: str) -> list[dict[str, str]]:
    """The results up to the first that is not `ok`."""
    deadline = time.monotonic() + job["total_seconds"]
    results = []
    for number, given in enumerate(job["tests"], 1):
        seconds = min(job["seconds"], deadline - time.monotonic())
        results.append(run_test(job, given, os.path.join(home, f"test-{number}"), seconds))
        if results[-1]["status"] != "ok":
            break
    return results


def main() -> None:
    """Raises what keeps the candidate from being judged."""
    home, path = os.getcwd(), list(sys.path)
    close_to_others()
    job = {**json.loads(sys.stdin.buffer.read()), "path": path}
    with suppress(Exception):  # import once what every fork will want; a failure shows in the forks
        exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), {})
    os.write(1, f"{job['nonce']}\n".encode())
    report = json.dumps({"results": run_all(job, home)})
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(home, REPORT))
    with open(os.path.join(home, REPORT), "x", encoding="utf-8") as file:
        file.write(report)


if __name__ == "__main__":
    main()
