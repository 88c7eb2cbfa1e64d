"""Tasks and conversations from parquet, JSONL or the Hub, in the shapes of `sod.tasks.formats`.

Rows are counted from 0. A row that cannot be used is skipped with a named reason and counted; a file
that cannot be used stops the run. Nested columns may be JSON strings: some writers store them so,
because arrow structs cannot hold rows of different shapes.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, final

import pyarrow as pa
import pyarrow.parquet as pq

from sod.records import Message, SodError, Task
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape, decoded
from sod.tasks.formats.conversation_shapes import CONVERSATION_SHAPES
from sod.tasks.formats.shapes import TASK_SHAPES
from sod.tasks.loaded import Loaded, SkippedRow
from sod.tasks.own_runs import episode_files, with_prompts
from sod.tasks.sources import FILE_SUFFIXES, read_rows
from sod.tasks.tables import json_or_none
from sod.tasks.truths import ground_truth_column

T = TypeVar("T")


def load_tasks(source: str, split: str = "train") -> Loaded[Task]:
    """RL tasks from a `.parquet`, `.jsonl` or `.json` file, or from a Hub data set `owner/name`.

    The rows have one of the shapes in `formats.shapes`. The task id is `id`, else `extra_info.id`, else
    `extra_info.index`, else `<file stem>-<row>`; an id seen before gets its row number appended.
    `split` (Hub only) is ignored for files. Raises SodError when the source cannot be used at all.
    """
    return _load(source, split, TASK_SHAPES)


def load_conversations(source: str, split: str = "train") -> Loaded[Conversation]:
    """SFT conversations in one of the shapes of `formats.conversation_shapes`; sources as in `load_tasks`.

    A source may be a run directory of ours too: its episodes are read, see `formats.sft_trajectory`. What a row calls
    need not be declared in it: the run may have the tool. Raises SodError.
    """
    rows: list[tuple[int, Row]] = []
    skipped: list[SkippedRow] = []
    before = 0
    for file in episode_files(source):
        read, bad = read_rows(file, split)
        rows += [(before + number, row) for number, row in with_prompts(read, file, load_tasks)]
        skipped += [SkippedRow(before + skip.row, skip.reason) for skip in bad]
        before += len(read) + len(bad)
    return _loaded(source, rows, skipped, CONVERSATION_SHAPES)


def _load(source: str, split: str, shapes: tuple[Shape[T], ...]) -> Loaded[T]:
    rows, skipped = read_rows(source, split)
    return _loaded(source, rows, skipped, shapes)


def _loaded(
    source: str, rows: list[tuple[int, Row]], skipped: list[SkippedRow], shapes: tuple[Shape[T], ...]
) -> Loaded[T]:
    first = next((shape for _, row in rows for shape in shapes if shape.matches(row)), None)
    if first is None:
        columns = ", ".join(dict.fromkeys(name for _, row in rows for name in row)) or "none"
        raise SodError(f"{source}: its rows are of no known shape (columns found: {columns})")
    path = Path(source)
    stem = path.stem if path.suffix in FILE_SUFFIXES else path.name  # "owner/model-v1.1" has no suffix
    items: list[T] = []
    used: list[int] = []
    seen: set[str] = set()
    counts = _Counts()
    for number, row in rows:
        try:
            name = _row_id(row) or f"{stem}-{number}"
            while name in seen:
                name = f"{name}-{number}"
            # A row that no shape knows is read as the first of its file: what it lacks is the reason to skip it.
            shape = next((shape for shape in shapes if shape.matches(row)), first)
            fields = Fields(_opened(row))
            items.append(shape.read(fields, name))
            used.append(number)
            seen.add(name)
            counts.add(shape.name, fields)
        except BadRowError as error:
            skipped.append(SkippedRow(number, str(error)))
        except RecursionError:
            skipped.append(SkippedRow(number, "nested too deep"))
    skipped.sort(key=lambda skip: skip.row)
    loaded = Loaded(items, skipped, used, counts.unused, counts.shapes, counts.remarks)
    return loaded.refuse_empty(source)


@final
class _Counts:
    """What the read rows of a source have in common, counted."""

    def __init__(self) -> None:
        self.unused: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def add(self, shape: str, fields: Fields) -> None:
        """Count a row that was read, and what its id was taken from."""
        for path in _ID_PATHS:
            fields.use(*path)
        self.shapes[shape] += 1
        self.unused.update(fields.unused())
        self.remarks.update(fields.remarks)


_ID_PATHS = (("id",), ("extra_info", "id"), ("extra_info", "index"))
_OPENED = ("reward_model", "extra_info")


def _row_id(row: Row) -> str | None:
    extra = decoded(row.get("extra_info"), "extra_info", dict)
    names = (row.get("id"), extra.get("id"), extra.get("index"))
    return next((str(name) for name in names if name is not None), None)


def _opened(row: Row) -> Row:
    """The row with the mappings that it stores as JSON text as mappings, so that what is in them can be told apart."""
    opened = dict(row)
    for name in _OPENED:
        value = json_or_none(row[name]) if isinstance(row.get(name), str) else None
        if isinstance(value, dict):
            opened[name] = value
    return opened


_FUNCTION = pa.struct([("name", pa.string()), ("arguments", pa.string())])
_CALL = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", _FUNCTION)])
_PLAIN_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGE = pa.struct(
    [
        *_PLAIN_MESSAGE,
        ("name", pa.string()),
        ("tool_calls", pa.list_(_CALL)),
        ("reasoning_content", pa.string()),
        ("weight", pa.float64()),
    ]
)
_REWARD = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])


def write_tasks(path: str | Path, tasks: Sequence[Task]) -> None:
    """Write tasks as parquet, atomically, such that `load_tasks` gives them back.

    `extra_info` is a struct where every task has the same scalar keys (what verl reads), else a JSON
    string. Raises SodError when the file cannot be written.
    """
    plain = all(m == Message(m.role, m.content) for task in tasks for m in task.prompt)
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
    if any(c.reward is not None for c in conversations):
        columns["reward"] = pa.array([c.reward for c in conversations], pa.float64())
    _write(Path(path), pa.table(columns))


def _raw(message: Message) -> Row:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _json(call.arguments)}}
        for call in message.tool_calls
    ]
    return {
        "role": message.role,
        "content": message.content,
        "name": message.name,
        "tool_calls": calls or None,
        "reasoning_content": message.reasoning,
        "weight": None if message.weight == 1.0 else message.weight,
    }


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
