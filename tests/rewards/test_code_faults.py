"""What is the candidate's doing, what is the task's or ours, and what the two harnesses tell a candidate."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.records import Execution, Fault, FaultKind, Program, Verdict
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox import filters
from sod.tools.sandbox.local import LocalSandbox
from support import CONTAINER_PROFILE, answered

HERE = Path(__file__).parent
MISSING = filters.layers()["missing"]
PASSES = "def check(candidate):\n    assert candidate(1) == 2"
TWICE = "```python\ndef twice(x): return 2 * x\n```"


def checked(test: str, prompt: str = "") -> dict[str, object]:
    """A task in HumanEval's schema."""
    return {"prompt": prompt, "entry_point": "twice", "test": test}


CASES: dict[str, object] = {"inputs": [[1]], "outputs": [2], "fn_name": "twice"}


@pytest.mark.parametrize(
    ("test", "prompt", "reason"),
    [
        ("def check(candidate) assert", "", "SyntaxError"),
        ("import no_such_module\n" + PASSES, "", "No module named 'no_such_module'"),
        (PASSES, "from no_such_module import name\n", "No module named 'no_such_module'"),
        ("1 / 0\n" + PASSES, "", "1 / 0: ZeroDivisionError"),
        ("def checks(candidate): pass", "", "the tests define no check(candidate)"),
        ("def check(candidate):\n    candidate(print)", "", "the tests pass builtin_function_or_method"),
    ],
)
def test_tests_that_cannot_run_are_the_tasks_fault(sandbox: LocalSandbox, test: str, prompt: str, reason: str) -> None:
    (fault,) = CodeVerifier(sandbox.execute).verify([answered(TWICE, "", checked(test, prompt))])
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.retryable) == (FaultKind.VERIFIER, False)
    assert reason in fault.detail


def changing(sandbox: LocalSandbox, change: Callable[[Program, dict[str, Any]], Program]) -> CodeVerifier:
    """A verifier whose programs are changed, given their job too, before they run."""

    def execute(programs: Sequence[Program]) -> list[Execution | Fault]:
        return sandbox.execute([change(program, json.loads(program.stdin)) for program in programs])

    return CodeVerifier(execute)


def test_an_interpreter_that_does_not_start_is_a_fault(sandbox: LocalSandbox) -> None:
    def broken(program: Program, job: dict[str, Any]) -> Program:
        return replace(program, stdin=json.dumps({**job, "answer": "raise SystemExit"}))

    (fault,) = changing(sandbox, broken).verify([answered(TWICE, "", checked(PASSES))])
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.retryable) == (FaultKind.VERIFIER, True)
    assert "the candidate's interpreter did not start: the candidate ended itself" in fault.detail


@pytest.mark.parametrize("extra", [CASES, checked(PASSES)], ids=["cases", "check"])
@pytest.mark.parametrize(
    "end", ["sys.exit(97)", "sys.exit(1)", "os.kill(os.getpid(), 9)", "print('x' * 9999)", "x = '1' * 2**40"]
)
def test_whatever_ends_the_judge_after_the_beginning_is_wrong_and_before_it_a_fault(
    sandbox: LocalSandbox, extra: dict[str, object], end: str
) -> None:
    def ending(program: Program, job: dict[str, Any]) -> Program:
        begun = f"print({job['nonce']!r}, flush=True)\n" if before == "" else ""
        return replace(program, source=f"import os, signal, sys\n{begun}{end}\n")

    verifier = changing(sandbox, ending)
    before = ""
    (verdict,) = verifier.verify([answered(TWICE, "", extra)])
    assert isinstance(verdict, Verdict)
    assert not verdict.correct
    assert verdict.detail.startswith("no report")
    before = "before"
    (fault,) = verifier.verify([answered(TWICE, "", extra)])
    assert isinstance(fault, Fault)
    assert fault.detail.startswith("code: the harness did not begin")


