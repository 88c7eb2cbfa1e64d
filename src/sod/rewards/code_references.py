"""Whether the tests of programming tasks can be relied on, before any answer is judged by them.

Tests in Python are run once by themselves (`code_harness_tests`): what then fails, imports what is not there or names
what is defined nowhere is the tests' own failure. Where a task has a reference solution, it must pass. Both happen in
the code verifier's own sandbox and without any model's code, so a model has no say in what is the task's fault.

References are looked up where tests are, under the names of `REFERENCES`. Of a list (APPS, TACO) or of CodeContests'
columns the first few programs in Python 3 are tried until one passes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sod.records import Execution, Fault, FaultKind, Program, SodError, Task, Verdict
from sod.rewards.code import OVERHEAD_SECONDS, CodeVerifier, harness, python_job
from sod.rewards.code_blocks import is_program, last_block
from sod.rewards.code_python_tests import CheckSuite
from sod.rewards.code_suites import Suite, pickled_columns, read_suite, suite_fields

SURE = ("canonical_solution", "reference_solution")  # never the start of a program, nor prose
REFERENCES = (*SURE, "solution", "solutions", "code", "completion", "gold_standard_solution")
TRIED = 3  # references of a task
CHUNK = 64  # tasks whose tests run at a time
PYTHON_3 = (3, "PYTHON3")  # in CodeContests' `language`

Progress = Callable[[int, float], None]
"""Called with the number of tasks done and the seconds that they took."""


def task_faults(verifier: CodeVerifier, tasks: Sequence[Task], progress: Progress) -> dict[str, str]:
    """Why each task whose tests cannot be relied on is at fault, by its id; the others are not in it.

    Raises SodError where the sandbox fails.
    """
    found: dict[str, str] = {}
    started = time.monotonic()
    packed = {task.id for task in tasks if pickled_columns(task)}
    for start in range(0, len(tasks), CHUNK):
        found |= _pickle_faults(verifier, [task for task in tasks[start : start + CHUNK] if task.id in packed])
        chunk = [task for task in tasks[start : start + CHUNK] if task.id not in packed]
        suites = [read_suite(task) for task in chunk]
        probes = _probed(verifier, suites)
        failures = _reference_failures(verifier, chunk, suites)
        for task, (status, detail), failure in zip(chunk, probes, failures, strict=True):
            reason = _reason(status, detail, failure)
            if reason:
                found[task.id] = reason
        progress(min(start + CHUNK, len(tasks)), time.monotonic() - started)
    return found


def _pickle_faults(verifier: CodeVerifier, tasks: Sequence[Task]) -> dict[str, str]:
    """What is wrong with test cases that are pickles; they have no reference solutions, and are not brought out."""
    found: dict[str, str] = {}
    for task in tasks:
        problem = verifier.unpacking.problem(task)
        if isinstance(problem, Fault):
            raise _sandbox_failed(problem)
        if problem:
            found[task.id] = problem
    return found


def _reason(status: str, detail: str, failure: str | None) -> str:
    """Why a task is at fault; empty where it is not. `failure` is what its reference failed at: None without one.

    A reference that passes proves that what is missing is not needed, but not that the tests test anything.
    """
    if failure is None or status == "empty":
        return detail
    return detail or failure if failure else ""


# --- the tests by themselves ----------------------------------------------------------------------


def _probed(verifier: CodeVerifier, suites: Sequence[Suite]) -> list[tuple[str, str]]:
    """`ok`, `broken` or `empty` and why, for each suite: tests with inputs and outputs have nothing to run."""
    checks = {at: suite for at, suite in enumerate(suites) if isinstance(suite, CheckSuite)}
    jobs = [python_job(suite) for suite in checks.values()]
    limit = verifier.seconds + OVERHEAD_SECONDS
    programs = [Program(harness("tests"), json.dumps(job), seconds=limit, memory_mb=verifier.memory_mb) for job in jobs]
    outcomes = [("ok", "")] * len(suites)
    for at, execution in zip(checks, verifier.execute(programs) if programs else [], strict=True):
        outcomes[at] = _probe_report(execution)
    return outcomes


def _probe_report(execution: Execution | Fault) -> tuple[str, str]:
    if isinstance(execution, Fault):
        raise _sandbox_failed(execution)
    try:
        report = json.loads(execution.stdout.rstrip().rpartition("\n")[2])
        return str(report["status"]), str(report["detail"])
    except (ValueError, KeyError, TypeError):
        last = execution.stderr.rstrip().rpartition("\n")[2]
        return "broken", f"the tests did not come to their end: {last or execution.status}"


def _sandbox_failed(fault: Fault) -> SodError:
    return SodError(f"code: the sandbox failed while tests were checked: {fault.kind}: {fault.detail}")


# --- reference solutions --------------------------------------------------------------------------


def _reference_failures(verifier: CodeVerifier, tasks: Sequence[Task], suites: Sequence[Suite]) -> list[str | None]:
    """What the first reference of each task failed at; empty where one passes, None where there is none."""
    programs = [reference_programs(task, suite) for task, suite in zip(tasks, suites, strict=True)]
    failures: list[str | None] = [None] * len(tasks)
    for attempt in range(TRIED):
        # The first one once more where there is no other: a busy machine may have kept it from passing.
        left = {at: own[attempt if attempt < len(own) else 0] for at, own in enumerate(programs) if own}
        left = {at: code for at, code in left.items() if failures[at] != "" and attempt <= len(programs[at])}
        verdicts = verifier.judged([(suites[at], code) for at, code in left.items()])
        for at, verdict in zip(left, verdicts, strict=True):
            failure = _failure(verdict)
            failures[at] = failure if failures[at] is None or not failure else failures[at]
    return failures


def _failure(verdict: Verdict | Fault) -> str:
    """What a reference failed at; empty where it passes. Raises SodError for a fault of the sandbox."""
    if isinstance(verdict, Fault):
        if verdict.kind is not FaultKind.VERIFIER:
            raise _sandbox_failed(verdict)
        return f"its reference solution cannot be judged: {verdict.detail.removeprefix('code: ')}"
    return "" if verdict.correct else f"its reference solution fails: {verdict.detail}"


def reference_programs(task: Task, suite: Suite) -> list[str]:
    """The reference solutions of a task, TRIED at most: those under the first name that holds any."""
    fields = suite_fields(task)
    for name in REFERENCES:
        texts = [last_block(text) or text for text in _texts(fields.get(name))]
        usable = [text for text in texts if name in SURE or _may_solve(text, suite)]
        if usable:
            return usable[:TRIED]
    return []


def _texts(value: Any) -> list[str]:
    """The programs of a column: one, a list, a list in JSON, or CodeContests' two lists."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [str(value)]
    if isinstance(value, Mapping):
        programs, languages = value.get("solution") or [], value.get("language") or []
        value = [code for code, language in zip(programs, languages, strict=False) if language in PYTHON_3]
    found = [value] if isinstance(value, str) else value
    return [text for text in found if isinstance(text, str) and text.strip()] if isinstance(found, list) else []


def _may_solve(text: str, suite: Suite) -> bool:
    """Whether it can be a program for the task: columns of these names hold prose and other languages too."""
    name = suite.entry_point if isinstance(suite, CheckSuite) else suite.fn_name
    if name is not None:
        about = all(part in text for part in re.findall(r"\w+", name))
    else:
        about = "print" in text or "write" in text
    return about and is_program(text)
