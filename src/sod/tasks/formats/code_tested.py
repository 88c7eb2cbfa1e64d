"""HumanEval-X, DeepSeek-Coder's LeetCode and MBPP: a `prompt`, and Python in `test` that calls what it tests.

Tests in another language are told by what they are not: Python.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from sod.records import Message, Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import IN_A_BLOCK, block, in_words, programming_task, said, used

_INSTRUCTED = "prompt_sft"  # the whole of what is asked for, beside the code to complete


def _matches(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and "assert" in _text(row.get("test"))


def _text(test: Any) -> str:
    lines = test if isinstance(test, list) else [test]
    return "\n".join(lines) if all(isinstance(line, str) for line in lines) else ""


def _read(fields: Fields, name: str) -> Task:
    language = fields.use("language")
    test = _text(fields.use("test"))
    if not _statements(test):
        raise BadRowError(f"its tests are for {language or 'another language'}; the code verifier runs Python")
    prompt = _prompt(fields, test)
    tests = {"test": test}
    functions = _functions(said(fields, "prompt"))
    if functions:
        tests |= {**used(fields, ("prompt",)), "entry_point": functions[-1]}
    return programming_task(fields, name, "tested", prompt, tests, ("canonical_solution", "code"))


def _functions(prompt: str) -> list[str]:
    """The functions that a prompt defines, or begins to define."""
    return [node.name for node in _statements(prompt) if isinstance(node, ast.FunctionDef)]


def _prompt(fields: Fields, test: str) -> tuple[Message, ...]:
    if fields.row.get(_INSTRUCTED):
        return in_words(said(fields, _INSTRUCTED), IN_A_BLOCK)
    prompt = said(fields, "prompt")
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in _statements(prompt)):
        return in_words("Complete this program.", block(str(fields.row["prompt"])), IN_A_BLOCK)
    shown = f"The program must pass these tests:\n\n{block(test)}" if isinstance(fields.row["test"], list) else ""
    return in_words(prompt, shown, IN_A_BLOCK)


def _statements(text: str) -> list[ast.stmt]:
    """The statements of a program, of which the last may have no body yet; none where it is no Python."""
    for whole in (text, f"{text}\n    pass\n"):
        try:
            return ast.parse(whole).body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
    return []


TESTED = Shape("prompt and tests", _matches, _read)
