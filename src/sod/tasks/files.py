"""Tasks and conversations from parquet, JSONL or the Hub, in the schema the field uses (verl's).

Rows are counted from 0. A row that cannot be used is skipped with a named reason and counted; a file
that cannot be used stops the run. Nested columns may be JSON strings: some writers store them so,
because arrow structs cannot hold rows of different shapes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sod.records import Message, SodError, Task
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Row, decoded
from sod.tasks.formats.messages import chat_or_none, function_of, read_messages
from sod.tasks.loaded import Loaded, SkippedRow
from sod.tasks.sources import FILE_SUFFIXES, read_rows
from sod.tasks.truths import ground_truth_column, truths_of

T = TypeVar("T")


def load_tasks(source: str, split: str = "train") -> Loaded[Task]:
    """RL tasks from a `.parquet`, `.jsonl` or `.json` file, or from a Hub data set `owner/name`.

    Columns: `prompt` (messages, or one string: the user message), `reward_model` with `ground_truth`
    (one answer, or a list of accepted ones), optional `data_source`, `extra_info` and `id`. The task
    id is `id`, else `extra_info.id`, else `extra_info.index`, else `<file stem>-<row>`; an id seen
    before gets its row number appended.
    `split` (Hub only) is ignored for files. Raises SodError when the source cannot be used at all.
    """
    return _load(source, split, ("prompt", "reward_model"), ("id", "data_source", "extra_info"), _task)


def load_conversations(source: str, split: str = "train") -> Loaded[Conversation]:
    """SFT conversations; sources as in `load_tasks`.

    Columns: `messages`, optional `tools` (function schemas) and `id`. Tool calls may be in OpenAI's
    form or flat (`name`, `arguments`). A conversation that calls a tool it does not declare is
    skipped: its template would show the model a call without its tool. Raises SodError.
    """
    return _load(source, split, ("messages",), ("tools", "id"), _conversation)


def _load(
    source: str, split: str, needed: tuple[str, ...], optional: tuple[str, ...], parse: Callable[[Row, str], T]
) -> Loaded[T]:
    rows, skipped = read_rows(source, needed, optional, split)
    path = Path(source)
    stem = path.stem if path.suffix in FILE_SUFFIXES else path.name  # "owner/model-v1.1" has no suffix
    items: list[T] = []
    used: list[int] = []
    seen: set[str] = set()
    for number, row in rows:
        try:
            name = _row_id(row) or f"{stem}-{number}"
            while name in seen:
                name = f"{name}-{number}"
            items.append(parse(row, name))
            used.append(number)
            seen.add(name)
        except BadRowError as error:
            skipped.append(SkippedRow(number, str(error)))
        except RecursionError:
            skipped.append(SkippedRow(number, "nested too deep"))
    skipped.sort(key=lambda skip: skip.row)
    return Loaded(items, skipped, used).refuse_empty(source)


def _row_id(row: Row) -> str | None:
    extra = decoded(row.get("extra_info"), "extra_info", dict)
    names = (row.get("id"), extra.get("id"), extra.get("index"))
    return next((str(name) for name in names if name is not None), None)


def _task(row: Row, name: str) -> Task:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        prompt = chat_or_none(prompt) or [{"role": "user", "content": prompt}]
    truths = truths_of(decoded(row.get("reward_model"), "reward_model", dict).get("ground_truth"))
    if not truths:
        raise BadRowError("no reward_model.ground_truth")
    return Task(
        id=name,
        prompt=read_messages(prompt, "prompt", declared=None),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=str(row.get("data_source") or "unknown"),
        extra=decoded(row.get("extra_info"), "extra_info", dict),
    )


def _conversation(row: Row, name: str) -> Conversation:
    tools = decoded(row.get("tools"), "tools", list)
    declared = frozenset(function_of(tool, "a declared tool")[0] for tool in tools)
    messages = read_messages(row.get("messages"), "messages", declared)
    if not any(message.role == "assistant" for message in messages):
        raise BadRowError("no assistant message")
    return Conversation(id=name, messages=messages, tools=tuple(tools))


_CALL = pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())]))])
_PLAIN_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGE = pa.struct([*_PLAIN_MESSAGE, ("name", pa.string()), ("tool_calls", pa.list_(_CALL))])
_REWARD = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])


def write_tasks(path: str | Path, tasks: Sequence[Task]) -> None:
    """Write tasks as parquet, atomically, such that `load_tasks` gives them back.

    `extra_info` is a struct where every task has the same scalar keys (what verl reads), else a JSON
    string. Raises SodError when the file cannot be written.
    """
    plain = all(not m.tool_calls and m.name is None for task in tasks for m in task.prompt)
    message = _PLAIN_MESSAGE if plain else _MESSAGE
    truths = [ground_truth_column([task.ground_truth, *task.truths]) for task in tasks]
    columns = {
        "id": pa.array([task.id for task in tasks], pa.string()),
        "data_source": pa.array([task.data_source for task in tasks], pa.string()),
        "prompt": pa.array([[_raw(m) for m in task.prompt] for task in tasks], pa.list_(message)),
        "reward_model": pa.array([{"style": "rule", "ground_truth": truth} for truth in truths], _REWARD),
    }
    extras = [dict(task.extra) for task in tasks]
    if any(extras):
        columns["extra_info"] = pa.array(extras if _same_scalars(extras) else [_json(e) for e in extras])
    _write(Path(path), pa.table(columns))


def write_conversations(path: str | Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as parquet, atomically, such that `load_conversations` gives them back.

    Calls are in OpenAI's form with the arguments as JSON text, and `tools` is JSON text: structs
    would merge the keys of different tools. Raises SodError when the file cannot be written.
    """
    columns = {
        "id": pa.array([c.id for c in conversations], pa.string()),
        "messages": pa.array([[_raw(m) for m in c.messages] for c in conversations], pa.list_(_MESSAGE)),
        "tools": pa.array([_json(list(c.tools)) for c in conversations], pa.string()),
    }
    _write(Path(path), pa.table(columns))


def _raw(message: Message) -> Row:
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": _json(call.arguments)}}
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": message.content, "name": message.name, "tool_calls": calls or None}


def _json(value: Any) -> str:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)


def _same_scalars(extras: Sequence[Row]) -> bool:
    """Whether arrow can hold them as structs and give them back unchanged."""
    kinds = {key: type(value) for key, value in extras[0].items()}
    if not kinds or not all(re.fullmatch(r"\w+", key) for key in kinds):
        return False
    int64 = range(-(2**63), 2**63)
    return set(kinds.values()) <= {str, int, float, bool} and all(
        {key: type(value) for key, value in extra.items()} == kinds
        and all(value in int64 for value in extra.values() if isinstance(value, int))
        for extra in extras
    )


def _write(path: Path, table: pa.Table) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise SodError(f"{path}: cannot write ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
