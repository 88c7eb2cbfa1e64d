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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import pyarrow as pa
import pyarrow.parquet as pq

from sod.records import Message, SodError, Task
from sod.tasks.base import Conversation
from sod.tasks.formats.base import BadRowError, Fields, Row, Shape, decoded
from sod.tasks.formats.columns import column_of
from sod.tasks.formats.conversation_shapes import CONVERSATION_SHAPES
from sod.tasks.formats.flat import PROMPT_ALONE
from sod.tasks.formats.shapes import TASK_SHAPES
from sod.tasks.formats.world import WORLD
from sod.tasks.loaded import Loaded, SkippedRow, number_in_file
from sod.tasks.media import refuse_media
from sod.tasks.own_runs import OwnPrompts, with_episode_files
from sod.tasks.renamed import listed, refuse_absent, renamed, unknown_shape
from sod.tasks.sources import Source, read_parts, shown, without_nones
from sod.tasks.tables import json_or_none
from sod.tasks.truths import ground_truth_column
from sod.tasks.wording import Wording

T = TypeVar("T")
OF_CONVERSATIONS = ("messages", "conversations", "completion")
"""Names of `data.columns` that say nothing about tasks; those of tasks say nothing about conversations."""


OF_TASKS = ("prompt", "ground_truth")
OF_SFT = ("messages",)
_OTHER_KIND = {
    OF_TASKS: "its rows are conversations, as data.sft takes them; tasks need a column with the answer to check",
    OF_TASKS[:1]: "its rows are conversations, as data.sft takes them; tasks need a column with the prompt",
    OF_SFT: "its rows are tasks, as data.train takes them; conversations need a column with the assistant's messages",
}


def load_tasks(
    source: Source,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    suffix: str | None = None,
    truths: bool = True,
) -> Loaded[Task]:
    """RL tasks from files, folders, globs, and data sets of the Hub (`sources`), in the shapes of `formats.shapes`.

    The task id is `id` or what sets call it (`_IDS`), else `extra_info.id`, else `extra_info.index`, else
    `<file stem>-<row>`; an id seen before gets its row number appended. `split` is one of a Hub data set, of a folder
    or of a JSON file with a list for each. `columns` says what a column is (`renamed`), `system` and `suffix` what is
    added to prompts (`wording`). A row needs a truth where `truths` says so. Raises SodError when a source cannot be
    used at all.
    """
    wording = Wording(system, suffix)

    def read(shape: Shape[Task], fields: Fields, name: str) -> Task:
        try:
            task = shape.read(fields, name)
        except BadRowError:
            if truths or not PROMPT_ALONE.matches(fields.row):
                raise
            task = PROMPT_ALONE.read(fields, name)  # a row of another shape may lack its truth
        return replace(task, prompt=wording.apply(task.prompt, fields.remark))

    asked = {target: column for target, column in (columns or {}).items() if target not in OF_CONVERSATIONS}
    shapes = TASK_SHAPES if truths else (*TASK_SHAPES, PROMPT_ALONE)
    return _load(source, split, asked, shapes, OF_TASKS if truths else OF_TASKS[:1], read)


def load_world_tasks(
    source: Source,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    suffix: str | None = None,
) -> Loaded[Task]:
    """The tasks of an environment: any rows, whole in `Task.extra`, with a prompt and a truth where they have some.

    All else as in `load_tasks`.
    """
    wording = Wording(system, suffix)

    def read(shape: Shape[Task], fields: Fields, name: str) -> Task:
        task = shape.read(fields, name)
        return replace(task, prompt=wording.apply(task.prompt, fields.remark)) if task.prompt else task

    asked = {target: column for target, column in (columns or {}).items() if target not in OF_CONVERSATIONS}
    return _load(source, split, asked, (WORLD,), OF_TASKS, read)


def load_conversations(
    source: Source,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    suffix: str | None = None,
) -> Loaded[Conversation]:
    """SFT conversations in one of the shapes of `formats.conversation_shapes`; all else as in `load_tasks`.

    A source may be a run directory of ours too: its episodes are read, see `formats.sft_trajectory`. What a row calls
    need not be declared in it: the run may have the tool. Raises SodError.
    """
    wording = Wording(system, suffix)
    source = with_episode_files(source)
    prompts = OwnPrompts(source, load_tasks)

    def read(shape: Shape[Conversation], fields: Fields, name: str) -> Conversation:
        prompts.fill(fields)
        conversation = shape.read(fields, name)
        return replace(conversation, messages=wording.apply(conversation.messages, fields.remark))

    own = {*OF_CONVERSATIONS, "tools", "id"} | ({"prompt"} if "completion" in (columns or {}) else set())
    asked = {target: column for target, column in (columns or {}).items() if target in own}
    return _load(source, split, asked, CONVERSATION_SHAPES, OF_SFT, read)


