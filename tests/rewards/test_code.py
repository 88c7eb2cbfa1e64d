"""Programs against their tests: schemas, comparison of outputs, and candidates that try to cheat."""

from __future__ import annotations

import base64
import json
import pickle
import textwrap
import time
import zlib
from collections.abc import Sequence

import pytest

from sod.records import Execution, Fault, FaultKind, Program, SodError, Verdict
from sod.rewards.code import CodeVerifier
from sod.rewards.code_cases import Case, CaseSuite, same_output, same_value
from sod.rewards.code_suites import CheckSuite, read_suite
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import answered

SUMS = {"input_output": json.dumps({"inputs": ["1 2\n", "30 4\n", "-5 5\n"], "outputs": ["3\n", "34\n", "0\n"]})}
ADD = "a, b = map(int, input().split())\nprint(a + b)"
MARK = "the-tests-hold-this-mark"
CHECKED = {
    "prompt": 'import math\n\ndef half(n):\n    return n / 2\n\ndef area(r):\n    """The area of a circle."""\n',
    "entry_point": "area",
    "test": f"MARK = '{MARK}'\ndef check(candidate):\n    for r in (0, 1, 2.5):\n"
    "        assert abs(candidate(r) - math.pi * r * r) < 1e-9\n    assert half(candidate(0)) == 0\n",
}


