"""What the field calls the parts of a task: the names under which a row's prompt, truth and origin are looked for.

Names are compared without case, spaces and underscores: `Problem`, `problem` and `Correct Answer`, `correct_answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sod.records import Message
from sod.tasks.formats.base import BadRowError, Fields, decoded
from sod.tasks.formats.messages import prompt_messages
from sod.tasks.formats.tools import read_tools
from sod.tasks.tables import json_or_none
from sod.tasks.truths import truths_of

QUESTIONS = ("problem", "question", "query", "question_stem")
PROMPTS = ("prompt", *QUESTIONS, "input", "instruction", "messages", "context_messages")
"""Where a prompt stands, the first that a row has."""
ABOUT = ("context", "passage", "article", "body")
"""Texts that a question is about: they are put before it."""
TRUTHS = (
    *("ground_truth", "groundtruth", "expected_answer", "final_answer", "reference_answer", "correct_answer"),
    *("ground_truth_answer", "gold_answer", "golden_answers", "gt_answer", "answer", "answers", "label", "target"),
    *("ideal", "expected", "expected_output", "golden", "gt"),
    *("solution", "solutions", "output"),
)
"""Where the truth stands, the first that a row has: what can only be a final answer before what may be a whole one.

So MATH's `answer` goes before its `solution`, and OlympiadBench's `final_answer` before both.
"""
EMPTY: tuple[Any, ...] = (None, "", [], {})
SOURCES = ("source", "dataset", "task", "env_class", "tag")
SOURCE_CHARS = 80
"""The longest name of a source; a longer text (a citation, the task in words) is none."""
CARRIED = ("extra_info", "metadata", "info", "extra_fields")
"""Mappings beside a task that are carried along as `Task.extra`."""
FOREIGN = ("tools_kwargs", "need_tools_kwargs", "interaction_kwargs", "tool_selection")
"""Fields of `extra_info` by which other trainers choose tools and users of a row: nothing here reads them."""
FULL = ("solution", "reference_solution", "canonical_solution", "rationale", "hint")
"""Texts beside a truth that hints are made of (`sod data hints`), carried along too."""
GRADED = ("difficulty", "level", "subject")
"""What kind of problem a row is, in a word or a number, carried along for evaluations that tell kinds apart."""


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A column's name as it is compared."""
    return name.lower().replace(" ", "").replace("_", "").replace("-", "")


def column_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The row's column for the first of these names that it has something in; else for one that it has at all."""
    own = {plain(column): column for column in reversed(list(row))}
    found = [own[plain(name)] for name in names if plain(name) in own]
    return next((column for column in found if row[column] not in EMPTY), found[0] if found else None)


def holds(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the row has something in a column of one of these names."""
    column = column_of(row, names)
    return column is not None and row[column] not in EMPTY


def prompt_of(fields: Fields) -> tuple[Message, ...]:
    """The messages of a row's prompt. Raises BadRowError.

    An `instruction` is followed by the row's `input`. Of `messages` that end with an answer, that is left out.
    """
    column = column_of(fields.row, PROMPTS)
    if column is None:
        raise BadRowError("no prompt")
    value = fields.use(column)
    if isinstance(value, Mapping) and "role" in value:
        value = [value]
    if isinstance(value, str) and plain(column) in ("input", "instruction"):
        value = _instructed(fields, value)
    elif isinstance(value, str) and column_of({column: value}, QUESTIONS):
        value = _with_what_it_is_about(fields, value)
    messages = prompt_messages(value, column, fields)
    asked = _without_answer(messages) if plain(column) == "messages" else messages
    if len(asked) < len(messages):
        fields.remark("the answer at the end of messages is left out of the prompt")
    return asked


def _instructed(fields: Fields, value: str) -> str:
    instruction, given = (column_of(fields.row, [name]) for name in ("instruction", "input"))
    texts = [fields.use(column) for column in (instruction, given) if column is not None]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text.strip()) or value


def _with_what_it_is_about(fields: Fields, question: str) -> str:
    columns = [column_of(fields.row, [name]) for name in ABOUT]
    texts = {name: fields.row[name] for name in columns if name is not None and isinstance(fields.row[name], str)}
    for column, text in texts.items():
        if fields.use(column).strip():
            fields.remark(f"{column} is put before the question")
            question = f"{text}\n\n{question}"
    return question


def _without_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    if last < 0:
        raise BadRowError("no user message")
    after = messages[last + 1 :]
    return messages[: last + 1] if any(message.role == "assistant" for message in after) else messages


def truths_in(fields: Fields) -> tuple[str, ...]:
    """The accepted answers of a row with its truth in a column of its own. Raises BadRowError for none."""
    column = column_of(fields.row, TRUTHS)
    truths = () if column is None else truths_of(fields.use(column))
    if column is None or not truths:
        raise BadRowError(f"no {column or 'ground truth'}")
    others = [name for name in TRUTHS if column_of(fields.row, [name]) not in (None, column)]
    if others:
        fields.remark(f"the truth is {column}, not {' or '.join(others)}")
    return truths


def source_of(fields: Fields) -> str:
    """The row's data_source, or what else says where it comes from; "unknown" where nothing does."""
    own = fields.use("data_source")
    if own not in EMPTY:
        return str(own)
    for name in SOURCES:
        column = column_of(fields.row, [name])
        value = None if column is None else fields.row[column]
        if column is not None and isinstance(value, str) and 0 < len(value) <= SOURCE_CHARS:
            return str(fields.use(column))
    return "unknown"


def extra_of(fields: Fields) -> dict[str, Any]:
    """What a task carries along: the mappings beside it, texts that hints are made of, and how hard it is.

    Raises BadRowError.
    """
    extra: dict[str, Any] = {}
    for name in CARRIED:
        held = decoded(fields.row.get(name), name, dict) if name == "extra_info" else fields.row.get(name)
        if isinstance(held, Mapping):
            for key in held:
                if key not in FOREIGN:
                    fields.use(name, key)
            extra = {**held, **extra}
    together = column_of(fields.row, ["is_multiple_answer"])  # whether a list of truths is one answer
    if together is not None:
        extra["is_multiple_answer"] = fields.use(together)
    for name in FULL:
        column = column_of(fields.row, [name])
        if column is not None and column not in extra and isinstance(fields.row[column], str | list):
            extra[name] = fields.use(column)
    for name in GRADED:
        column = column_of(fields.row, [name])
        if column is not None and name not in extra and isinstance(fields.row[column], str | int | float):
            extra[name] = fields.use(column)
    return extra


def tools_of(fields: Fields, raw: Any, *path: str) -> tuple[Mapping[str, Any], ...]:
    """The function schemas that a row declares, in OpenAI's form. Raises BadRowError.

    Names alone (a list of words) declare nothing that could be shown: they stay unused.
    """
    if isinstance(raw, list) and all(isinstance(tool, str) and json_or_none(tool) is None for tool in raw):
        return ()
    fields.use(*path)
    return read_tools(raw, ".".join(path))
