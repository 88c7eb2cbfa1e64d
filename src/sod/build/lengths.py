"""How many tokens every prompt of a run takes, found out once: later starts read it from a file.

The files lie in `$XDG_CACHE_HOME/sod/lengths` (`~/.cache/sod/lengths`), one for each set of prompts and each way to
encode them, 5 bytes a prompt; deleting them costs nothing but the time to encode again. A file's name is a hash of the
prompts and of all that their encoding depends on: the tokenizer, the template and its arguments, the tools, the
versions of the libraries and the code of `sod.chat`. What a file says is checked against a few prompts all the same,
and one that is damaged, or wrong, is written anew. Processes may share them: a file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from sod.chat.render import Chat
from sod.records import Message, Task
from sod.report.console import progress

KEPT = 200
"""So many files are kept, those read or written last."""
FEW = 500
"""Fewer prompts are encoded sooner than a tokenizer is hashed."""
CHECKED = 4


def prompt_lengths(tasks: Sequence[Task], chat: Chat, template_kwargs: Mapping[str, Any]) -> list[int]:
    """The tokens of every task's prompt, in order; with a progress bar where they have to be encoded.

    Raises SodError where the chat's template does not render a prompt.
    """
    if len(tasks) < FEW:
        return [_length(task, chat) for task in tasks]
    path = _folder() / f"{_key(tasks, chat, template_kwargs)}.json"
    known = _read(path, len(tasks))
    if known is not None and all(known[at] == _length(tasks[at], chat) for at in _probes(known)):
        return known
    lengths = _encoded(tasks, lambda task: _length(task, chat))
    _write(path, lengths)
    return lengths


def _length(task: Task, chat: Chat) -> int:
    return len(chat.prompt_ids(task.prompt))


def _encoded(tasks: Sequence[Task], length: Callable[[Task], int]) -> list[int]:
    lengths = []
    with progress("encoding prompts", len(tasks), "prompts") as bar:
        for number, task in enumerate(tasks, 1):
            lengths.append(length(task))
            if number % 100 == 0:
                bar.update(bar.task_ids[0], completed=number)
    return lengths


def _probes(lengths: Sequence[int]) -> list[int]:
    """The prompts that a file is checked with: the first ones, the longest and the last."""
    longest = max(range(len(lengths)), key=lambda at: lengths[at])
    return [*range(CHECKED), longest, len(lengths) - 1]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sod" / "lengths"


def _key(tasks: Sequence[Task], chat: Chat, template_kwargs: Mapping[str, Any]) -> str:
    tokenizer = chat.tokenizer
    probe = [Message("user", "7?"), Message("assistant", "7")]
    how = [
        hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode("utf-8", "replace")).hexdigest(),
        chat.template or tokenizer.chat_template,
        chat.conversation_text(probe),  # with what a template takes from elsewhere: a token's text, the date
        template_kwargs,
        chat.tools,
        [transformers.__version__, tokenizers.__version__, _code()],
    ]
    digest = hashlib.sha256(_text(how))
    for task in tasks:
        digest.update(_text([_plain(message) for message in task.prompt]))
    return digest.hexdigest()


def _plain(message: Message) -> list[Any]:
    calls = [[call.name, dict(call.arguments), call.id] for call in message.tool_calls]
    return [message.role, message.content, calls, message.name, message.reasoning]


def _text(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()  # in ASCII, so that lone surrogates do no harm


@cache
def _code() -> str:
    """A hash of the code that renders and encodes."""
    digest = hashlib.sha256()
    for file in _code_files(files("sod.chat")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _code_files(folder: Traversable) -> Iterable[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _code_files(entry)
        elif entry.name.endswith((".py", ".jinja")):
            yield entry


def _read(path: Path, count: int) -> list[int] | None:
    """The lengths in a file; None where there is none that can be relied on."""
    try:
        found = json.loads(path.read_bytes())
        lengths = found["lengths"]
        whole = len(lengths) == count and all(type(length) is int and length > 0 for length in lengths)
        if not whole or found["sha256"] != hashlib.sha256(_text(lengths)).hexdigest():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(lengths)


def _write(path: Path, lengths: Sequence[int]) -> None:
    """Write the file whole, and remove those least lately used; a folder that cannot be written does no harm."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"lengths": list(lengths), "sha256": hashlib.sha256(_text(list(lengths))).hexdigest()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(_text(content))
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        by_age = sorted(path.parent.glob("*.json"), key=lambda file: -file.stat().st_mtime)
        for old in by_age[KEPT:]:
            old.unlink(missing_ok=True)
