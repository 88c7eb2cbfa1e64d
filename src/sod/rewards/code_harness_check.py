"""Runs inside the sandbox: tests in Python such as HumanEval's, with the candidate in another interpreter.

The text of this file is the program. It (the *judge*) holds the tests and starts a second interpreter, whose program is
`code_harness_answer`: that holds the model's code, sees the arguments of each call and returns values.
What keeps a candidate from the verdict:

- values cross as data, never as objects with methods of the candidate's (`code_harness_values`), and errors as the
  names of built-in exceptions that no loop takes for its end;
- the candidate is started by exec, so it holds no copy of the judge's memory, and the judge is not
  *dumpable*, so the kernel refuses access to its memory and descriptors under /proc;
- the judge reads no file that a candidate can write: tests are compiled and what they import is imported
  before the candidate's interpreter starts, and what is imported later comes from Python's own
  directories; the candidate works in a directory that is not on the judge's path.

stdin brings the job as JSON; its `answer`, `values` and `tests` are the texts of `code_harness_answer`, of
`code_harness_values` and of `code_harness_tests`, which knows how tests are written. The judge writes the job's nonce
to stdout when the model's code is about to run: what goes wrong without that line is not the candidate's doing. The
last line of stdout is the report, with the nonce.
"""

from __future__ import annotations

import builtins
import ctypes
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
from typing import Any

PR_SET_DUMPABLE = 4
WORDS = 300  # characters of a value or message kept
LONGEST_REPLY = 64 << 20  # bytes
START_SECONDS = 8.0  # for the candidate's interpreter to start, before the model's code runs
WORKPLACE = "candidate"  # its directory
SENT = ("path", "sources", "entry_point", "classes", "values")  # of the job
LOOP_ENDS = (StopIteration, StopAsyncIteration)  # `zip`, `map` and `for` take them for the end of what they go through

Value = Any


class NotBegunError(BaseException):
    """The candidate's interpreter did not start: not the candidate's doing."""


class UnsupportedError(BaseException):
    """The tests pass something that cannot cross."""


class CandidateEndedError(BaseException):
    """The candidate ran out of time, ended itself or answered with something that is no answer."""


def raised(name: str, text: str) -> Exception:
    """What the tests see of an exception of the candidate's: the same built-in type, unless it ends loops."""
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, LOOP_ENDS):
        return RuntimeError(f"{name}: {text}")
    try:
        return kind(text)
    except TypeError:  # such as UnicodeDecodeError, which is made of more than a text
        return raised(kind.__base__.__name__, text) if kind.__base__ is not None else RuntimeError(text)


def raised_as(kind: type[Exception], error: Exception) -> Exception:
    """The error as one that is also of the kind which stands for the answer's own."""
    both = type(kind.__name__, (kind, type(error)), {})
    try:
        found: Exception = both(*error.args)
    except TypeError:
        return kind(*error.args)
    return found


def module_of(name: str, source: str) -> Any:
    """A module of the given text, which can be imported from now on."""
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


# --- the judge ------------------------------------------------------------------------------------


def close_to_others() -> None:
    """Refuse other processes of this user our memory and descriptors, and leave what they can write. Raises OSError."""
    homes = tuple(os.path.join(os.path.abspath(home), "") for home in (sys.prefix, sys.base_prefix, sys.exec_prefix))
    sys.path[:] = [path for path in sys.path if path.startswith(homes) and os.path.abspath(path) != os.getcwd()]
    os.chdir("/")
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def interpreter() -> str:
    """A Python that can be executed here: that of a virtual environment may be hidden from the sandbox."""
    choices = [str(getattr(sys, "_base_executable", "")), sys.executable]
    return next((path for path in choices if path and os.access(path, os.X_OK)), sys.executable)