@pytest.fixture(scope="module")
def verifier(sandbox: LocalSandbox) -> CodeVerifier:
    return CodeVerifier(sandbox.execute, seconds=10.0)


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{textwrap.dedent(code)}\n```\n"


def verdict_of(verifier: CodeVerifier, code: str, extra: dict[str, object]) -> Verdict:
    (verdict,) = verifier.verify([answered(fenced(code), "", extra)])
    assert isinstance(verdict, Verdict), verdict
    return verdict


# --- schemas --------------------------------------------------------------------------------------


def rows(count: int, kind: str = "stdin") -> list[dict[str, str]]:
    return [{"input": f"{n}", "output": f"{n + 1}", "testtype": kind} for n in range(count)]


def test_every_schema_of_livecodebench_is_read() -> None:
    packed = base64.b64encode(zlib.compress(json.dumps(rows(3)).encode())).decode()
    public = json.dumps(rows(2))
    function = {"public_test_cases": json.dumps(rows(1, "functional")), "metadata": json.dumps({"func_name": "inc"})}
    assert len(read_suite(answered("", "", {"public_test_cases": public}).task).cases) == 2  # type: ignore[union-attr]
    both = {"public_test_cases": public, "private_test_cases": packed, "metadata": "{}"}
    assert len(read_suite(answered("", "", both).task).cases) == 5  # type: ignore[union-attr]
    assert read_suite(answered("", "", function).task) == CaseSuite((Case([0], 1),), "inc")
    assert read_suite(answered("", json.dumps(SUMS), {}).task) == read_suite(
        answered("", SUMS["input_output"], {}).task
    )
    sample = {"inputs": ["1\n[2, 3]"], "outputs": ["[5]"], "fn_name": "f"}
    assert read_suite(answered("", json.dumps(sample)).task) == CaseSuite((Case([1, [2, 3]], [5]),), "f")
    parsed = {"inputs": [[1, [2, 3]]], "outputs": [[5]], "fn_name": "f"}
    assert read_suite(answered("", "", parsed).task) == CaseSuite((Case([1, [2, 3]], [5]),), "f", ((5,),))


def test_humaneval_is_read() -> None:
    assert read_suite(answered("", "", CHECKED).task) == CheckSuite(**CHECKED)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({}, "no tests"),
        ({"input_output": "{"}, "input_output is not JSON"),
        ({"inputs": ["1"], "outputs": []}, "equal length"),
        ({"public_test_cases": "[{}]"}, "without input"),
        ({"public_test_cases": []}, "no tests"),
        ({"private_test_cases": "not packed"}, "neither JSON nor zlib"),
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(_Bomb()))).decode()}, "is a pickle"),
        ({"inputs": ["1\n{"], "outputs": ["1"], "fn_name": "f"}, "input is not JSON"),
        ({"inputs": "1", "outputs": "[1"}, "outputs is not JSON"),
        ({"test": "def check("}, "no entry_point, and the tests are not Python"),
        ({"test": "assert 1 == 1"}, "no entry_point, and the tests name no function"),
    ],
)
def test_unreadable_tests_stop_with_a_reason(extra: dict[str, object], reason: str) -> None:
    with pytest.raises(SodError, match=reason):
        read_suite(answered("", "", extra).task)


# --- comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        ("  3  \n\n", "3\n", True),
        ("1 2\n3", "1 2 \n 3", True),
        ("1.0 2", "1 2.00", True),
        ("0.1", "0.10", True),
        ("1e2", "100", True),
        ("0.1", "0.1000001", False),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("1\n2", "1 2", False),
        ("", "0", False),
        ("Yes", "YES", False),
        ("nan", "nan", True),
        ("nan 1", "nan  1", False),
        ("sNaN 1", "1 1", False),
        ("1e999999999 ", "1e99999999", False),
        ("\u0663", "3", False),
        ("1 \uff12", "1 2", False),
    ],
)
def test_outputs_are_compared_line_by_line_then_number_by_number(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same
    assert same_output(expected, output) is same


def test_values_are_compared_as_json() -> None:
    assert same_value("[1, 2.0]", [1, 2])
    assert not same_value("[2, 1]", [1, 2])
    assert same_value('[true, 1, {"a": [false]}]', [True, 1.0, {"a": [False]}])
    assert same_value('{"a": [true, 1.0, null]}', {"a": [True, 1, None]})
    for output, expected in (("1", True), ("false", 0), ("[1]", [True]), ('{"a": [0]}', {"a": [False]}), ("0", None)):
        assert not same_value(output, expected)
    assert not same_value("[" * 100_000, [1])
    assert not same_value("", 0)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("true", 1),
        ("1", True),
        ("false", 0),
        ("0.0", False),
        ("[true]", [1]),
        ("[[1, 2], [1]]", [[1, 2], [True]]),
        ('{"a": {"b": [0]}}', {"a": {"b": [False]}}),
        ('{"a": true, "b": 1}', {"a": 1, "b": 1}),
    ],
)
def test_true_is_not_one(output: str, expected: object) -> None:
    assert not same_value(output, expected)


# --- honest candidates ----------------------------------------------------------------------------


def test_a_right_program_passes_and_a_wrong_one_names_its_first_failure(verifier: CodeVerifier) -> None:
    assert verdict_of(verifier, ADD, SUMS).correct
    wrong = verdict_of(verifier, ADD.replace("a + b", "a + abs(b) if a > 0 else 1"), SUMS)
    assert (wrong.correct, wrong.detail) == (False, "test 3: expected '0\\n', got '1\\n'")


@pytest.mark.parametrize(
    "code",
    [
        f"def main():\n    {ADD}\n".replace("\nprint", "\n    print") + "if __name__ == '__main__':\n    main()",
        "import sys\na, b = map(int, sys.stdin.read().split())\nsys.stdout.write(str(a + b))\nsys.exit(0)",
        "import sys\na, b = map(int, sys.stdin.buffer.readline().split())\nprint(float(a + b))\nexit(1)",
        "from threading import Thread\ndef main():\n    print(sum(map(int, open(0).read().split())))\n"
        "Thread(target=main).start()",
        "print(reduce(lambda a, b: a + b, map(int, input().split())))  # from functools, as LiveCodeBench imports it",
    ],
)
def test_every_usual_way_to_read_and_write_works(verifier: CodeVerifier, code: str) -> None:
    assert verdict_of(verifier, code, SUMS) == Verdict(fenced(code).split("```python\n")[1].split("```")[0], True)


def test_functions_and_methods_are_called(verifier: CodeVerifier) -> None:
    extra: dict[str, object] = {"inputs": ["[3, 1, 2]\n2"], "outputs": ["[[1, 2], [3]]"], "fn_name": "chunks"}
    body = "xs = sorted(xs); return [tuple(xs[i:i + n]) for i in range(0, len(xs), n)]"
    assert verdict_of(verifier, f"def chunks(xs: List[int], n):\n    print('noise'); {body}", extra).correct
    assert verdict_of(verifier, f"class Solution:\n    def chunks(self, xs, n):\n        {body}", extra).correct
    assert verdict_of(verifier, "def chunks(xs, n): return {1}", extra).detail.startswith("test 1: error TypeError")
    assert "has no attribute 'chunks'" in verdict_of(verifier, "def other(): pass", extra).detail


def test_check_accepts_whole_functions_and_continued_prompts(verifier: CodeVerifier) -> None:
    assert verdict_of(verifier, "def area(r):\n    return math.pi * r ** 2", CHECKED).correct
    assert verdict_of(verifier, CHECKED["prompt"] + "    return math.pi * r * r", CHECKED).correct
    (continued,) = verifier.verify([answered("```python\n    return math.pi * r * r\n```", "", CHECKED)])
    assert isinstance(continued, Verdict)
    assert continued.correct
    wrong = verdict_of(verifier, "def area(r):\n    return math.pi * r", CHECKED)
    assert not wrong.correct
    assert wrong.detail.startswith("assert abs(candidate(r) - math.pi * r * r) < 1e-9: AssertionError; the last call")


def test_all_kinds_of_plain_values_cross(verifier: CodeVerifier) -> None:
    test = """
        def check(candidate):
            numbers = [True, -1, 10 ** 5000, 0.1, float("inf"), 1j]
            for value in [None, *numbers, "\\ud800", b"\\x00", (1, [2]), {1: (2,)}, {3}, set()]:
                assert candidate(value) == value and type(candidate(value)) is type(value)
            try:
                candidate(KeyError)
            except ValueError as error:
                assert str(error) == "no"
            else:
                assert False
    """
    extra = {"prompt": "", "entry_point": "same", "test": textwrap.dedent(test)}
    (verdict,) = verifier.verify([answered(fenced("def same(x): return x"), "", extra)])
    assert isinstance(verdict, Fault)  # a class is not plain data: the task cannot be verified here
    assert (verdict.kind, verdict.retryable) == (FaultKind.VERIFIER, False)
    extra["test"] = extra["test"].replace("candidate(KeyError)", "candidate('raise')")
    code = "def same(x):\n    if x == 'raise':\n        raise ValueError('no')\n    return x"
    assert verdict_of(verifier, code, extra).correct, verdict_of(verifier, code, extra).detail


def test_no_program_is_wrong_unless_the_whole_text_may_be_one(verifier: CodeVerifier, sandbox: LocalSandbox) -> None:
    assert verifier.verify([answered(ADD, "", SUMS)]) == [Verdict(None, False, "no program in the answer")]
    (whole,) = CodeVerifier(sandbox.execute, whole_text=True).verify([answered(ADD, "", SUMS)])
    assert whole == Verdict(ADD, True)
    assert verifier.verify([]) == []


# --- candidates that fail or cheat ----------------------------------------------------------------

REPORTED = json.dumps({"results": [{"status": "ok", "output": "3", "detail": ""}] * 3})


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("print(", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os._exit(0)", "expected '3"),
        ("import sys; sys.exit(0)", "expected '3"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL); print(3)", ""),
        (f"print({REPORTED!r})", "expected '3"),
        (f"open('report.json', 'w').write({REPORTED!r})", "expected '3"),
        ("import os; os.mkdir('report.json')", ""),
        (
            f"import os\nfor fd in range(256):\n  try: os.write(fd, {REPORTED.encode()!r})\n  except OSError: pass",
            "expected",
        ),
        ("x = []\nwhile True: x.append('x' * 10**6)", "MemoryError"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import os\nfor _ in range(100): os.fork()", ""),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import sys; sys.stdout.close()", "expected '3"),
        ("\x00", ""),
        ("'\ud800'", "UnicodeEncodeError"),
    ],
)
def test_programs_that_fail_or_cheat_are_wrong(verifier: CodeVerifier, code: str, detail: str) -> None:
    cheat, honest = verifier.verify([answered(fenced(code), "", SUMS), answered(fenced(ADD), "", SUMS)])
    assert isinstance(cheat, Verdict), cheat
    assert not cheat.correct
    assert detail in cheat.detail
    assert isinstance(honest, Verdict)
    assert honest.correct


def test_a_loop_is_stopped_at_its_time_limit(sandbox: LocalSandbox) -> None:
    verifier = CodeVerifier(sandbox.execute, seconds=1.0)
    started = time.monotonic()
    assert verdict_of(verifier, "while True: pass", SUMS).detail.startswith("test 1: timeout")
    assert "stopped after 1 s" in verdict_of(verifier, "def area(r):\n    while True: pass", CHECKED).detail
    assert time.monotonic() - started < 60.0


def test_no_expected_output_enters_the_sandbox(sandbox: LocalSandbox) -> None:
    sent: list[Program] = []

    def listening(programs: Sequence[Program]) -> list[Execution | Fault]:
        sent.extend(programs)
        return sandbox.execute(programs)

    extra = {"inputs": ["q"], "outputs": ["a-secret-output"]}
    CodeVerifier(listening).verify([answered(fenced("print(1)"), "", extra)])
    assert len(sent) == 1
    assert "a-secret-output" not in repr(sent)


FORGERIES = {
    "ends early": "import os; os._exit(0)",
    "exits": "import sys; sys.exit(0)",
    "equals everything": """
        class Always(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
        def area(r): return Always(7)
    """,
    "is an object that lies": """
        class Always:
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
        def area(r): return Always()
    """,
    "breaks assertions": """
        import builtins, sys
        builtins.AssertionError = builtins.abs = lambda *a: 0
        sys.exit = lambda *a: None
        def area(r): return 1
    """,
    "replaces check": "def check(candidate): pass\ndef area(r): return 1",
    "prints a report": """
        import json
        def area(r):
            print(json.dumps({"status": "passed", "detail": "", "nonce": ""}))
            return 1
    """,
    "writes to all descriptors": """
        import os
        def area(r):
            for fd in range(256):
                try: os.write(fd, b'{"value": 0}\\n{"status": "passed", "detail": "", "nonce": ""}\\n')
                except OSError: pass
            return 1
    """,
    "kills the checker": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef area(r): return 1",
    "raises what a test might want": "def area(r): raise SystemExit(0)",
    "is no function": "area = 3",
    "is missing": "def other(r): return 1",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_candidate_cannot_forge_the_verdict_of_check(verifier: CodeVerifier, name: str) -> None:
    assert not verdict_of(verifier, FORGERIES[name], CHECKED).correct


def test_a_candidate_finds_the_tests_nowhere(verifier: CodeVerifier) -> None:
    """It looks in its own objects and frames, in files, and in the checker's memory and descriptors."""
    spy = """
        import gc, glob, os, sys
        def area(r):
            parts = ["the", "tests", "hold", "this", "mark"]
            seen = []
            frame = sys._getframe()
            while frame:
                seen.append(("frames", repr(frame.f_locals) + repr(frame.f_globals)))
                frame = frame.f_back
            for found in gc.get_objects():
                if isinstance(found, (dict, list, tuple)) and len(found) < 99:
                    seen.append(("objects", repr(found)))
            names = glob.glob("**", recursive=True) + ["/proc/self/cmdline", "/proc/self/environ"]
            for pid in {os.getppid(), *range(12)} - {int(os.readlink("/proc/self"))}:
                names += [f"/proc/{pid}/{name}" for name in ("cmdline", "environ", "fd/0", "fd/1", "fd/3", "mem")]
            for name in names:
                try:
                    file = open(name, "rb")
                except OSError:
                    continue
                seen.append((name, "opened" if name.endswith("mem") else file.read(10**6).decode("latin-1")))
            found = [where for where, text in seen if "-".join(parts) in text or text == "opened"]
            raise ValueError(f"searched {len(seen) > 100} found {found}")
    """
    assert "searched True found []" in verdict_of(verifier, spy, CHECKED).detail


# --- failures of ours -----------------------------------------------------------------------------


def test_a_fault_of_the_sandbox_passes_through() -> None:
    local = LocalSandbox(ProgramLimits(memory_mb=256), workers=1)
    local.close()
    verdicts = CodeVerifier(local.execute).verify([answered("no code", "", SUMS), answered(fenced(ADD), "", SUMS)])
    assert isinstance(verdicts[0], Verdict)
    assert isinstance(verdicts[1], Fault)
    assert verdicts[1].kind is FaultKind.SANDBOX


@pytest.mark.parametrize("extra", [SUMS, CHECKED])
def test_a_harness_that_cannot_begin_is_a_fault(sandbox: LocalSandbox, extra: dict[str, object]) -> None:
    def without_job(programs: Sequence[Program]) -> list[Execution | Fault]:
        return sandbox.execute([Program(program.source, "cut", fetch=program.fetch) for program in programs])

    (fault,) = CodeVerifier(without_job).verify([answered(fenced(ADD), "", extra)])
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.VERIFIER
    assert "the harness did not begin" in fault.detail
