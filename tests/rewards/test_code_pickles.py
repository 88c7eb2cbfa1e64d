"""LiveCodeBench's private tests are pickles: the sandbox alone unpacks them, and what one would run runs nowhere."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.records import Execution, Fault, FaultKind, Program, SodError, Task, Verdict
from sod.rewards import code_unpacking
from sod.rewards.code import CodeVerifier
from sod.rewards.code_references import task_faults
from sod.rewards.code_suites import check_readable, pickled_columns, read_suite
from sod.tools.sandbox.local import LocalSandbox
from support import answered

CASES = [{"input": f"{n}", "output": f"{2 * n}", "testtype": "stdin"} for n in range(40)]
RIGHT, WRONG = "print(2 * int(input()))", "print(min(2 * int(input()), 76))"


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def task_with(text: str, **more: Any) -> Task:
    return Task("t", (), json.dumps({"private_test_cases": text, **more}))


class Bomb:
    """Makes a file wherever it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT)


def judged(verifier: CodeVerifier, task: Task, *codes: str) -> list[bool]:
    said = [answered(f"```python\n{code}\n```", task.ground_truth, task.extra) for code in codes]
    verdicts = verifier.verify(said)
    assert all(isinstance(verdict, Verdict) for verdict in verdicts), verdicts
    return [verdict.correct for verdict in verdicts if isinstance(verdict, Verdict)]


def test_pickles_are_told_from_other_columns() -> None:
    assert list(pickled_columns(task_with(packed(json.dumps(CASES))))) == ["private_test_cases"]
    plain = base64.b64encode(zlib.compress(json.dumps(CASES).encode())).decode()
    for text in (plain, json.dumps(CASES), "not packed", ""):
        assert pickled_columns(task_with(text)) == {}


def test_private_tests_count(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_unpacking, "PART", 100)  # bytes: what comes out in several parts is put together
    text = packed(json.dumps(CASES))
    public = json.dumps(CASES[:1])
    verifier = CodeVerifier(sandbox.execute, seconds=20.0)
    assert judged(verifier, task_with(text, public_test_cases=public), RIGHT, WRONG, "print(0)") == [True, False, False]
    assert judged(verifier, task_with(packed(CASES)), RIGHT, WRONG) == [True, False]  # rows without JSON in between


def test_a_pickle_is_unpacked_once_for_the_answers_of_a_task(sandbox: LocalSandbox) -> None:
    programs: list[Program] = []

    def execute(given: Sequence[Program]) -> list[Execution | Fault]:
        programs.extend(given)
        return sandbox.execute(given)

    verifier = CodeVerifier(execute, seconds=20.0)
    task = task_with(packed(json.dumps(CASES[:2])))
    assert judged(verifier, task, RIGHT, RIGHT) == [True, True]
    assert judged(verifier, task, RIGHT) == [True]
    assert len(programs) == 4


def test_what_a_pickle_would_run_never_runs_here_nor_there(sandbox: LocalSandbox, tmp_path: Path) -> None:
    """The sandbox's own file system would hide the file from this process: that it refuses is in the reason."""
    mark = tmp_path / "ran"
    task = task_with(packed([{"input": Bomb(str(mark)), "output": "1"}]))
    check_readable(task)
    with pytest.raises(SodError, match="private_test_cases is a pickle, which only the sandbox unpacks"):
        read_suite(task)
    verifier = CodeVerifier(sandbox.execute, seconds=20.0)
    faults = task_faults(verifier, [task], lambda *_: None)
    assert "it asks for posix.open" in faults["t"]
    with pytest.raises(SodError, match=r"cannot be unpacked: UnpicklingError: it asks for posix\.open"):
        judged(verifier, task, RIGHT)
    assert not mark.exists()
    pickle.loads(zlib.decompress(base64.b64decode(json.loads(task.ground_truth)["private_test_cases"])))
    assert mark.exists()  # the test's own proof that it could have


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{}", "it holds no list of test cases"),
        ('[{"input": "1"}]', "it holds no list of test cases with input and output"),
        ("[", "JSONDecodeError"),
    ],
)
def test_pickles_of_something_else_are_the_tasks_fault(sandbox: LocalSandbox, value: str, reason: str) -> None:
    verifier = CodeVerifier(sandbox.execute, seconds=20.0)
    good = Task("good", (), json.dumps({"private_test_cases": packed(json.dumps(CASES))}))
    faults = task_faults(verifier, [good, task_with(packed(value))], lambda *_: None)
    assert list(faults) == ["t"]
    assert reason in faults["t"]


def test_public_tests_are_read_before_the_sandbox_is_there() -> None:
    check_readable(task_with(packed(json.dumps(CASES)), public_test_cases=json.dumps(CASES)))
    with pytest.raises(SodError, match="a test case without output"):
        check_readable(task_with(packed(json.dumps(CASES)), public_test_cases='[{"input": "1"}]'))


def test_a_sandbox_that_fails_is_a_fault() -> None:
    def failing(programs: Sequence[Program]) -> list[Execution | Fault]:
        return [Fault(FaultKind.SANDBOX, "worker lost") for _ in programs]

    task = task_with(packed(json.dumps(CASES)))
    (outcome,) = CodeVerifier(failing).verify([answered(f"```python\n{RIGHT}\n```", task.ground_truth)])
    assert outcome == Fault(FaultKind.SANDBOX, "worker lost")
    with pytest.raises(SodError, match="the sandbox failed while tests were checked"):
        task_faults(CodeVerifier(failing), [task], lambda *_: None)
