"""Runs inside the sandbox, in the judge of `code_harness_check`: tests that need pytest, by pytest itself.

The text of this file is a part of the job. The tests are a module that has run already, so pytest reads no file, and
neither a configuration nor plugins: those could lie where a candidate writes.
"""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import pytest


class Collected(pytest.Module):
    """The tests, as pytest finds them in a module that is there already."""

    tests: types.ModuleType

    def _getobj(self) -> types.ModuleType:
        return self.tests


class Judge:
    """A plugin that hands pytest the tests, and keeps the first that fails."""

    def __init__(self, tests: types.ModuleType, subject: Any) -> None:
        self._tests = tests
        self._subject = subject
        self._raised: BaseException | None = None
        self.failure: BaseException | None = None
        self.passed = 0

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Collect the module alone."""
        module = Collected.from_parent(session, path=Path(session.config.rootpath, "tests.py"))
        module.tests = self._tests
        session.items = list(session.genitems(module))
        session.config.hook.pytest_collection_modifyitems(session=session, config=session.config, items=session.items)
        session.testscollected = len(session.items)
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._fail(AssertionError(f"the tests cannot be collected: {last_line(report.longreprtext)}"))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._subject.testing = nodeid.partition("::")[2]

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        self._raised = None if call.excinfo is None else call.excinfo.value

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.passed and report.when == "call"
        if report.failed:
            self._fail(self._raised or AssertionError(last_line(report.longreprtext)))

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def run_module(tests: types.ModuleType, subject: Any) -> None:
    """Run the tests of the module; the first failure is raised, and what keeps pytest from running them."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    judge = Judge(tests, subject)
    no_files = [f"--rootdir={os.sep}", "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider"]
    code = pytest.main([*no_files, "-p", "no:faulthandler", "--capture=no", "-q", "-x"], plugins=[judge])
    if judge.failure is not None:
        raise judge.failure
    if not judge.passed:
        raise AssertionError(f"pytest ran no test ({code!s})")
