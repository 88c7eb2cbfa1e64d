"""Runs inside the sandbox: the tests of a task in Python, in whichever form they are written.

The text of this file has two uses. The judge of `code_harness_check` runs it as a module, before the candidate's
interpreter starts, and has `prepared` make the tests ready. As a program of its own it runs the tests without any
candidate, on a function that only raises: what fails before that is called is the tests' own failure. stdin brings the
job as JSON (`prompt`, `entry_point`, `names`, `classes`, `errors`, `test`, and `pytest`, the text of
`code_harness_pytest`), the last line of stdout says `ok`, `broken` or `empty`, and why.

Forms, the first that the tests define: `check(candidate)`; subclasses of `unittest.TestCase`; what pytest runs; else
the module itself, whose assertions call the function as it runs. Functions `test...` that take nothing are run without
pytest, unless the tests import it. The function is found under its name, as the argument of `check`, and, as all that
tests import from there, in the module `solution`.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

MODULE = "tests"
WORDS = 300  # characters of a message kept
NO_TESTS = "the tests define no check(candidate), no unittest.TestCase and no function test_..., and call nothing"


class Subject(Protocol):
    """The program under test: `begun` says whether any of it has been called, `testing` is the test under way.

    `classes` are the prompt's, `errors` what stands for exceptions of the program's own, as the tests have them.
    """

    begun: bool
    testing: str
    classes: dict[str, type]
    errors: dict[str, type[Exception]]

    def named(self, name: str) -> Any:
        """What the program defines under a name."""
        ...


class NoTestsError(Exception):
    """There is nothing to run."""

    def __str__(self) -> str:
        return NO_TESTS


def prepared(job: dict[str, Any], subject: Subject) -> Callable[[], object]:
    """What runs the tests on the subject. Raises whatever keeps them from that, assertions outside functions too."""
    function = subject.named(job["entry_point"])
    module = prepared_module(job, subject, function)
    names = module.__dict__
    before = dict(names)
    exec(compile(job["test"], "<test>", "exec"), names)
    own = {name: value for name, value in names.items() if before.get(name) is not value}
    if callable(own.get("check")):
        return no_more if calls_check(job["test"]) else partial(own["check"], function)
    cases = [value for value in own.values() if is_case(value) and value.__module__ == MODULE]
    if cases:
        return partial(run_cases, cases, subject)
    tests = {name: value for name, value in own.items() if name.lower().startswith("test") and is_own(value)}
    if tests and ("pytest" in imported(job["test"]) or not all(map(takes_nothing, tests.values()))):
        runner = types.ModuleType("harness_pytest")
        exec(compile(job["pytest"], "<pytest>", "exec"), runner.__dict__)
        return partial(runner.run_module, module, subject)
    if tests:
        return partial(run_each, tests, subject)
    if not subject.begun:
        raise NoTestsError
    return no_more


def no_more() -> None:
    """What is left of tests that run as their module does."""


def calls_check(source: str) -> bool:
    """Whether the module itself calls `check`."""
    calls = [node.value for node in ast.parse(source).body if isinstance(node, ast.Expr)]
    functions = [call.func for call in calls if isinstance(call, ast.Call)]
    return any(isinstance(function, ast.Name) and function.id == "check" for function in functions)


def prepared_module(job: dict[str, Any], subject: Subject, function: Any) -> types.ModuleType:
    """A module with the names that the tests find: the prompt's, then the function. What they import is imported."""
    compile(job["test"], "<test>", "exec")  # what is no Python is not run in part
    module = types.ModuleType(MODULE)
    solution = types.ModuleType("solution")
    sys.modules[MODULE], sys.modules["solution"] = module, solution
    names = module.__dict__
    helpers = completed(job["prompt"])
    if helpers is not None:  # the tests may use them
        import_all(helpers)
        exec(compile(helpers, "<prompt>", "exec"), names)
    subject.classes = {name: names[name] for name in job["classes"] if isinstance(names.get(name), type)}
    subject.errors = {name: type(name, (Exception,), {}) for name in job["errors"]}
    for name in job["names"]:
        setattr(solution, name, subject.errors.get(name) or subject.named(name))
    if job["entry_point"].isidentifier():
        names[job["entry_point"]] = function
        setattr(solution, job["entry_point"], function)
    import_all(job["test"])
    return module


def completed(prompt: str) -> str | None:
    """The prompt as a program: with a body where it ends in a function without one; None where it is none."""
    for source in (prompt, f"{prompt.rstrip()}\n    pass\n"):
        try:
            compile(source, "<prompt>", "exec")
        except SyntaxError:
            continue
        return source
    return None


