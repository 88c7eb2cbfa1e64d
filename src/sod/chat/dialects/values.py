"""Values of arguments that stand in a text without quotes, as Qwen3-Coder, GLM and others write them.

Templates write a string as it is and everything else as JSON, so a string that looks like JSON cannot be told from the
value it looks like, save by the tool's schema. The rule, with which whatever is written is read back as it was:

- What is declared as text is text. All else is JSON if it can be read as JSON, and text if not.
- A string that would be read as something else, or that holds the mark which ends a value, is written as a JSON string
  without that mark. So a declared text is read as JSON only where it could not have been written as it is.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

_PYTHON = {"True": True, "False": False, "None": None}  # some templates write what Python calls these


def read_value(written: str, end: str, as_text: bool = False) -> Any:
    """The value of an argument; `end` is the mark that ends values, `as_text` says that it is declared as text."""
    if as_text:
        return _quoted_text(written, end)
    if written in _PYTHON:
        return _PYTHON[written]
    try:
        return json.loads(written, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return written


def write_value(value: Any, end: str, as_text: bool = False, python_words: bool = False) -> str:
    """The text of an argument, such that `read_value` reads it back. `python_words`: True, False and None, not JSON's.

    A value that is no string is written as JSON whatever is declared.
    """
    if isinstance(value, str) and end not in value and _same_text(read_value(value, end, as_text), value):
        return value
    if python_words and (value is None or isinstance(value, bool)):
        return str(value)
    return _in_json(value, end)


def _quoted_text(written: str, end: str) -> str:
    """A declared text: as it is, save what had to be written as JSON."""
    if not written.startswith('"') or not written.endswith('"'):
        return written
    try:
        text = json.loads(written)
    except ValueError:
        return written
    return text if end in text or _quoted_text(text, end) != text else written


def _same_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def _in_json(value: Any, end: str) -> str:
    """JSON in which `end` does not occur: it can only stand in a string, where its first character may be escaped."""
    escaped = f"\\u{ord(end[0]):04x}{end[1:]}"
    return json.dumps(value, ensure_ascii=False).replace(end, escaped)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
