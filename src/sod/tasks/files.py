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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, final

import pyarrow as pa
import pyarrow.parquet as pq

from sod.hub import is_cached_dataset, is_hub_id, unreachable, why_unreachable
from sod.records import ROLES, Message, Role, SodError, Task, ToolCall
from sod.tasks.base import Conversation
from sod.tasks.tables import json_or_none, json_values, read_table
from sod.tasks.truths import ground_truth_column, truths_of

T = TypeVar("T")
Row = dict[str, Any]

_FILE_SUFFIXES = {".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst"}
_NAMED_SKIPS = 3  # so many skipped rows are named in a message; all are counted


@final
@dataclass(frozen=True)
class SkippedRow:
    """A row (from 0) that was not used, and why."""

    row: int
    reason: str


@final
@dataclass(frozen=True)
class Loaded(Generic[T]):
    """The usable rows of a source, in order, and those that were skipped; `rows` are the numbers of the usable ones."""

    items: list[T]
    skipped: list[SkippedRow]
    rows: list[int] = field(default_factory=list, compare=False)

    def summary(self) -> str:
        """One line: "7,400 rows, 3 skipped: row 5: no assistant message; ..."."""
        return f"{len(self.items):,} rows" + (f", {_skips_line(self.skipped)}" if self.skipped else "")

    def refuse_empty(self, source: str) -> Loaded[T]:
        """Itself. Raises SodError, naming the first skipped rows, where there is no usable one."""
        if not self.items:
            raise SodError(f"{source}: no usable row, {_skips_line(self.skipped)}")
        return self


class _BadRowError(Exception):
    """Why a row is skipped; never leaves this module."""


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
    stem = path.stem if path.suffix in _FILE_SUFFIXES else path.name  # "owner/model-v1.1" has no suffix
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
        except _BadRowError as error:
            skipped.append(SkippedRow(number, str(error)))
        except RecursionError:
            skipped.append(SkippedRow(number, "nested too deep"))
    skipped.sort(key=lambda skip: skip.row)
    return Loaded(items, skipped, used).refuse_empty(source)


def _skips_line(skipped: Sequence[SkippedRow]) -> str:
    named = [f"row {skip.row}: {skip.reason}" for skip in skipped[:_NAMED_SKIPS]]
    more = len(skipped) - len(named)
    return f"{len(skipped):,} skipped: " + "; ".join(named) + (f"; and {more:,} more" if more else "")


def is_file_source(source: str) -> bool:
    """Whether a data key names a file, there or not, and no data set of the Hub."""
    path = Path(source)
    return path.is_file() or path.suffix in _FILE_SUFFIXES or not is_hub_id(source)


def read_rows(
    source: str, needed: tuple[str, ...], optional: tuple[str, ...] = (), split: str = "train"
) -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    """(row number, row) for each row as plain Python, and the rows that are not JSON objects.

    Of parquet and Hub tables only the columns in `needed` and `optional` are read. Raises SodError
    when the source does not exist, is empty or unreadable, or lacks a needed column.
    """
    path = Path(source)
    skipped: list[SkippedRow] = []
    if path.is_file():
        if path.suffix == ".parquet":
            columns, rows = _read_parquet(path, needed + optional)
        elif path.suffix in (".jsonl", ".json"):
            columns, rows, skipped = _read_json(path)
        else:
            raise SodError(f"{source}: unknown suffix '{path.suffix}', expected .parquet, .jsonl or .json")
    elif not is_file_source(source):
        columns, rows = _read_hub(source, split, needed + optional)
    else:
        raise SodError(f"{source}: no such data file")
    if not rows:
        raise SodError(f"{source}: " + (f"no usable row, {_skips_line(skipped)}" if skipped else "no rows"))
    if missing := [column for column in needed if column not in columns]:
        raise SodError(f"{source}: no column '{missing[0]}' (columns found: {', '.join(columns) or 'none'})")
    return rows, skipped


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> tuple[list[str], list[tuple[int, Row]]]:
    try:
        columns, rows = read_table(path, wanted)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SodError(f"{path}: not a readable parquet file ({_one_line(error)})") from error
    if rows is None:  # none of our columns; the caller names the missing one
        return columns, [(0, {})]
    return columns, [(n, _without_nones(row)) for n, row in enumerate(rows)]


def _read_json(path: Path) -> tuple[list[str], list[tuple[int, Row]], list[SkippedRow]]:
    try:
        values = json_values(path)
    except (ValueError, RecursionError, OSError, MemoryError) as error:
        raise SodError(f"{path}: not readable as JSON ({_one_line(error)})") from error
    rows = [(n, value) for n, (_, value) in enumerate(values) if isinstance(value, dict)]
    bad = [(n, where) for n, (where, value) in enumerate(values) if not isinstance(value, dict)]
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    return columns, rows, [SkippedRow(n, f"{where} a JSON object") for n, where in bad]


def _read_hub(source: str, split: str, wanted: tuple[str, ...]) -> tuple[list[str], list[tuple[int, Row]]]:
    try:
        import datasets  # optional: only this branch needs it
    except ImportError as error:
        raise SodError(f"{source}: no such file; for the Hub, pip install 'sod-distill[hub]'") from error
    reason = why_unreachable()
    if reason is not None and not is_cached_dataset(source):
        raise unreachable(source, "data file", reason)
    try:
        table = datasets.load_dataset(source, split=split, trust_remote_code=False)
    except Exception as error:  # the client raises many unrelated types (network, hub, arrow, scripts)
        raise SodError(f"{source}: cannot load split '{split}' from the Hub ({_one_line(error)})") from error
    columns = list(table.column_names)
    kept = table.select_columns([name for name in wanted if name in columns])
    return columns, [(n, _without_nones(row)) for n, row in enumerate(kept)]


