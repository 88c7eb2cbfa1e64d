"""Test cases in pickles, unpacked in the sandbox: this process never loads one.

What comes back is JSON packed as before, so that it takes no more memory than the data set. It is checked as any other
column is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, final

from sod.records import Execution, Fault, Program, SodError, Task
from sod.rewards.code_columns import LARGEST_UNPACKED
from sod.rewards.code_suites import pickled_columns

SECONDS = 60.0  # wall clock of one pickle
PART = 12 << 20  # bytes that a program gives out
KEPT = 16  # pickles that stay unpacked
FILE = "cases.zlib"

Execute = Callable[[Sequence[Program]], list[Execution | Fault]]


class _Part(NamedTuple):
    """Packed cases from some byte on, and how many bytes there are in all."""

    data: bytes
    size: int


@final
class Unpacking:
    """Unpacks the pickles of tasks through `execute`, a sandbox's; the last few stay unpacked."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._source = Path(__file__).with_name("code_harness_unpack.py").read_text("utf-8")
        self._known: dict[str, str] = {}

    def plain(self, task: Task) -> Task | Fault:
        """The task with its pickles unpacked; itself where it has none. Raises SodError for one that cannot be."""
        columns: dict[str, str] = {}
        for name, text in pickled_columns(task).items():
            unpacked = self._unpacked(text, name)
            if isinstance(unpacked, Fault):
                return unpacked
            columns[name] = unpacked
        return replace(task, extra={**task.extra, **columns}) if columns else task

    def problem(self, task: Task) -> str | Fault:
        """What is wrong with the pickles of the task; empty where nothing is. Nothing is brought out."""
        for name, text in pickled_columns(task).items():
            try:
                part = self._part(text, name, 0, 0)
            except SodError as error:
                return str(error).removeprefix("code: ")
            if isinstance(part, Fault):
                return part
        return ""

    def _unpacked(self, text: str, name: str) -> str | Fault:
        if text not in self._known:
            found = b""
            size = 1
            while len(found) < size:
                part = self._part(text, name, len(found), PART)
                if isinstance(part, Fault):
                    return part
                if not part.data:
                    raise SodError(f"code: {name} was not brought out of the sandbox")
                found, size = found + part.data, part.size
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[text] = base64.b64encode(found).decode()
        return self._known[text]

    def _part(self, text: str, name: str, start: int, length: int) -> _Part | Fault:
        job = {"text": text, "most": LARGEST_UNPACKED, "start": start, "length": length}
        fetch = (FILE,) if length else ()
        program = Program(self._source, json.dumps(job), fetch=fetch, seconds=SECONDS)
        (execution,) = self._execute([program])
        if isinstance(execution, Fault):
            return execution
        report = _report(execution)
        if "size" not in report:
            last = execution.stderr.rstrip().rpartition("\n")[2]
            raise SodError(f"code: {name} cannot be unpacked: {report.get('problem') or last or execution.status}")
        return _Part(execution.files.get(FILE, b""), int(report["size"]))


def _report(execution: Execution) -> dict[str, Any]:
    try:
        report = json.loads(execution.stdout.rstrip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}
