"""Runs inside the sandbox: HumanEval's `check(candidate)`, with the candidate in another interpreter.

The text of this file is the program, and, with the argument `candidate`, the program of a second
interpreter that it starts. The first one (the *checker*) holds the tests and calls the candidate by
messages; the second one holds the model's code, sees the arguments of each call and returns values.
Values cross as data (numbers, text, None, lists, tuples, dicts, sets), never as objects with methods
of their own. So a candidate cannot read the expected values, replace `check`, answer `==` with a
lie, or end the checker early and well: it is started by exec, so it holds no copy of the checker's memory, and the
checker is not *dumpable*, so the kernel refuses access to its memory and descriptors under /proc.

stdin brings the job as JSON; the last line of stdout is the report, which repeats the job's nonce.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

FAULT_EXIT = 97
PR_SET_DUMPABLE = 4
WORDS = 300  # characters of a value or message kept
LONGEST_REPLY = 64 << 20  # bytes

Value = Any


class UnsupportedError(BaseException):
    """The tests pass something that cannot cross."""


class CandidateEndedError(BaseException):
    """The candidate ran out of time or ended itself."""


# --- values as data -------------------------------------------------------------------------------


def pack(value: Value) -> Value:
    """JSON for a value. Raises TypeError for what is not plain data."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {name: [pack(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(value: Value) -> Value:
    """The inverse. Raises ValueError or TypeError for anything else."""
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("not a packed value")
        return value
    ((name, content),) = value.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in content}
    if name == "complex":
        return complex(*content)
    if name == "bytes":
        return bytes.fromhex(content)
    kinds: dict[str, Callable[[list[Value]], Value]] = {
        "list": list,
        "tuple": tuple,
        "set": set,
        "frozenset": frozenset,
    }
    return kinds[name]([unpack(item) for item in content])


# --- the candidate's interpreter ------------------------------------------------------------------


def candidate_main(requests: int, replies: int) -> None:
    """Load the answer, then serve calls until the checker goes away."""
    with open(requests, "rb") as lines, open(replies, "wb") as out:

        def reply(message: dict[str, Value]) -> None:
            out.write(json.dumps(message).encode() + b"\n")
            out.flush()

        job = json.loads(lines.readline())
        sys.path[:] = job["path"]
        function = None
        try:
            function = load(job)
            reply({"value": None})
        except BaseException as error:
            reply(failure(error))
        for line in lines:
            try:
                args, kwargs = unpack(json.loads(line))
                message = {"value": pack(function(*args, **kwargs))}  # type: ignore[misc]
            except BaseException as error:
                message = failure(error)
            reply(message)


def load(job: dict[str, Any]) -> Callable[..., Value]:
    """Run the sources in one namespace; the function named by the job."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    *helpers, code = job["sources"]
    for source in helpers:
        with suppress(SyntaxError):  # a prompt that is no program by itself
            exec(compile(source, "<prompt>", "exec"), module.__dict__)
    exec(compile(code, "<answer>", "exec"), module.__dict__)
    function: Callable[..., Value] = getattr(module, job["entry_point"])
    return function


def failure(error: BaseException) -> dict[str, Value]:
    return {"error": type(error).__name__, "text": str(error)[:WORDS]}


# --- the checker ----------------------------------------------------------------------------------


def interpreter() -> str:
    """A Python that can be executed here: that of a virtual environment may be hidden from the sandbox."""
    choices = [str(getattr(sys, "_base_executable", "")), sys.executable]
    return next((path for path in choices if path and os.access(path, os.X_OK)), sys.executable)


class Candidate:
    """The other interpreter, as the function that the tests call."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._deadline = time.monotonic() + job["seconds"]
        self._seconds = job["seconds"]
        self._buffer = b""
        self.last_call = "nothing was called"
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        command = [interpreter(), "-I", "-S", "-B", "-c", job["harness"], "candidate", str(requests), str(replies)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(requests, replies),
            start_new_session=True,
        )
        os.close(requests)
        os.close(replies)

    def load(self, job: dict[str, Any]) -> None:
        """Have the sources run. Raises what they raise."""
        self._exchange({"path": sys.path, "sources": job["sources"], "entry_point": job["entry_point"]})

    def __call__(self, *args: Value, **kwargs: Value) -> Value:
        try:
            message = pack((args, kwargs))
        except (TypeError, RecursionError) as error:
            raise UnsupportedError(f"the tests pass {error}") from error
        self.last_call = "the last call raised"
        value = self._exchange(message)
        self.last_call = f"the last call returned {value!r}"[:WORDS]
        return value

    def _exchange(self, message: Value) -> Value:
        """Send one message and wait for its reply. Raises what the candidate raised."""
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise CandidateEndedError("the candidate ended itself") from None
        reply = json.loads(self._read_line())
        if "error" in reply:
            kind = getattr(builtins, str(reply["error"]), RuntimeError)
            known = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if known else RuntimeError)(str(reply["text"])[:WORDS])
        return unpack(reply["value"])

    def _read_line(self) -> bytes:
        poller = select.poll()
        poller.register(self._replies, select.POLLIN)
        while b"\n" not in self._buffer:
            left = self._deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise CandidateEndedError(f"stopped after {self._seconds:g} s")
            chunk = os.read(self._replies, 1 << 16)
            if not chunk or len(self._buffer) > LONGEST_REPLY:
                raise CandidateEndedError("the candidate ended itself")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def end(self) -> None:
        """Kill the interpreter and, where they can be found, all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if os.getpid() == 1:  # of a pid namespace of our own: nobody else is in it
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        self.process.wait()


def check(job: dict[str, Any], candidate: Candidate) -> tuple[str, str]:
    """`passed`, `failed` or `unsupported`, and the reason."""
    try:
        candidate.load(job)
        run_check(job, candidate)
        return "passed", ""
    except UnsupportedError as error:
        return "unsupported", str(error)
    except CandidateEndedError as error:
        return "failed", str(error)
    except BaseException as error:
        return "failed", reason(error, job["test"], candidate)
    finally:
        candidate.end()


def run_check(job: dict[str, Any], candidate: Candidate) -> None:
    names: dict[str, Any] = {"__name__": "tests"}
    with suppress(SyntaxError):  # the tests may use helpers of the prompt
        exec(compile(job["prompt"], "<prompt>", "exec"), names)
    names[job["entry_point"]] = candidate
    exec(compile(job["test"], "<test>", "exec"), names)
    names["check"](candidate)


def reason(error: BaseException, test: str, candidate: Candidate) -> str:
    """The line of the tests that failed, and what the candidate had said."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    said = f"{type(error).__name__}: {error}".strip(": ")[:WORDS]
    if not lines or lines[-1] is None:
        return said
    where = test.splitlines()[lines[-1] - 1].strip()[:WORDS]
    return f"{where}: {said}; {candidate.last_call}"


def fault(error: BaseException) -> NoReturn:
    sys.stderr.write(f"harness fault: {type(error).__name__}: {error}\n")
    sys.exit(FAULT_EXIT)


def checker_main() -> None:
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        job = json.loads(sys.stdin.buffer.read())
        candidate = Candidate(job)
        report_end = os.dup(1)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # tests may print
    except Exception as error:
        fault(error)
    status, detail = check(job, candidate)
    report = json.dumps({"nonce": job["nonce"], "status": status, "detail": detail})
    os.write(report_end, f"\n{report}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    if sys.argv[1:2] == ["candidate"]:
        candidate_main(int(sys.argv[2]), int(sys.argv[3]))
    else:
        checker_main()
