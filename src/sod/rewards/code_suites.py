"""The tests of a programming task, in the schemas of LiveCodeBench and HumanEval.

They are looked up in `extra`, and in `ground_truth` where that is a JSON object:

- HumanEval: `prompt`, `entry_point`, `test` (Python with a `check(candidate)`);
- LiveCodeBench's evaluation sample: `input_output` (JSON: `inputs`, `outputs`, perhaps `fn_name`), or
  these three directly;
- LiveCodeBench's rows: `public_test_cases` and `private_test_cases` (JSON lists of `input`,
  `output`, `testtype` `stdin` | `functional`), the name of the function in `metadata` as `func_name`.

Private test cases may be JSON packed by zlib and base64. LiveCodeBench's own files put a *pickle*
into that packing. Loading a pickle runs whatever its author wrote, so it is refused: convert such a
file once, in a place where that does not matter.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.records import SodError, Task

LARGEST_UNPACKED = 256 << 20  # bytes of test cases


@final
@dataclass(frozen=True)
class Case:
    """One test: what goes in and what must come out.

    With a function to call, `given` is the list of its arguments and `expected` its value, both as
    JSON has them; else stdin and stdout.
    """

    given: Any
    expected: Any


@final
@dataclass(frozen=True)
class CaseSuite:
    """Tests that run one by one, of a whole program or, with `fn_name`, of a function."""

    cases: tuple[Case, ...]
    fn_name: str | None = None


@final
@dataclass(frozen=True)
class CheckSuite:
    """Tests that call the candidate themselves: `test` defines `check(candidate)`."""

    prompt: str
    entry_point: str
    test: str


def read_suite(task: Task) -> CaseSuite | CheckSuite:
    """The tests of the task. Raises SodError where there are none or they cannot be read."""
    fields = _fields(task)
    if {"prompt", "entry_point", "test"} <= fields.keys():
        return CheckSuite(str(fields["prompt"]), str(fields["entry_point"]), str(fields["test"]))
    if "input_output" in fields:
        fields = {**fields, **_object(fields["input_output"], "input_output")}
    metadata = _object(fields.get("metadata") or {}, "metadata")
    fn_name = fields.get("fn_name") or fields.get("func_name") or metadata.get("func_name") or None
    if "inputs" in fields and "outputs" in fields:
        pairs = list(_paired(fields["inputs"], fields["outputs"]))
    else:
        pairs = [
            (_member(row, "input"), _member(row, "output"))
            for name in ("public_test_cases", "private_test_cases")
            for row in _test_cases(fields.get(name) or [], name)
        ]
    if not pairs:
        raise SodError(f"code: no tests among {', '.join(sorted(fields)) or 'nothing'}")
    return CaseSuite(tuple(_case(given, expected, fn_name is not None) for given, expected in pairs), fn_name)


def _fields(task: Task) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if task.ground_truth.lstrip().startswith("{"):
        fields = _object(task.ground_truth, "ground_truth")
    return {**fields, **task.extra}


def _json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise SodError(f"code: {name} is not JSON: {error}") from error


def _object(value: Any, name: str) -> dict[str, Any]:
    loaded = _json(value, name)
    if not isinstance(loaded, Mapping):
        raise SodError(f"code: {name} must be an object, not {type(loaded).__name__}")
    return dict(loaded)


def _test_cases(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        value = _unpacked(value, name)
    rows = _json(value, name)
    if not isinstance(rows, Sequence):
        raise SodError(f"code: {name} must be a list, not {type(rows).__name__}")
    return rows


def _unpacked(text: str, name: str) -> str:
    """Base64 of zlib of JSON. Raises SodError for anything else, a pickle among it."""
    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(text, validate=True), LARGEST_UNPACKED)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise SodError(f"code: {name} is neither JSON nor zlib in base64: {error}") from error
    if not decompressor.eof:
        raise SodError(f"code: {name} unpacks to more than {LARGEST_UNPACKED >> 20} MiB, or is cut short")
    if data[:1] == b"\x80":
        raise SodError(f"code: {name} is a pickle, which is never loaded; store the list as plain JSON")
    return data.decode("utf-8", "replace")


def _paired(inputs: Any, outputs: Any) -> list[tuple[Any, Any]]:
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise SodError("code: inputs and outputs must be lists of equal length")
    return list(zip(inputs, outputs, strict=True))


def _member(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise SodError(f"code: a test case without {name}")
    return row[name]


def _case(given: Any, expected: Any, functional: bool) -> Case:
    """Functional tests in text form have one argument per line, each in JSON."""
    if not functional:
        return Case(str(given), str(expected))
    if isinstance(given, str):
        given = [_json(line, "a test's input") for line in given.split("\n") if line.strip()]
    if not isinstance(given, list):
        raise SodError("code: the input of a function must be a list of arguments")
    return Case(given, _json(expected, "a test's output"))