def _without_nones(value: Any) -> Any:
    """Drop None-valued keys: arrow gives every struct the keys of all rows."""
    if isinstance(value, dict):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nones(item) for item in value]
    return value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _row_id(row: Row) -> str | None:
    extra = _decoded(row.get("extra_info"), "extra_info", dict)
    names = (row.get("id"), extra.get("id"), extra.get("index"))
    return next((str(name) for name in names if name is not None), None)


def _task(row: Row, name: str) -> Task:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        prompt = _chat_or_none(prompt) or [{"role": "user", "content": prompt}]
    truths = truths_of(_decoded(row.get("reward_model"), "reward_model", dict).get("ground_truth"))
    if not truths:
        raise _BadRowError("no reward_model.ground_truth")
    return Task(
        id=name,
        prompt=_messages(prompt, "prompt", declared=None),
        ground_truth=truths[0],
        truths=truths[1:],
        data_source=str(row.get("data_source") or "unknown"),
        extra=_decoded(row.get("extra_info"), "extra_info", dict),
    )


def _conversation(row: Row, name: str) -> Conversation:
    tools = _decoded(row.get("tools"), "tools", list)
    declared = frozenset(_function(tool, "a declared tool")[0] for tool in tools)
    messages = _messages(row.get("messages"), "messages", declared)
    if not any(message.role == "assistant" for message in messages):
        raise _BadRowError("no assistant message")
    return Conversation(id=name, messages=messages, tools=tuple(tools))


def _messages(raw: Any, column: str, declared: frozenset[str] | None) -> tuple[Message, ...]:
    """`declared` are the names that may be called; None where the run declares the tools."""
    messages: list[Message] = []
    unanswered: list[tuple[str | None, str]] = []  # (call id, tool name)
    for item in _decoded(raw, column, list):
        role = item.get("role") if isinstance(item, dict) else None
        if role not in ROLES:
            raise _BadRowError(f"unknown role {role!r}")
        calls = _calls(_decoded(item.get("tool_calls"), "tool_calls", list), declared)
        if calls and role != "assistant":
            raise _BadRowError(f"{role} message with tool_calls")
        name = _answer(unanswered, item) if role == "tool" else None
        if role != "tool":
            unanswered = [(ident, call.name) for ident, call in calls]
        content = _content(item, may_be_empty=bool(calls))
        messages.append(Message(cast(Role, role), content, tuple(call for _, call in calls), name))
    if not messages:
        raise _BadRowError(f"no {column}")
    return tuple(messages)


def _calls(raw: list[Any], declared: frozenset[str] | None) -> list[tuple[str | None, ToolCall]]:
    calls: list[tuple[str | None, ToolCall]] = []
    for item in raw:
        name, function = _function(item, "a tool call")
        if declared is not None and name not in declared:
            raise _BadRowError(f"tool '{name}' is not declared")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = json_or_none(arguments)
        if not isinstance(arguments, dict):
            raise _BadRowError(f"the arguments of a call to '{name}' are no JSON object")
        calls.append((item.get("id"), ToolCall(name, arguments)))
    return calls


def _function(item: Any, what: str) -> tuple[str, Row]:
    """The name and body of a call or a declaration, in OpenAI's form or flat."""
    function = (item.get("function") or item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _BadRowError(f"{what} has no name")
    return function["name"], function


def _answer(unanswered: list[tuple[str | None, str]], item: Row) -> str | None:
    """Take the call this tool message answers off the list; the tool's name if the row tells it."""
    if not unanswered:
        raise _BadRowError("tool message with no preceding call")
    ident = item.get("tool_call_id")
    match = next((n for n, (call, _) in enumerate(unanswered) if ident is not None and call == ident), None)
    _, called = unanswered.pop(match or 0)
    name = item.get("name")
    return name if isinstance(name, str) else (called if match is not None else None)


def _content(item: Row, may_be_empty: bool) -> str:
    content = item.get("content")
    if content is None and may_be_empty:
        return ""
    if not isinstance(content, str):
        raise _BadRowError(f"{item['role']} message without text content")
    try:
        content.encode()  # a lone surrogate (JSON can spell one) would fail only at the tokenizer
    except UnicodeEncodeError as error:
        raise _BadRowError(f"{item['role']} message is not valid Unicode") from error
    return content


def _decoded(value: Any, column: str, kind: type[T]) -> T:
    """A nested column, from JSON text if need be; empty if the row has none."""
    if isinstance(value, str):
        text, value = value, json_or_none(value)
        if value is None and text not in ("", "null"):
            raise _BadRowError(f"{column} is a string but not JSON")
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise _BadRowError(f"{column} is not a {kind.__name__} but {type(value).__name__}")
    return value


def _chat_or_none(text: str) -> list[Any] | None:
    """The messages of a prompt stored as JSON; None for a prompt that is simply text."""
    value = json_or_none(text) if text.lstrip().startswith("[") else None
    if isinstance(value, list) and value and all(isinstance(m, dict) and "role" in m for m in value):
        return value
    return None


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
