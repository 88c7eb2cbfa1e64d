"""How recorded texts are judged: by reading alone, by math-verify over whole texts, or by running programs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.base import Means
from sod.outcomes import filled
from sod.records import Fault, SodError, Verdict
from sod.rewards.code import LONGEST_CODE, CodeVerifier
from sod.rewards.code_suites import Suite, read_suite
from sod.rewards.math_workers import MathWorkers, Pair

MEMORY_MB = 1024  # of one comparison
NO_PROGRAM = "no program in the answer"


class Item(NamedTuple):
    """A text and the problem that it is about."""

    problem: Problem
    text: str


class Read(NamedTuple):
    """What math-verify is to compare: `given` with `truth`, both whole texts. `answer` is what a record shows."""

    given: str
    truth: str
    answer: str | None


@final
class Resources:
    """What judging started, from the first use on: the interpreter of math-verify, and the verifier of programs."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._math: MathWorkers | None = None
        self._code: CodeVerifier | None = None
        self._lock = threading.Lock()

    def compared(self, pairs: Sequence[Pair]) -> list[str | Fault]:
        """What math-verify says of pairs of whole texts. Calls from several threads run one after the other."""
        with self._lock:
            if self._math is None:
                self._math = MathWorkers(self._means.workers, self._means.seconds, MEMORY_MB, whole_texts=True)
            return self._math.compare(pairs)

    @property
    def code(self) -> CodeVerifier:
        """Runs programs in the sandbox of the means, which is not closed here."""
        if self._code is None:
            self._code = self._means.code()
        return self._code

    def close(self) -> None:
        """End the comparisons. Safe to call twice."""
        with self._lock:
            if self._math is not None:
                self._math.close()


Judge = Callable[[Sequence[Item], Resources], list[Verdict | Fault]]
"""One outcome per item, in order."""


def by_reading(read: Callable[[Problem, str], Verdict]) -> Judge:
    """The judge of answers that are compared as text."""

    def judge(items: Sequence[Item], _: Resources) -> list[Verdict | Fault]:
        return [read(problem, text) for problem, text in items]

    return judge


def by_math_verify(read: Callable[[Problem, str], Read]) -> Judge:
    """The judge of texts in which math-verify looks for the answers itself."""

    def judge(items: Sequence[Item], resources: Resources) -> list[Verdict | Fault]:
        reads = [read(problem, text) for problem, text in items]
        pairs = list(dict.fromkeys(Pair(one.given, one.truth) for one in reads))
        statuses = dict(zip(pairs, resources.compared(pairs), strict=True))
        found = [statuses[Pair(one.given, one.truth)] for one in reads]
        return [_compared(item, one, status) for item, one, status in zip(items, reads, found, strict=True)]

    return judge


def _compared(item: Item, read: Read, status: str | Fault) -> Verdict | Fault:
    if isinstance(status, Fault):
        return status
    if status == "equal":
        return Verdict(item.problem.answer, 1.0)
    ended = "" if status == "different" else f"comparison ended by {status}"
    return Verdict(read.answer, 0.0, ended)


def by_running(program: Callable[[Problem, str], str | None], suited: Callable[[Suite], Suite]) -> Judge:
    """The judge of programs: `program` takes one out of a text, `suited` makes a problem's tests fit it."""

    def judge(items: Sequence[Item], resources: Resources) -> list[Verdict | Fault]:
        programs = [program(problem, text) for problem, text in items]
        without: list[Verdict | Fault | None] = [
            None if code and len(code) <= LONGEST_CODE else Verdict(None, 0.0, NO_PROGRAM) for code in programs
        ]
        asked = [(item.problem, code or "") for item, code in zip(items, programs, strict=True)]

        def run(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict | Fault]:
            return resources.code.judged((_suite(problem, resources.code, suited), code) for problem, code in pairs)

        return filled(without, asked, run)

    return judge


def _suite(problem: Problem, code: CodeVerifier, suited: Callable[[Suite], Suite]) -> Suite | Fault:
    """The tests of a problem, out of their pickles."""
    if problem.task is None:
        raise SodError(f"{problem.benchmark}: problem {problem.id} has no tests")
    plain = code.unpacking.plain(problem.task)
    return plain if isinstance(plain, Fault) else suited(read_suite(plain))