def import_all(source: str) -> list[str]:
    """Import whatever the source imports anywhere: its functions may import when the candidate runs already.

    What cannot be imported, in words, but for what the source itself tries.
    """
    tree = ast.parse(source)
    tried: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            tried.update(ast.walk(node))
    failed = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(compile(ast.Module([node], []), "<imports>", "exec"), {})
            except Exception as error:  # if it is ever needed, the tests themselves say so
                failed += [] if node in tried else [f"{type(error).__name__}: {error}"]
    return failed


def is_case(value: Any) -> bool:
    """Whether it is a `unittest.TestCase` of the tests' own."""
    unittest = sys.modules.get("unittest")  # who defines one has imported it
    return isinstance(value, type) and bool(unittest) and issubclass(value, unittest.TestCase)  # type: ignore[union-attr]


def is_own(value: Any) -> bool:
    """Whether it is a function or class that the tests define."""
    return isinstance(value, type | types.FunctionType) and value.__module__ == MODULE


def takes_nothing(value: Any) -> bool:
    """Whether it is a function that can be called without arguments."""
    if not isinstance(value, types.FunctionType):
        return False
    required = value.__code__.co_argcount - len(value.__defaults__ or ())
    return not required and not value.__code__.co_kwonlyargcount


def imported(source: str) -> set[str]:
    """The modules of the top level that the source imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def run_each(tests: dict[str, Callable[[], object]], subject: Subject) -> None:
    """Call every function; a failure is raised."""
    for name, test in tests.items():
        subject.testing = name
        test()


def run_cases(cases: list[Any], subject: Subject) -> None:
    """Run classes of `unittest.TestCase`; the first failure is raised."""
    import unittest  # others are judged without

    failures: list[BaseException] = []

    class FirstFailure(unittest.TestResult):
        def startTest(self, test: Any) -> None:  # noqa: N802  # unittest's names
            super().startTest(test)
            subject.testing = test.id().rpartition(".")[2]

        def addError(self, test: Any, err: Any) -> None:  # noqa: N802
            failures.append(err[1])
            self.stop()

        addFailure = addError

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
            if err is not None:
                self.addError(test, err)

        def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
            self.addError(test, (None, AssertionError(f"{test} was to fail"), None))

    result = FirstFailure()
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    unittest.TestSuite(load(case) for case in cases).run(result)
    if failures:
        raise failures[0]
    if result.testsRun <= len(result.skipped):
        raise AssertionError("no test of the TestCase ran")


# --- the tests by themselves ----------------------------------------------------------------------


class NothingYet:
    """A program that is not there yet: all that is asked of it raises."""

    def __init__(self) -> None:
        self.begun = False
        self.testing = ""
        self.classes: dict[str, type] = {}
        self.errors: dict[str, type[Exception]] = {}

    def named(self, name: str) -> Any:
        return Raises(self)


class Raises:
    """Whatever such a program defines."""

    def __init__(self, subject: NothingYet) -> None:
        self._subject = subject

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._subject.begun = True
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python and test runners look for
            raise AttributeError(name)
        self._subject.begun = True
        raise NotImplementedError


def probe(job: dict[str, Any]) -> tuple[str, str]:
    """`ok`, `broken` or `empty`, and why."""
    subject = NothingYet()
    passed = False
    try:
        prepared(job, subject)()
        passed = True
    except BaseException as error:
        if not subject.begun:
            return "broken", f"{type(error).__name__}: {error}".strip(": ")
    broken = [*import_all(job["test"]), *undefined(compile(job["test"], "<test>", "exec"))]
    if broken:
        return "broken", broken[0]
    return ("empty", "the tests pass a function that only raises") if passed else ("ok", "")


def undefined(code: types.CodeType) -> list[str]:
    """The global names that functions of the tests use and nothing defines, in words."""
    found = list(instructions(code))
    known = set(sys.modules[MODULE].__dict__) | set(dir(builtins))
    known |= {name for operation, name in found if operation.startswith("STORE_")}
    used = dict.fromkeys(name for operation, name in found if operation == "LOAD_GLOBAL")
    return [f"NameError: name '{name}' is not defined" for name in used if name not in known]


def instructions(code: types.CodeType) -> Iterator[tuple[str, Any]]:
    """The name and argument of every instruction, in functions too."""
    import dis  # the judge starts without

    for instruction in dis.get_instructions(code):
        yield instruction.opname, instruction.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from instructions(inner)


def main() -> None:
    """Raises nothing that the tests do."""
    job = json.loads(sys.stdin.buffer.read())
    report_end = os.dup(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # tests may print
    os.chdir("/")
    status, detail = probe(job)
    os.write(report_end, f"\n{json.dumps({'status': status, 'detail': detail[:WORDS]})}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    main()
