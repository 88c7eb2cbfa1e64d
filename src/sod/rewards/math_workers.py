"""Symbolic comparisons in another process: started lazily, watched, replaced when lost.

math-verify (PyPI) cannot run here: it interrupts itself by `signal.alarm`, which works in a main
thread only, and sympy can take hours and gigabytes over a short text. So one fresh interpreter
(`math_worker_main.py`, never a fork of the trainer) loads it once and forks a child for every pair.

What protects us from what a model wrote: every comparison has a process of its own, ended at its
limit of CPU time, with limits on memory and file size; the interpreter gets an empty environment
(no secrets) and no descriptor of ours but its two pipes. The text is read by an ANTLR grammar for
LaTeX and never by `eval`: math-verify's other reader, which calls sympy's `parse_expr` (an `eval`),
is not used. The child is no sandbox beyond that: it keeps the user's rights.

With `whole_texts` answers are looked for in whole texts, by math-verify itself and with both of its readers, as
harnesses do it that this project's figures are compared with. What the second reader evaluates are digits, operators
and brackets: its patterns match no letters.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

from sod.pipes import Replies, end
from sod.records import Fault, FaultKind

START_SECONDS = 60.0  # imports on a busy machine
WALL_FACTOR = 4  # wall clock that a comparison may take for each second of CPU time, on a busy machine
GRACE_SECONDS = 10.0  # beyond that, before the interpreter counts as lost
ATTEMPTS = 2
IN_FLIGHT = 4  # pairs sent ahead, per child that can run at a time
STATUSES = ("equal", "different", "time-out", "crash", "starved")
_MAIN = Path(__file__).with_name("math_worker_main.py")


class Pair(NamedTuple):
    """Two normalised LaTeX texts; with `whole_texts` two texts that hold answers."""

    given: str
    truth: str


# Of two different pairs, so that neither "always equal" nor "always different" passes.
CONTROLS = {Pair("x+\\frac{1}{2}", "0.5+x"): "equal", Pair("x+1", "x+2"): "different"}
CONTROLS_IN_TEXTS = {
    Pair("so it is $x+\\frac{1}{2}$", "\\boxed{0.5+x}"): "equal",
    Pair("so it is $x+1$", "\\boxed{x+2}"): "different",
}


class WorkerLostError(Exception):
    """The interpreter died, hung, or does not answer the control pairs as it must."""


@final
class MathWorkers:
    """Up to `workers` comparisons at a time, each at most `seconds` (whole, CPU time) and `memory_mb` (MiB)."""

    def __init__(self, workers: int, seconds: int, memory_mb: int, whole_texts: bool = False) -> None:
        if min(workers, seconds, memory_mb) <= 0:
            raise ValueError(f"workers ({workers}), seconds ({seconds}) and memory_mb ({memory_mb}) must be positive")
        limits = [str(number) for number in (workers, seconds, WALL_FACTOR * seconds, memory_mb)]
        mode = ["texts"] if whole_texts else []
        self._command = [sys.executable, "-s", "-P", "-B", str(_MAIN), *limits, *mode]
        self._controls = CONTROLS_IN_TEXTS if whole_texts else CONTROLS
        self._window = workers * IN_FLIGHT
        self._patience = WALL_FACTOR * seconds + GRACE_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: Replies | None = None
        self._closed = False

    def compare(self, pairs: Sequence[Pair]) -> list[str | Fault]:
        """One status or fault per pair, in order. A pair whose interpreter is lost is tried once more.

        `time-out` and `crash` are the pair's own doing: after one, the control pairs must still be
        answered as they must, else it is a fault. So is a pair that got too little CPU time for long.
        """
        statuses: dict[int, str] = {}
        problem = "the verifier is closed"
        for _ in range(ATTEMPTS):
            if self._closed:
                break
            try:
                self._ask(pairs, statuses)
                break
            except (WorkerLostError, OSError) as error:
                problem = str(error)
                self._drop()
            except BaseException:  # an interrupt: replies still to come would answer the wrong question
                self._drop()
                raise
        lost = Fault(FaultKind.VERIFIER, f"math-verify: {problem}")
        starved = Fault(FaultKind.VERIFIER, "math-verify: too little CPU time to be had")
        results = {index: starved if status == "starved" else status for index, status in statuses.items()}
        return [results.get(index, lost) for index in range(len(pairs))]

    def close(self) -> None:
        """End the interpreter. Safe to call twice; later pairs are faults."""
        self._closed = True
        self._drop()

    def _ask(self, pairs: Sequence[Pair], statuses: dict[int, str]) -> None:
        """Fill in what is missing. Raises WorkerLostError or OSError."""
        if self._process is None:
            self._start()
        answered = self._exchange({index: pair for index, pair in enumerate(pairs) if index not in statuses})
        if {"time-out", "crash"} & set(answered.values()):
            self._check_controls()
        statuses.update(answered)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},  # one order of symbols in every run
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._replies = Replies(self._process.stdout)
        greeting = self._read_line(START_SECONDS)
        if greeting != "ready":
            raise WorkerLostError(greeting)
        self._check_controls()

    def _check_controls(self) -> None:
        expected = dict(enumerate(self._controls.values()))
        if (found := self._exchange(dict(enumerate(self._controls)))) != expected:
            raise WorkerLostError(f"control pairs are found {list(found.values())}")

    def _exchange(self, pairs: dict[int, Pair]) -> dict[int, str]:
        """Send all, a few ahead, and read a status for each. Raises WorkerLostError or OSError."""
        assert self._process is not None
        assert self._process.stdin is not None
        waiting, answered, sent = deque(pairs.items()), dict[int, str](), 0
        while len(answered) < len(pairs):
            while waiting and sent - len(answered) < self._window:
                index, (given, truth) = waiting.popleft()
                texts = [text.encode("utf-8", "replace").decode() for text in (given, truth)]
                fields = "\t".join((str(index), *map(json.dumps, texts)))  # no tab nor line end but these
                self._process.stdin.write(fields.encode() + b"\n")
                sent += 1
            self._process.stdin.flush()
            number, _, status = self._read_line(self._patience).partition(" ")
            if status not in STATUSES or int(number) not in pairs:
                raise WorkerLostError(f"not a reply: {number[:100]} {status[:100]}")
            answered[int(number)] = status
        return answered

    def _read_line(self, seconds: float) -> str:
        """One line, waiting at most that long. Raises WorkerLostError."""
        assert self._replies is not None
        try:
            return self._replies.line(seconds).decode("utf-8", "replace")
        except TimeoutError as error:
            raise WorkerLostError(str(error)) from None
        except EOFError:
            raise WorkerLostError("the interpreter ended") from None

    def _drop(self) -> None:
        process, self._process, self._replies = self._process, None, None
        if process is not None:
            end(process)
