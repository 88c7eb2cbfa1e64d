"""Runs inside the sandbox: the tests of a task in Python, in whichever form they are written.

The text of this file has two uses. The judge of `code_harness_check` runs it as a module, before the candidate's
interpreter starts, and has `prepared` make the tests ready. As a program of its own it runs the tests without any
candidate, on a function that only raises: what fails before that is called is the tests' own failure. stdin brings the
job as JSON (`prompt`, `entry_point`, `test`), the last line of stdout says `ok`, `broken` or `empty`, and why.

Forms, the first that the tests define: `check(candidate)`; subclasses of `unittest.TestCase`; functions `test...`
without arguments; else the module itself, whose assertions call the function as it runs. The function is found under
its name, as the argument of `check`, and in the module `solution`.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

MODULE = "tests"
WORDS = 300  # characters of a message kept
NO_TESTS = "the tests define no check(candidate), no unittest.TestCase and no function test_..., and call nothing"


class Function(Protocol):
    """What the tests test: `begun` says whether it has been called."""

    begun: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class NoTestsError(Exception):
    """There is nothing to run."""

    def __str__(self) -> str:
        return NO_TESTS


def prepared(job: dict[str, Any], function: Function) -> Callable[[], object]:
    """What runs the tests on `function`. Raises whatever keeps them from that, assertions outside functions too."""
    names = namespace(job, function)
    before = dict(names)
    exec(compile(job["test"], "<test>", "exec"), names)
    own = {name: value for name, value in names.items() if before.get(name) is not value}
    if callable(own.get("check")):
        return partial(own["check"], function)
    cases = [value for value in own.values() if is_case(value) and value.__module__ == MODULE]
    if cases:
        return partial(run_cases, cases)
    functions = [value for name, value in own.items() if name.startswith("test") and takes_nothing(value)]
    if functions:
        return partial(run_each, functions)
    if not function.begun:
        raise NoTestsError
    return lambda: None


def namespace(job: dict[str, Any], function: Function) -> dict[str, Any]:
    """The names that the tests find: those of the prompt, then the function. All that they import is imported."""
    compile(job["test"], "<test>", "exec")  # what is no Python is not run in part
    module = types.ModuleType(MODULE)
    solution = types.ModuleType("solution")
    sys.modules[MODULE], sys.modules["solution"] = module, solution
    names = module.__dict__
    with suppress(SyntaxError):  # the tests may use helpers of the prompt
        helpers = compile(job["prompt"], "<prompt>", "exec")
        import_all(job["prompt"])
        exec(helpers, names)
    names[job["entry_point"]] = function
    setattr(solution, job["entry_point"], function)
    import_all(job["test"])
    return names


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


def takes_nothing(value: Any) -> bool:
    """Whether it is a function that can be called without arguments."""
    if not isinstance(value, types.FunctionType):
        return False
    required = value.__code__.co_argcount - len(value.__defaults__ or ())
    return not required and not value.__code__.co_kwonlyargcount


def run_each(functions: list[Callable[[], object]]) -> None:
    """Call every function; a failure is raised."""
    for function in functions:
        function()


def run_cases(cases: list[Any]) -> None:
    """Run classes of `unittest.TestCase`; the first failure is raised."""
    import unittest  # others are judged without

    failures: list[BaseException] = []

    class FirstFailure(unittest.TestResult):
        def addError(self, test: Any, err: Any) -> None:  # noqa: N802  # unittest's names
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


class Raises:
    """A function that is not there yet."""

    begun = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.begun = True
        raise NotImplementedError


def probe(job: dict[str, Any]) -> tuple[str, str]:
    """`ok`, `broken` or `empty`, and why."""
    function = Raises()
    passed = False
    try:
        prepared(job, function)()
        passed = True
    except BaseException as error:
        if not function.begun:
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