def _load(
    source: Source,
    split: str,
    columns: Mapping[str, str],
    shapes: tuple[Shape[T], ...],
    wanted: tuple[str, ...],
    read: Callable[[Shape[T], Fields, str], T],
) -> Loaded[T]:
    parts = read_parts(source, split)
    refuse_absent(shown(source), [row for part in parts for _, row in part.rows], columns)
    gathered: _Gathered[T] = _Gathered()
    for part in parts:
        gathered.skipped += part.skipped
        rows = [row for _, row in part.rows]
        seen = (renamed(_opened(row), columns).row for row in rows)
        first = next((shape for row in seen for shape in shapes if shape.matches(row)), None)
        if first is None:
            others = TASK_SHAPES if wanted == OF_SFT else CONVERSATION_SHAPES
            if any(shape.matches(_opened(row)) for row in rows[:100] for shape in others):
                raise SodError(f"{part.name}: {_OTHER_KIND[wanted]}; columns: {listed(rows)}")
            raise unknown_shape(part.name, rows, wanted)
        for number, row in part.rows:
            try:
                fields = renamed(_opened(row), columns)
                refuse_media(fields.row)
                # A row that no shape knows is read as the first of its file: what it lacks is the reason to skip it.
                shape = next((shape for shape in shapes if shape.matches(fields.row)), first)
                name = gathered.free_name(row_id(fields) or f"{part.stem}-{number_in_file(number)}", number)
                gathered.add(number, name, read(shape, fields, name), shape.name, fields)
            except BadRowError as error:
                gathered.skipped.append(SkippedRow(number, str(error)))
            except RecursionError:
                gathered.skipped.append(SkippedRow(number, "nested too deep"))
    return gathered.loaded().refuse_empty(shown(source))


@final
class _Gathered(Generic[T]):
    """What was read of a source so far."""

    def __init__(self) -> None:
        self.skipped: list[SkippedRow] = []
        self._items: list[T] = []
        self._rows: list[int] = []
        self._names: set[str] = set()
        self._counts: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())

    def free_name(self, name: str, number: int) -> str:
        """A name that no row before has: `name`, or that with the row's number behind it."""
        while name in self._names:
            name = f"{name}-{number_in_file(number)}"
        return name

    def add(self, number: int, name: str, item: T, shape: str, fields: Fields) -> None:
        """A row that was read as `item`."""
        self._items.append(item)
        self._rows.append(number)
        self._names.add(name)
        for counter, found in zip(self._counts, (fields.unused(), [shape], [*fields.remarks]), strict=True):
            counter.update(found)

    def loaded(self) -> Loaded[T]:
        """All of it."""
        skipped = sorted(self.skipped, key=lambda skip: skip.row)
        return Loaded(self._items, skipped, self._rows, *self._counts)


_IDS = ("id", "task_id", "unique_id", "problem_id", "question_id", "record_id", "query_id", "uuid", "uid", "_id")
_OPENED = (
    *("reward_model", "reward_spec", "extra_info", "metadata", "info", "extra_fields"),
    *("responses_create_params", "verifier_metadata", "verification_info"),
)
"""Columns that hold a mapping, which some writers store as JSON text."""


def row_id(fields: Fields) -> str | None:
    """The row's own id, all of which count as used."""
    columns = [column_of(fields.row, [name]) for name in _IDS]
    names = [fields.use(column) for column in columns if column is not None]
    extra = decoded(fields.row.get("extra_info"), "extra_info", dict)
    names += [fields.use("extra_info", name) for name in ("id", "index") if name in extra]
    return next((str(name) for name in names if isinstance(name, str | int | float)), None)


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
    """Write conversations, atomically, such that `load_conversations` gives them back: `.jsonl`, else as parquet.

    Calls are in OpenAI's form with the arguments as JSON text. In parquet `tools` is JSON text too: structs would merge
    the keys of different tools. Raises SodError when the file cannot be written.
    """
    if Path(path).suffix == ".jsonl":
        lines = "".join(f"{_json(_line(conversation))}\n" for conversation in conversations)
        _replace(Path(path), lambda file: file.write_text(lines, encoding="utf-8"))
        return
    columns = {
        "id": pa.array([c.id for c in conversations], pa.string()),
        "messages": pa.array([[_raw(m) for m in c.messages] for c in conversations], pa.list_(_MESSAGE)),
        "tools": pa.array([_json(list(c.tools)) for c in conversations], pa.string()),
    }
    if any(c.reward is not None for c in conversations):
        columns["reward"] = pa.array([c.reward for c in conversations], pa.float64())
    _write(Path(path), pa.table(columns))


def _line(conversation: Conversation) -> Row:
    """A conversation as a row of JSON, without what is not there."""
    messages = [without_nones(_raw(message)) for message in conversation.messages]
    row = {"id": conversation.id, "messages": messages, "tools": list(conversation.tools)}
    return row if conversation.reward is None else {**row, "reward": conversation.reward}


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
    _replace(path, lambda file: pq.write_table(table, file))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` write a file, and put it in its place once it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise SodError(f"{path}: cannot write ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
