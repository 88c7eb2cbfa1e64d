"""Hints from programs: what a reference solution uses and says of itself, but no line of it."""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator

_FENCE = re.compile(r"```(\w*)\s*\n(.*?)```", re.DOTALL)
_OTHER_LANGUAGE = re.compile(
    r"^\s*(?:#include\b|using namespace\b|public (?:static |class )|func \w+\(|fn \w+|int main\b|package \w+;)",
    re.MULTILINE,
)
_CONSTRUCTS = (
    (ast.For, "a for loop"),
    (ast.While, "a while loop"),
    ((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
    (ast.Lambda, "a lambda"),
    (ast.Try, "a try"),
)
_STATEMENTS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Return, ast.For, ast.While)


def is_program(text: str) -> bool:
    """Whether a reference solution is a program and not words: fenced, Python with a statement of some weight, or of
    another language that is easily told.
    """
    if text.lstrip().startswith("```") or _OTHER_LANGUAGE.search(text):
        return True
    tree = _parsed(text)
    return tree is not None and any(isinstance(node, _STATEMENTS) for node in ast.walk(tree))


def program_hint(text: str) -> str:
    """What a Python program imports, calls and is made of, then its docstrings and comments.

    Empty where there is nothing to say, and for what cannot be read as Python.
    """
    source = _source(text)
    tree = _parsed(source)
    if tree is None:
        return ""
    parts = []
    if modules := list(dict.fromkeys(_modules(tree))):
        parts.append(f"It imports {', '.join(modules)}.")
    if calls := list(dict.fromkeys(_calls(tree))):
        parts.append(f"It calls {', '.join(calls)}.")
    if constructs := list(dict.fromkeys(_constructs(tree))):
        parts.append(f"It has {', '.join(constructs)}.")
    said = [*_docstrings(tree), *_comments(source)]
    return "\n".join([*parts, *said])


def _source(text: str) -> str:
    fenced = _FENCE.search(text)
    return textwrap.dedent(fenced[2] if fenced else text)


def _parsed(text: str) -> ast.Module | None:
    """Also the body of a function, as HumanEval has it."""
    try:
        with warnings.catch_warnings():  # of escapes in strings that Python does not know
            warnings.simplefilter("ignore")
            return ast.parse(_source(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _constructs(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        yield from (words for kind, words in _CONSTRUCTS if isinstance(node, kind))
        if isinstance(node, ast.FunctionDef) and node.name in map(_name_called, ast.walk(node)):
            yield "a recursion"


def _calls(tree: ast.Module) -> Iterator[str]:
    """Names that are called and not defined in the program itself."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = map(_name_called, ast.walk(tree))
    return (name for name in names if name and name not in own)


def _name_called(node: ast.AST) -> str:
    """The last part of what a call calls: `sorted`, of `heapq.heappush` the function, of `words.append` the method."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """The first paragraph of each: what follows are often examples with their results."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield " ".join(text.split(">>>")[0].split("\n\n")[0].split())


def _comments(source: str) -> Iterator[str]:
    """Comments in words; one that is itself Python is a line of a program."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return
    for token in tokens:
        text = token.string.lstrip("#! ").strip()
        if token.type == tokenize.COMMENT and re.search(r"[^\W\d_]{2}", text) and not _is_code(text):
            yield text


def _is_code(text: str) -> bool:
    tree = _parsed(text)
    return tree is not None and not (
        len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) and isinstance(tree.body[0].value, ast.Name)
    )