def test_nothing_that_is_sent_depends_on_the_expected_outputs(sandbox: LocalSandbox) -> None:
    """Nor on their lengths, which tell YES from NO."""
    sent: list[dict[str, Any]] = []

    def listening(program: Program, job: dict[str, Any]) -> Program:
        sent.append({**job, "nonce": ""})
        return program

    verifier = changing(sandbox, listening)
    for outputs in (["YES", "NO"], ["NO", "YES"], ["NO" * 1000, "123"]):
        verifier.verify([answered("```python\nprint('NO')\n```", "", {"inputs": ["1", "2"], "outputs": outputs})])
    assert sent[0] == sent[1] == sent[2]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("ValueError('no')", "ValueError"),
        ("__import__('json').JSONDecodeError('no', '', 0)", "ValueError"),
        ("UnicodeDecodeError('utf-8', b'', 0, 1, 'no')", "ValueError"),
        ("type('Mine', (KeyError,), {})('no')", "LookupError"),
        ("type('Mine', (Exception,), {})('no')", "Exception"),
        ("AssertionError('no')", "AssertionError"),
        ("StopIteration('no')", "RuntimeError"),
    ],
)
def test_tests_may_expect_an_exception(sandbox: LocalSandbox, raised: str, expected: str) -> None:
    test = (
        "def check(candidate):\n    for n in (1, 2):\n        try:\n            candidate(n)\n"
        f"        except {expected} as error:\n            assert 'no' in str(error)\n"
        "        else:\n            raise SystemError\n"
    )
    answers = [
        f"```python\ndef twice(x):\n    {body}\n```" for body in (f"raise {raised}", "return x", "raise OSError")
    ]
    verdicts = CodeVerifier(sandbox.execute).verify([answered(answer, "", checked(test)) for answer in answers])
    correct = [isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts]
    assert correct == [True, False, False], verdicts


def test_candidates_work_in_directories_of_their_own(sandbox: LocalSandbox) -> None:
    """Each test of inputs and outputs in a fresh one; what a candidate wrote there it may import."""
    use = "open('mine.py', 'x').write('two = 2')\n    import mine\n    return mine.two * x"
    cases: dict[str, object] = {"inputs": [[1], [5]], "outputs": [2, 10], "fn_name": "twice"}
    verifier = CodeVerifier(sandbox.execute)
    for extra in (cases, checked(PASSES)):
        (verdict,) = verifier.verify([answered(f"```python\ndef twice(x):\n    {use}\n```", "", extra)])
        assert isinstance(verdict, Verdict)
        assert verdict.correct, verdict.detail


REDUCED = (
    CONTAINER_PROFILE.format(tools=str(Path(filters.__file__).parents[1]))
    + f"""
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
import test_code_cheating as cheating
from sod.records import Verdict
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
sandbox = LocalSandbox(ProgramLimits(memory_mb=256))
verifier = CodeVerifier(sandbox.execute, seconds=1.0)
print(sandbox.level)
for kind, extra in cheating.SUITES.items():
    codes = [f"{{cheat.code}}\\n{{cheating.WRONG[kind]}}" for cheat in cheating.CHEATS.values()]
    codes += cheating.CALLS.values() if kind != "program" else []
    wrong = [not verdict.correct for verdict in cheating.judged(verifier, *((code, extra) for code in codes))]
    (right,) = cheating.judged(CodeVerifier(sandbox.execute), (cheating.RIGHT[kind], extra))
    print(kind, len(wrong) > 40, all(wrong), right.correct, right.detail)
sandbox.close()
"""
)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not to be had: {MISSING}")
def test_cheats_are_wrong_without_namespaces() -> None:
    done = subprocess.run([sys.executable, "-c", REDUCED], capture_output=True, text=True, timeout=600)
    kinds = ("check", "function", "program")
    assert done.stdout.split("\n")[:-1] == ["reduced", *(f"{kind} True True True " for kind in kinds)], done.stderr
