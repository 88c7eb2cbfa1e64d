"""Tests in Python: which columns hold them, and what of the answer they are about."""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.records import SodError

PROMPTS = ("prompt", "complete_prompt", "code_prompt")
SOURCES = ("test", "test_code", "tests", "functional", "pytest", "assertion")
ASSERTIONS = ("test", "test_list", "test_cases", "tests", "assert_case")
FUNCTION = ("fn_name", "func_name", "function_name")
SETUP = ("test_setup_code", "test_imports")
SOLUTION = "solution"  # the module from which tests import the answer
EXPECTING = ("raises", "assertRaises", "assertRaisesRegex")  # calls whose first argument is an exception


@final
@dataclass(frozen=True)
class CheckSuite:
    """Tests in Python that call the function `entry_point` themselves; `prompt` stands before the answer.

    The entry point may be an expression, such as `Solution().f`. `names` are others that the tests import from the
    module `solution`. An answer that is `whole` has all of the prompt that it is to have in it already: only the tests
    find the prompt's helpers then.
    """

    prompt: str
    entry_point: str
    test: str
    names: tuple[str, ...] = ()
    whole: bool = False

    @property
    def classes(self) -> list[str]:
        """The plain classes that the prompt defines: their objects cross between tests and answer."""
        try:
            nodes = ast.parse(self.prompt).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return []
        return [node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.bases]

    @property
    def errors(self) -> list[str]:
        """Those of `names` that the tests expect to be raised."""
        try:
            nodes = list(ast.walk(ast.parse(self.test)))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return []
        kinds = [kind for node in nodes for kind in _expected(node)]
        return [name for name in self.names if name in kinds]


def check_suite(fields: Mapping[str, Any]) -> CheckSuite | None:
    """The tests in Python of a row; None where it has none. Raises SodError where nothing tells what they are about."""
    test = _source(fields)
    if test is None:
        return None
    named = _named(fields)
    try:
        imported, called = _about(test)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if named is None:
            raise SodError(f"code: no entry_point, and the tests are not Python: {error}") from error
        imported, called = [], []  # what is wrong with them is said where they are tried
    entry_point = named or next(iter([*imported, *called]), None)
    if entry_point is None:
        raise SodError("code: no entry_point, and the tests name no function that they do not define themselves")
    return CheckSuite(_prompt(fields), entry_point, test, tuple(name for name in imported if name != entry_point))


def _expected(node: ast.AST) -> Iterator[str]:
    """The names of exceptions that a node of tests catches, or expects by a call such as `pytest.raises`."""
    kinds: list[ast.expr | None] = []
    if isinstance(node, ast.ExceptHandler):
        kinds = [node.type]
    elif isinstance(node, ast.Call):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        kinds = list(node.args[:1]) if called in EXPECTING else []
    for kind in kinds:
        alternatives = kind.elts if isinstance(kind, ast.Tuple) else [kind]
        for one in alternatives:
            if isinstance(one, ast.Name):
                yield one.id
            elif isinstance(one, ast.Attribute):
                yield one.attr


def is_python(text: str) -> bool:
    """Whether a text is tests in Python: something that asserts, a `check` or functions `test...`."""
    if not any(word in text for word in ("assert", "check", "test")):
        return False
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    asserts = any(isinstance(node, ast.Assert) for node in nodes)
    return asserts or any(name == "check" or name.startswith("test") for name in functions)


def _source(fields: Mapping[str, Any]) -> str | None:
    """The source of the tests."""
    for name in SOURCES:
        value = fields.get(name)
        if isinstance(value, str) and value.strip() and value.lstrip()[0] not in "[{" and not _is_packed(value):
            return "\n".join([*_setup(fields), value])
    for name in ASSERTIONS:
        lines = assertions(fields.get(name))
        if lines:
            return "\n".join([*_setup(fields), *lines])
    return None


def _is_packed(text: str) -> bool:
    """Whether it is base64: one long word."""
    return len(text.split(maxsplit=1)) == 1 and "(" not in text


def _setup(fields: Mapping[str, Any]) -> list[str]:
    """MBPP's lines before its tests; none where the tests have them already."""
    lines: list[str] = []
    for name in SETUP:
        value = fields.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _listed(value)
        lines += [value] if isinstance(value, str) else _texts(value)
    return [line for line in lines if line.strip()]


def assertions(value: Any) -> list[str]:
    """The lines of a list of Python, which may be JSON text; empty for anything else, rows of inputs among it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _listed(value)
    lines = _texts(value)
    whole = isinstance(value, list) and len(lines) == len(value)
    return lines if whole and not any(line.lstrip().startswith("{") for line in lines) else []


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _prompt(fields: Mapping[str, Any]) -> str:
    return next((fields[name] for name in PROMPTS if isinstance(fields.get(name), str)), "")


def _named(fields: Mapping[str, Any]) -> str | None:
    """The function that a row names."""
    infos = fields.get("test_info")
    infos = [infos] if isinstance(infos, Mapping) else infos
    rows = [fields, *(info for info in infos if isinstance(info, Mapping))] if isinstance(infos, list) else [fields]
    metadata = fields.get("metadata")
    rows += [metadata] if isinstance(metadata, Mapping) else []
    found = [row.get(name) for row in rows for name in ("entry_point", *FUNCTION)]
    return next((name.strip() for name in found if isinstance(name, str) and name.strip()), None)


def _about(test: str) -> tuple[list[str], list[str]]:
    """What tests import from `solution`, and what they call or name and do not define. Raises what `ast.parse` does."""
    nodes = list(ast.walk(ast.parse(test)))
    imported: list[str] = []
    modules: set[str] = set()  # names of the module itself
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == SOLUTION:
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            modules.update(alias.asname or SOLUTION for alias in node.names if alias.name == SOLUTION)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            imported.append(node.attr)
    known = set(_defined(nodes)) | set(dir(builtins))
    calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    unknown = [name for name in dict.fromkeys([*calls, *names]) if name not in known]
    return (unknown if "*" in imported else list(dict.fromkeys(imported))), unknown


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
