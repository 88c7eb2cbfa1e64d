"""The verifier for programs: the last Python block of the answer against the tests of its task.

All tests of an answer are one program of the sandbox. What a candidate can and cannot do there:

- tests with inputs and outputs (`code_harness_cases`): the expected outputs stay in this process,
  which compares; nothing in the sandbox is worth stealing or forging;
- tests in Python such as HumanEval's `check` (`code_harness_check`): tests and candidate run in two
  interpreters of the same sandbox; what each can reach of the other is written there. The report must repeat a nonce.

Both write the nonce to stdout when the model's code is about to run. Without it an execution is a fault of
ours, with it whatever happens is the candidate's doing: no exit code can turn a wrong answer into a fault.

Residual weaknesses: the second kind rests on the kernel refusing a process of the same user the
memory of one that is not dumpable, and on Python's directories not being writable (Linux; a candidate with
root or ptrace rights in its sandbox is beyond it); time limits count wall-clock time, so a busy machine can fail a
slow program; a program that answers only the tested inputs is right, as under every test suite.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, final

from sod.outcomes import filled
from sod.records import Episode, Execution, Fault, FaultKind, Program, Task, Verdict
from sod.rewards.base import as_answered, verified_text
from sod.rewards.code_blocks import last_block
from sod.rewards.code_cases import CaseSuite, same_output, same_text, same_value
from sod.rewards.code_python_tests import CheckSuite
from sod.rewards.code_suites import Suite, read_suite
from sod.rewards.code_unpacking import Unpacking

LONGEST_CODE = 65_536  # characters
OVERHEAD_SECONDS = 10.0  # for starting the harness, beyond the time of the tests
SMALLEST_LIMIT = 65_536  # bytes of output
REPORT = "report.json"
SHOWN = 200  # characters of an expected or actual output in a detail
HELD = 128 << 20  # characters of programs' inputs that are held at a time

# Names that LiveCodeBench's and LeetCode's starter code takes for granted.
PRELUDE = """
import bisect, collections, copy, functools, heapq, itertools, json, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
exit = quit = sys.exit
sys.setrecursionlimit(50_000)
"""

Execute = Callable[[Sequence[Program]], list[Execution | Fault]]
"""`Sandbox.execute`."""


@final
class CodeVerifier:
    """Verifies programs through `execute`, a sandbox's.

    `seconds` is the wall-clock limit of one test (of a whole `check`), `total_seconds` of all tests
    of an answer together, `memory_mb` (MiB) replaces the sandbox's limit. With `whole_text` an answer
    without a fenced block is a program as a whole. `Verdict.answer` is the program.
    """

    def __init__(
        self,
        execute: Execute,
        seconds: float = 6.0,
        total_seconds: float = 60.0,
        memory_mb: int | None = None,
        whole_text: bool = False,
    ) -> None:
        self.execute = execute
        self.seconds = seconds
        self._total_seconds = total_seconds
        self.memory_mb = memory_mb
        self._whole_text = whole_text
        self.unpacking = Unpacking(execute)

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """See `Verifier.verify`. Raises SodError for tests that cannot be read."""
        codes = [self._code(verified_text(episode)) for episode in episodes]
        without: list[Verdict | Fault | None] = [
            Verdict(None, 0.0, "no program in the answer") if code is None else None for code in codes
        ]
        pairs = [(episode.task, code) for episode, code in zip(episodes, codes, strict=True)]
        return filled(without, pairs, self._judged)

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """See `Verifier.votes`. Programs are the same only where their text is."""
        return as_answered(groups)

    def close(self) -> None:
        """Nothing of its own is open: the sandbox belongs to whoever made it."""

    def _judged(self, answers: Sequence[tuple[Task, str | None]]) -> list[Verdict | Fault]:
        return self.judged(self._with_suites(answers))

    def _with_suites(self, answers: Sequence[tuple[Task, str | None]]) -> Iterator[tuple[Suite | Fault, str]]:
        """Each program with its task's tests, which are read once for answers that stand together."""
        last: Task | None = None
        suite: Suite | Fault | None = None
        for task, code in answers:
            if suite is None or task is not last:
                last, suite = task, self._suite(task)
            yield suite, code or ""

    def _suite(self, task: Task) -> Suite | Fault:
        plain = self.unpacking.plain(task)
        return plain if isinstance(plain, Fault) else read_suite(plain)

    def judged(self, candidates: Iterable[tuple[Suite | Fault, str]]) -> list[Verdict | Fault]:
        """Run every program, each with its suite; a fault in place of a suite is the outcome."""
        outcomes: list[Verdict | Fault] = []
        waiting: list[_Run] = []
        size = 0
        for suite, code in candidates:
            run = suite if isinstance(suite, Fault) else self._run(suite, code)
            length = 0 if isinstance(run, Fault) else len(run.program.stdin)
            if isinstance(run, Fault) or size + length > HELD:
                outcomes += self._executed(waiting)
                waiting, size = [], 0
            if isinstance(run, Fault):
                outcomes.append(run)
            else:
                waiting.append(run)
                size += length
        return outcomes + self._executed(waiting)

    def _executed(self, runs: Sequence[_Run]) -> list[Verdict | Fault]:
        executions = self.execute([run.program for run in runs]) if runs else []
        return [_verdict(run, execution) for run, execution in zip(runs, executions, strict=True)]

    def _run(self, suite: Suite, code: str) -> _Run:
        nonce = secrets.token_hex(16)  # no result depends on it: nothing to reproduce
        return _Run(suite, code, nonce, self._program(suite, code, nonce))

    def _code(self, text: str) -> str | None:
        code = last_block(text)
        if code is None and self._whole_text and text.strip():
            code = text
        return code if code is not None and len(code) <= LONGEST_CODE else None

    def _program(self, suite: Suite, code: str, nonce: str) -> Program:
        total = min(self._total_seconds, self.seconds * (len(suite.cases) if isinstance(suite, CaseSuite) else 1))
        job: dict[str, Any] = {"seconds": self.seconds, "total_seconds": total, "nonce": nonce}
        if isinstance(suite, CaseSuite):
            job |= {"code": code, "prelude": PRELUDE, "fn_name": suite.fn_name, "limit": _output_limit(suite)}
            job["tests"] = [case.given for case in suite.cases]
            source, fetch = harness("cases"), [REPORT]
        else:
            job |= {**python_job(suite), "sources": _sources(suite, code), "answer": harness("answer")}
            job |= {"values": harness("values"), "tests": harness("tests")}
            source, fetch = harness("check"), []
        limit = total + OVERHEAD_SECONDS
        return Program(source, json.dumps(job), fetch=tuple(fetch), seconds=limit, memory_mb=self.memory_mb)


