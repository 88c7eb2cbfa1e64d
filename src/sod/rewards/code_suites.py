"""The tests of a programming task, in the schemas of the field.

They are looked up in `extra`, and in `ground_truth` where that is a JSON object, a JSON list or Python tests.

Tests in Python, which call the function themselves (`CheckSuite`):

- HumanEval, BigCodeBench, KodCode: `test` with a `check(candidate)`, a `unittest.TestCase`, pytest's functions or
  plain assertions; the name of the function in `entry_point`, else the one that the tests import or call; what stands
  before the answer in `prompt`, `complete_prompt` or `code_prompt`, if there is any;
- MBPP, AceCode: a list of assertions in `test_list` or `test_cases`.

Tests with inputs and outputs (`CaseSuite`; `code_cases` says how these are written):

- APPS, TACO, Eurus: `input_output` (`inputs`, `outputs`, perhaps `fn_name`), or these three directly;
- LiveCodeBench, DeepCoder: lists of rows with `input` and `output` in `public_test_cases`, `private_test_cases`,
  `test_cases` or `tests`; the name of a function in `fn_name`, `func_name`, or `func_name` of a `metadata`;
- CodeContests: `public_tests`, `private_tests`, `generated_tests` with the lists `input` and `output`.

Every column may be JSON text. Private test cases may be JSON packed by zlib and base64. LiveCodeBench's own files put a
*pickle* into that packing. Loading a pickle runs whatever its author wrote, so it is refused: convert such a
file once, in a place where that does not matter.
"""

from __future__ import annotations

import ast
import base64
import binascii
import builtins
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.records import SodError, Task
from sod.rewards.code_cases import CaseSuite, case_suite

LARGEST_UNPACKED = 256 << 20  # bytes of test cases
FUNCTION = ("fn_name", "func_name", "function_name")
PROMPTS = ("prompt", "complete_prompt", "code_prompt")
ROWS = ("public_test_cases", "private_test_cases", "public_tests", "private_tests", "generated_tests")
ASSERTIONS = ("test_list", "test_cases", "tests")  # the last two may be rows instead
WRAPPERS = ("input_output", "verification_info")
NESTINGS = 3  # of JSON text in JSON text


@final
@dataclass(frozen=True)
class CheckSuite:
    """Tests in Python that call the function `entry_point` themselves; `prompt` stands before the answer."""

    prompt: str
    entry_point: str
    test: str


Suite = CaseSuite | CheckSuite


def read_suite(task: Task) -> Suite:
    """The tests of the task. Raises SodError where there are none or they cannot be read."""
    fields = suite_fields(task)
    test = _python_tests(fields)
    if test is not None:
        return CheckSuite(_prompt(fields), _entry_point(fields, test), test)
    if "inputs" in fields and "outputs" in fields:
        rows: list[Mapping[str, Any]] = []
        pairs = _paired(fields["inputs"], fields["outputs"])
    else:
        named = [name for name in (*ROWS, *ASSERTIONS) if fields.get(name)]
        rows = [row for name in named for row in _test_cases(fields[name], name)]
        pairs = [(_member(row, "input"), _member(row, "output")) for row in rows]
    if not pairs:
        raise SodError(f"code: no tests among {', '.join(sorted(fields)) or 'nothing'}")
    return case_suite(pairs, _function_name([fields, *rows]))


def suite_fields(task: Task) -> dict[str, Any]:
    """What a row says about its tests, by name. Raises SodError where that cannot be read."""
    truth = task.ground_truth.strip()
    fields: dict[str, Any] = {}
    if truth.startswith("{"):
        fields = _object(truth, "ground_truth")
    elif truth[:1] in ("[", '"'):
        fields = _listed(truth)
    elif "assert" in truth:
        fields = {"test": truth}
    fields = {**fields, **task.extra}
    for wrapper in WRAPPERS:
        if wrapper in fields:
            fields = {**fields, **_object(fields[wrapper], wrapper)}
    return fields


def _listed(truth: str) -> dict[str, Any]:
    """The tests in a truth that is JSON, but no object; empty where it is something else."""
    try:
        found = _json(truth, "ground_truth")
    except SodError:
        return {}
    if isinstance(found, Mapping):
        return dict(found)
    tests = isinstance(found, list) and found and all(isinstance(item, Mapping | str) for item in found)
    return {"tests": found} if tests else {}


def _json(value: Any, name: str) -> Any:
    """The value of a column, which may be JSON text, or that as JSON text again."""
    for _ in range(NESTINGS):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise SodError(f"code: {name} is not JSON: {error}") from error
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    loaded = _json(value, name)
    if not isinstance(loaded, Mapping):
        raise SodError(f"code: {name} must be an object, not {type(loaded).__name__}")
    return dict(loaded)


# --- tests in Python ------------------------------------------------------------------------------


def _python_tests(fields: Mapping[str, Any]) -> str | None:
    """The source of tests that call the function; None where there is none."""
    for name in ("test", "test_code"):
        value = fields.get(name)
        if isinstance(value, str) and value.strip() and value.lstrip()[0] not in "[{":
            return value
    for name in ("test", *ASSERTIONS):
        lines = _assertions(fields.get(name))
        if lines:
            before = [fields.get("test_setup_code"), *_texts(fields.get("test_imports"))]
            return "\n".join([*(line for line in before if isinstance(line, str)), *lines])
    return None


def _assertions(value: Any) -> list[str]:
    """The lines of a list of assertions, which may be JSON text; empty for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    lines = _texts(value)
    return lines if isinstance(value, list) and len(lines) == len(value) else []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _prompt(fields: Mapping[str, Any]) -> str:
    return next((fields[name] for name in PROMPTS if isinstance(fields.get(name), str)), "")


def _entry_point(fields: Mapping[str, Any], test: str) -> str:
    """The name of the function under test. Raises SodError where nothing tells it."""
    named = fields.get("entry_point") or _function_name([fields, *_maps(fields.get("test_info"))])
    found = str(named) if named else called_function(test)
    if found is None:
        raise SodError("code: no entry_point, and the tests name no function that they do not define themselves")
    return found


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def called_function(test: str) -> str | None:
    """The function that tests are about: what they import from `solution`, else what they call and do not define.

    Raises SodError where the tests are not Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(test)))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise SodError(f"code: no entry_point, and the tests are not Python: {error}") from error
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            return node.names[0].name
    defined = set(_defined(nodes)) | set(dir(builtins))
    called = (node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return next((name for name in called if name not in defined), None)


def _defined(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Every name that is bound somewhere."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


# --- tests with inputs and outputs ----------------------------------------------------------------


def _function_name(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The function that the tests call, as the first of `rows` that names one has it; None for whole programs."""
    for row in rows:
        metadata = _object(row.get("metadata") or {}, "metadata")
        for fields in (row, metadata):
            for name in FUNCTION:
                if fields.get(name):
                    return str(fields[name])
    return None


def _test_cases(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The rows of a column of test cases, with `input` and `output` each."""
    if isinstance(value, str) and value.lstrip()[:1] not in ("[", "{", '"'):
        value = _unpacked(value, name)
    rows = _json(value, name)
    if isinstance(rows, Mapping):
        columns = [rows.get(column, rows.get(f"{column}s")) for column in ("input", "output")]
        return [{"input": given, "output": expected} for given, expected in _paired(*columns)]
    if not isinstance(rows, list):
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
    inputs, outputs = _json(inputs, "inputs"), _json(outputs, "outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise SodError("code: inputs and outputs must be lists of equal length")
    return list(zip(inputs, outputs, strict=True))


def _member(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise SodError(f"code: a test case without {name}")
    return row[name]
