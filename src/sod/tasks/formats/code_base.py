"""What the shapes of programming tasks share.

A set's own words come first in the prompt. Where they do not say how a program is to look, a sentence of ours does: it
says what the program begins with or reads, and that it stands in a fenced block, which is what the code verifier reads.
The tests are the task's truth, as JSON with the names of the set's columns; what may be a reference solution goes into
`extra`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sod.records import Message, Task
from sod.tasks.formats.base import BadRowError, Fields
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.tables import json_or_none

IN_A_BLOCK = "Put the whole program into one ```python block."
FROM_INPUT = "The program reads standard input and writes to standard output."
FUNCTION = ("fn_name", "func_name", "function_name")


def said(fields: Fields, *names: str) -> str:
    """The text of the first of these columns that has one. Raises BadRowError for none, and for no Unicode."""
    for name in names:
        value = fields.row.get(name)
        if isinstance(value, str) and value.strip():
            try:
                value.encode()  # a lone surrogate (JSON can spell one) would fail only at the tokenizer
            except UnicodeEncodeError as error:
                raise BadRowError(f"{name} is not valid Unicode") from error
            return str(fields.use(name)).strip()
    raise BadRowError(f"no {names[0]}")


def asked(fields: Fields, names: Sequence[str], *more: str) -> tuple[Message, ...]:
    """The prompt: the text of one of these columns, and what is to be said beside it; messages stay as they are."""
    if "prompt" in fields.given:
        names = ("prompt", *names)
    for name in names:
        if isinstance(fields.row.get(name), list):
            return prompt_messages(fields.use(name), name, fields)
    return in_words(said(fields, *names), *more)


def in_words(*parts: str) -> tuple[Message, ...]:
    """One user message of several paragraphs."""
    return (Message("user", "\n\n".join(part for part in parts if part)),)


def block(code: str) -> str:
    """Code as a prompt shows it."""
    return f"```python\n{code.strip(chr(10)).rstrip()}\n```"


def used(fields: Fields, names: Sequence[str]) -> dict[str, Any]:
    """Those of the columns that hold something."""
    return {name: fields.use(name) for name in names if fields.row.get(name) not in (None, "", [], {})}


def programming_task(
    fields: Fields,
    name: str,
    source: str,
    prompt: tuple[Message, ...],
    tests: Mapping[str, Any],
    references: Sequence[str] = (),
) -> Task:
    """A task whose truth is `tests`; `references` are columns of solutions."""
    return Task(
        id=name,
        prompt=prompt,
        ground_truth=json.dumps(tests, default=str),
        data_source=str(fields.use("data_source") or source),
        extra=used(fields, references),
        verifier="code",
    )


def how(fields: Fields, tests: Any) -> str:
    """What the program is to look like: its beginning, the function that it defines, or where it reads and writes."""
    start = fields.use("starter_code")
    if isinstance(start, str) and start.strip():
        return f"Begin with this:\n\n{block(start)}\n\n{IN_A_BLOCK}"
    function = called_in(tests)
    about = f"The program defines a function `{function}`." if function else FROM_INPUT
    return f"{about} {IN_A_BLOCK}"


def called_in(tests: Any) -> str | None:
    """The function that tests with inputs and outputs name; None where they are about whole programs."""
    found = json_or_none(tests) if isinstance(tests, str) else tests
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, Mapping):
        return None
    metadata = found.get("metadata")
    rows = [found, metadata] if isinstance(metadata, Mapping) else [found]
    return next((str(row[name]) for row in rows for name in FUNCTION if row.get(name)), None)