class _Run(NamedTuple):
    """An answer on its way."""

    suite: Suite
    code: str
    nonce: str
    program: Program


@cache
def harness(name: str) -> str:
    """The text of a harness, which runs in the sandbox."""
    return Path(__file__).with_name(f"code_harness_{name}.py").read_text("utf-8")


def python_job(suite: CheckSuite) -> dict[str, Any]:
    """What `code_harness_tests` is to know of a suite."""
    about = {"prompt": suite.prompt, "entry_point": suite.entry_point, "names": suite.names, "test": suite.test}
    return {**about, "classes": suite.classes, "errors": suite.errors, "pytest": harness("pytest")}


def _sources(suite: CheckSuite, code: str) -> list[str]:
    """What the candidate runs: the prompt (its imports and helpers) and the answer, or the prompt continued."""
    if suite.whole:
        return [code]
    root = re.match(r"\w*", suite.entry_point)  # of `Solution().f` the class
    name = re.escape(root[0] if root else suite.entry_point)
    if re.search(rf"^(?:(?:(?:async\s+)?def|class)\s+{name}\b|{name}\s*=)", code, re.MULTILINE):
        return [suite.prompt, code]
    return [suite.prompt + code]


def _output_limit(suite: CaseSuite) -> int:
    """Bytes of output beyond which any test has failed: a power of two, as the candidate must not learn lengths."""
    texts = [case.expected if isinstance(case.expected, str) else json.dumps(case.expected) for case in suite.cases]
    return 1 << max(SMALLEST_LIMIT, 8 * max(map(len, texts))).bit_length()


def _verdict(run: _Run, execution: Execution | Fault) -> Verdict | Fault:
    suite, code, nonce, _ = run
    if isinstance(execution, Fault):
        return execution
    last = execution.stderr.rstrip().rpartition("\n")[2]
    report = _report(execution, nonce)
    if report.get("status") == "unsupported":
        return Fault(FaultKind.VERIFIER, f"code: {report['detail']}", retryable=False)
    if nonce not in execution.stdout:
        return Fault(FaultKind.VERIFIER, f"code: the harness did not begin: {last[:SHOWN]}")
    unreported = f"no report: {execution.status}: {last}"
    if isinstance(suite, CaseSuite):
        results = _results(execution)
        failure = unreported if results is None else first_failure(suite, results)
        return Verdict(code, float(not failure), _plain(failure))
    if report.get("status") == "passed":
        return Verdict(code, 1.0)
    return Verdict(code, 0.0, _plain(str(report.get("detail", unreported))))


def _plain(text: str) -> str:
    """Text that every file can take: a candidate's words may hold halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def _results(execution: Execution) -> list[dict[str, str]] | None:
    """What the candidate gave out; None where its doing kept the report from being written."""
    if execution.exit_code != 0:  # the judge did not come to its end: whose report it is, is not known
        return None
    try:
        results = json.loads(execution.files[REPORT])["results"]
        return [{name: str(result[name]) for name in ("status", "output", "detail")} for result in results]
    except (KeyError, ValueError, TypeError, RecursionError):  # a candidate can overwrite the file, to its own harm
        return None


def _report(execution: Execution, nonce: str) -> dict[str, Any]:
    """The checker's report; empty where there is none with the nonce."""
    try:
        report = json.loads(execution.stdout.rstrip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) and report.get("nonce") == nonce else {}


def first_failure(suite: CaseSuite, results: Sequence[dict[str, str]]) -> str:
    """The first test (from 1) that did not do as expected, in words; empty if all did, in one reading of them."""
    failures = [_failure(suite, expected, results) for expected in suite.readings]
    passed = any(not words for _, words in failures)
    return "" if passed else max(failures, key=lambda failure: failure[0])[1]  # the reading that went the furthest


def _comparison(suite: CaseSuite) -> Callable[[str, Any], bool]:
    """What makes an output the expected one."""
    if suite.fn_name is not None:
        return same_value
    return same_text if suite.verbatim else partial(same_output, close=suite.close)


def _failure(suite: CaseSuite, reading: Sequence[Any], results: Sequence[dict[str, str]]) -> tuple[int, str]:
    """The number of the first test that failed, and how; no words if none did."""
    same = _comparison(suite)
    for number, expected in enumerate(reading, 1):
        if number > len(results):
            return number, f"test {number} was not run"
        result = results[number - 1]
        if result["status"] != "ok":
            return number, f"test {number}: {result['status']} {result['detail']}".rstrip()[: 2 * SHOWN]
        if not same(result["output"], expected):
            wanted = expected if isinstance(expected, str) else json.dumps(expected)
            return number, f"test {number}: expected {wanted[:SHOWN]!r}, got {result['output'][:SHOWN]!r}"
    return len(reading), ""
