"""Lengths of prompts from a file: as encoded, found by content, rewritten where damaged, shared by processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.build import lengths
from sod.build.lengths import prompt_lengths
from sod.chat.render import Chat
from sod.records import Message, Task

TASKS = [Task(f"t{n}", (Message("system", "Be brief."), Message("user", f"{n} " * (n + 1))), "4") for n in range(30)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Task]:
    """The tasks whose prompts had to be encoded, with files in a place of their own and used for few prompts too."""
    found: list[Task] = []
    whole: Callable[[Task, Chat], int] = lengths._length

    def counted(task: Task, chat: Chat) -> int:
        found.append(task)
        return whole(task, chat)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lengths, "FEW", 0)
    monkeypatch.setattr(lengths, "_length", counted)
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder / "sod" / "lengths").iterdir())


def test_a_second_start_encodes_a_few_prompts_only(encoded: list[Task], chat: Chat, tmp_path: Path) -> None:
    first = prompt_lengths(TASKS, chat, {})
    assert first == [len(chat.prompt_ids(task.prompt)) for task in TASKS]
    assert len(encoded) == len(TASKS)
    encoded.clear()
    assert prompt_lengths(TASKS, chat, {}) == first
    assert {task.id for task in encoded} == {"t0", "t1", "t2", "t3", "t29"}
    assert len(files(tmp_path)) == 1


def test_what_changes_a_length_is_encoded_anew(encoded: list[Task], chat: Chat, tokenizer: Any, tmp_path: Path) -> None:
    """Another prompt, tool or argument of the template; what a verifier needs changes none."""
    prompt_lengths(TASKS, chat, {})
    for tasks, other, kwargs in [
        ([*TASKS[:-1], replace(TASKS[-1], prompt=(Message("user", "other"),))], chat, {}),
        (TASKS, Chat(tokenizer, [], template="hermes"), {}),
        (TASKS, chat, {"loud": 2}),
        (TASKS[:-1], chat, {}),
    ]:
        encoded.clear()
        assert prompt_lengths(tasks, other, kwargs) == [len(other.prompt_ids(task.prompt)) for task in tasks]
        assert len(encoded) == len(tasks)
    encoded.clear()
    prompt_lengths([replace(task, ground_truth="5") for task in TASKS], chat, {})
    assert len(encoded) < len(TASKS)
    assert len(files(tmp_path)) == 5


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no JSON": lambda data: b"\xff\x00" + data,
    "a list": lambda data: b"[1, 2]",
    "too deep": lambda data: b"[" * 100_000,
    "fewer": lambda data: signed(json.loads(data)["lengths"][:-1]),
    "no numbers": lambda data: signed([None] * len(TASKS)),
    "another number": lambda data: data.replace(b"[", b"[1", 1),
    "wrong, but whole": lambda data: signed([length + 1 for length in json.loads(data)["lengths"]]),
}


def signed(found: list[Any]) -> bytes:
    """A whole file that says these lengths."""
    place = Path(os.environ["XDG_CACHE_HOME"]) / "signed.json"
    lengths._write(place, found)
    return place.read_bytes()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_written_anew(name: str, encoded: list[Task], chat: Chat, tmp_path: Path) -> None:
    first = prompt_lengths(TASKS, chat, {})
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[name](whole))
    assert prompt_lengths(TASKS, chat, {}) == first
    assert file.read_bytes() == whole


def test_a_place_that_cannot_be_written_does_no_harm(
    encoded: list[Task], chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert prompt_lengths(TASKS, chat, {}) == [len(chat.prompt_ids(task.prompt)) for task in TASKS]


def test_processes_that_write_the_same_file_leave_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    children = []
    for number in (1, 2):
        child = os.fork()
        if child == 0:
            for _ in range(100):
                lengths._write(path, [number] * 2000)
            os._exit(0)
        children.append(child)
    seen = set()
    while children:
        if path.exists():
            found = lengths._read(path, 2000)
            assert found is not None
            seen.add(found[0])
        if os.waitpid(children[0], os.WNOHANG)[0]:
            children.pop(0)
    assert seen <= {1, 2}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_oldest_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "KEPT", 3)
    for number in range(5):
        lengths._write(tmp_path / f"{number}.json", [1])
        os.utime(tmp_path / f"{number}.json", (number, number))
    lengths._write(tmp_path / "5.json", [1])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["3.json", "4.json", "5.json"]


def test_few_prompts_need_no_file(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(prompt_lengths(TASKS, chat, {})) == len(TASKS)
    assert not (tmp_path / "sod").exists()