class Candidate:
    """The other interpreter: what tests ask of its program. It starts with the first that they ask for.

    `testing` is the test under way; `classes` are those of the prompt, and `errors` stand for exceptions of the
    answer's own, as the tests have them.
    """

    def __init__(self, job: dict[str, Any], workplace: str, begin: Callable[[], None]) -> None:
        """`begin` is called when the model's code is about to run."""
        self._job = job
        self._values = module_of("harness_values", job["values"])
        self.classes: dict[str, type] = {}
        self.errors: dict[str, type[Exception]] = {}
        self.testing = ""
        self._workplace = workplace
        self._begin = begin
        self._buffer = bytearray()
        self._last: Value = None
        self._returned = False
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = False
        self.trouble: BaseException | None = None  # what tests that catch everything might hide

    def start(self) -> None:
        """Start the interpreter and have it run the model's code, once. Raises what a call raises, but for errors."""
        if self.process is not None:
            return
        self._deadline = time.monotonic() + START_SECONDS
        try:
            self._spawn()
            self._reply()
        except (OSError, CandidateEndedError) as error:
            self.trouble = NotBegunError(f"the candidate's interpreter did not start: {error}")
            raise self.trouble from None
        self._begin()
        self.begun = True
        self._deadline = time.monotonic() + self._job["seconds"]
        refusal = self._exchange({name: self._job[name] for name in SENT})[1]
        if refusal is not None:
            raise self._ended(f"{type(refusal).__name__}: {refusal}".strip(": ")[:WORDS])

    def _spawn(self) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        command = [interpreter(), "-I", "-S", "-B", "-c", self._job["answer"], str(requests), str(replies)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(requests, replies),
            start_new_session=True,
            cwd=self._workplace,
        )
        os.close(requests)
        os.close(replies)
        os.set_blocking(self._requests, False)

    def named(self, name: str) -> Value:
        """What the candidate's program defines under a name, for the tests to call."""
        return self._values.Held(self._ask, name)

    def _ask(self, operation: str, *operands: Value) -> Value:
        self.start()
        try:
            message = self._values.Writer(self.classes).message((operation, *operands))
        except (TypeError, RecursionError) as error:
            self.trouble = UnsupportedError(f"the tests pass {error}")
            raise self.trouble from error
        called = operation == "call"
        self._returned = self._returned and not called
        reply, refusal = self._exchange(message)
        if refusal is not None:
            raise refusal
        if not called:
            return reply
        self._last = self._returned_by(reply, *operands)
        self._returned = True
        return self._last

    def _returned_by(self, reply: Value, _: Value, args: Value, kwargs: Value) -> Value:
        """The value of a call, whose arguments become what a call that returns None has made of them."""
        try:
            value, changed = reply
            new_args, new_kwargs = ((), {}) if changed is None else changed
            named = [(kwargs[name], new) for name, new in new_kwargs.items()]
            for old, new in [*zip(args, new_args, strict=False), *named]:
                self._values.change(old, new)
        except Exception as error:  # not what the answer's interpreter writes
            raise self._ended(f"the candidate's reply cannot be read: {error}"[:WORDS]) from None
        return value

    def last_call(self) -> str:
        """What the last call did, in words."""
        if not self._returned:
            return "the last call raised"
        try:
            return f"the last call returned {self._last!r}"[:WORDS]
        except BaseException:  # of an object that cannot show itself
            return "the last call returned an object"

    def _exchange(self, message: Value) -> tuple[Value, Exception | None]:
        """Send one message and wait for its reply: a value, or an error."""
        if self.trouble is not None:
            raise self.trouble
        self._send(json.dumps(message).encode() + b"\n")
        return self._reply()

    def _ended(self, why: str) -> BaseException:
        self.trouble = CandidateEndedError(why)
        return self.trouble

    def _wait(self, descriptor: int, event: int) -> None:
        poller = select.poll()
        poller.register(descriptor, event)
        left = self._deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise self._ended(f"stopped after {self._job['seconds']:g} s")

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._requests, select.POLLOUT)
            try:
                view = view[os.write(self._requests, view) :]
            except BrokenPipeError:
                raise self._ended("the candidate ended itself") from None

    def _reply(self) -> tuple[Value, Exception | None]:
        line = self._read_line()
        try:
            reply = json.loads(line)
            if "error" in reply:
                error = raised(str(reply["error"]), str(reply["text"])[:WORDS])
                own = [self.errors[name] for name in reply.get("own", ()) if name in self.errors]
                return None, raised_as(own[0], error) if own else error
            return self._values.Reader(self.classes, self._kept).value(reply), None
        except Exception as error:  # not what `candidate_main` writes
            raise self._ended(f"the candidate's reply cannot be read: {error}"[:WORDS]) from None

    def _kept(self, number: Value, kind: Value) -> Value:
        """What the tests get in place of an object of the candidate's."""
        return self._values.Held(self._ask, int(number), str(kind))

    def _read_line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._wait(self._replies, select.POLLIN)
            chunk = os.read(self._replies, 1 << 16)
            if not chunk or searched > LONGEST_REPLY:
                raise self._ended("the candidate ended itself")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def end(self) -> None:
        """Kill the interpreter and, where they can be found, all that it started."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if os.getpid() == 1:  # of a pid namespace of our own: nobody else is in it
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        self.process.kill()  # where it has left its group
        self.process.wait()


def check(job: dict[str, Any], candidate: Candidate) -> tuple[str, str]:
    """`passed`, `failed` or `unsupported`, and the reason. Raises NotBegunError."""
    try:
        run_check(job, candidate)
        if candidate.trouble is not None:
            raise candidate.trouble
        return "passed", ""
    except NotBegunError:
        raise
    except UnsupportedError as error:
        return "unsupported", str(error)
    except CandidateEndedError as error:
        return "failed", str(error)
    except BaseException as error:
        said = reason(error, job["test"], candidate)
        return ("failed", said) if candidate.begun else ("unsupported", f"the tests do not run: {said}")
    finally:
        candidate.end()


def run_check(job: dict[str, Any], candidate: Candidate) -> None:
    run = module_of("harness_tests", job["tests"]).prepared(job, candidate)
    candidate.start()
    run()


def reason(error: BaseException, test: str, candidate: Candidate) -> str:
    """The test and its line that failed, and what the candidate had said."""
    within = f"{candidate.testing}: " if candidate.testing else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    said = f"{type(error).__name__}: {error}".strip(": ")[:WORDS]
    if not lines or lines[-1] is None:
        return within + said
    where = test.splitlines()[lines[-1] - 1].strip()[:WORDS]
    return f"{within}{where}: {said}; {candidate.last_call()}"


def judge_main() -> None:
    """Raises what keeps the candidate from being judged."""
    workplace, path = os.path.abspath(WORKPLACE), list(sys.path)
    os.mkdir(workplace)
    close_to_others()
    job = {**json.loads(sys.stdin.buffer.read()), "path": path}
    report_end = os.dup(1)
    said, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115  # tests may print
    sys.stdout = sys.stderr
    candidate = Candidate(job, workplace, lambda: write_line(report_end, job["nonce"]))
    try:
        status, detail = check(job, candidate)
    except NotBegunError:
        sys.stderr = said
        raise
    write_line(report_end, json.dumps({"nonce": job["nonce"], "status": status, "detail": detail}))
    os._exit(0)


def write_line(descriptor: int, line: str) -> None:
    os.write(descriptor, f"\n{line}\n".encode())


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    judge_main()
