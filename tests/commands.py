"""The commands that documents show: read once here for every test of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LIVING = [path for path in DOCUMENTS if path.parent.name != "results"]
"""`docs/results/` keeps the commands of its day."""
HEADS = [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "benchmarks").rglob("*.py")]
"""Files whose first comment or docstring shows commands."""
MODULES = [*(ROOT / "examples").glob("*.py"), *(ROOT / "docs/extending").glob("*.py"), *(ROOT / "src").rglob("*.py")]
SOURCES = [*(path for path in LIVING if path.name != "CHANGELOG.md"), *HEADS, *MODULES]

_COMMAND = r"(?:\.venv/bin/)?(?:sod|python|make|pip) [a-z./'-]"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands_in(path: Path) -> list[str]:
    """Every `sod ...`, `python ...`, `make ...` and `pip ...` that a file shows, each as `normal` writes it.

    Of a page: in a block of code, or between backquotes. Of a recipe: in its comments. Of a module: in its docstring,
    indented or between backquotes.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        return [*_shown("\n".join(blocks), ""), *_quoted(re.sub(r"^```.*$", "", text, flags=re.MULTILINE))]
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text), clean=True) or ""
        return [*_shown(text, " {4}"), *_quoted(text)]
    comments = "\n".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))
    return [*_shown(comments, " +"), *_quoted(comments)]


def normal(command: str) -> str:
    """One space between words, no comment, and the environment's `python` by its plain name."""
    words = re.sub(r"\s+#.*$", "", command).replace(".venv/bin/", "")
    return " ".join(words.split())


def _shown(text: str, indent: str) -> Iterator[str]:
    for line in re.findall(rf"^{indent}({_COMMAND}.*)$", text.replace("\\\n", " "), re.MULTILINE):
        yield from (normal(part) for part in line.split("&&"))


def _quoted(text: str) -> Iterator[str]:
    return (normal(command) for command in re.findall(rf"(?<!`)`({_COMMAND}[^`]*)`", text))
