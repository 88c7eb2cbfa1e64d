"""`sod env`: worlds listed, played by hand and by their experts, and written down as conversations."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.environments.catalogue import CATALOGUE
from sod.records import ToolCall
from sod.report import console
from sod.tasks.files import load_conversations

SMALL = ("people=40", "train=8", "validation=3")
COUNTER = """
ADD = {"name": "add", "description": "Add.", "parameters": {"properties": {"number": {"type": "integer"}}}}

class Counter:
    def __init__(self, goal=3, broken=False):
        self.goal, self.broken = goal, broken

    def tasks(self, split):
        return [{"id": f"{split}-{n}", "prompt": f"Game {n}."} for n in range(2)]

    def reset(self, task, seed):
        self.total = 0
        return f"Count to {self.goal}.", [ADD]

    def step(self, action):
        if isinstance(action, str):
            return "Call add.", 0.0, False
        self.total += action[0].arguments["number"]
        return [f"At {self.total}."], float(self.total == self.goal), self.total >= self.goal
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counter.py").write_text(COUNTER)


def typing(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What stands in the pipe that the command reads."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_the_list_names_every_world(sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "_width", 160)  # else the table is folded to 80 columns
    ended = sod("env", "list")
    assert ended.code == 0
    assert all(world.name in ended.out and world.path in ended.out for world in CATALOGUE)


def test_a_world_of_ones_own_is_played_from_a_pipe(sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, "hello", "add 1", 'add {"number"', "", "!", "?", "add 2", "add 5")
    ended = sod("env", "play", "./counter.py:Counter", "--task", "1")
    assert ended.code == 0, ended.err
    said = ended.out
    shown = (
        "task train-1",
        "Game 1.",
        "Count to 3.",
        "add NUMBER: Add.",
        "> hello",
        "Call add.",
        "At 1.",
        "At 3.",
    )
    assert [text for text in shown if text not in said] == []
    assert "Counter has no expert()" in said
    assert "Counter has no choices()" in said
    assert said.splitlines()[-1] == "over after 3 turns, reward 1: the goal is reached"
    assert "> add 5" not in said


def test_choices_are_numbered_and_taken_by_number(sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, "?", "?1", "?9", "?", "! ", "<answer>nothing</answer>")
    ended = sod("env", "play", "searchqa", *SMALL)
    assert ended.code == 0, ended.err
    assert "  1  search" in ended.out
    assert "  2  search" in ended.out
    assert "? takes a number from 1 to" in ended.out
    assert "over after 2 turns, reward 0: the goal is not reached" in ended.out


def test_what_is_typed_may_end_before_the_episode(sod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(monkeypatch, "add 1")
    ended = sod("env", "play", "./counter.py:Counter")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "ended before it was over after 1 turn, reward 0: the goal is not reached"


def test_the_expert_is_watched(sod: Any) -> None:
    ended = sod("env", "play", "searchqa", *SMALL, "--expert", "--split", "validation", "--task", "validation-2")
    assert ended.code == 0, ended.err
    assert "task validation-2" in ended.out
    assert ended.out.count("> search {") == 2
    assert "over after 3 turns, reward 1: the goal is reached" in ended.out


@pytest.mark.parametrize("name", ["traces.jsonl", "traces.parquet"])
@pytest.mark.parametrize("tools", [True, False])
def test_traces_are_conversations_that_sft_reads(name: str, tools: bool, sod: Any) -> None:
    ended = sod("env", "traces", "searchqa", *SMALL, f"tools={tools}", "--tasks", "5", "--out", name)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == f"{name}: 5 conversations of 5 episodes played"
    loaded = load_conversations(name)
    assert loaded.skipped == []
    assert [conversation.reward for conversation in loaded.items] == [1.0] * 5
    first = loaded.items[0]
    between = "tool" if tools else "user"
    roles = [message.role for message in first.messages]
    assert roles == ["user", *["assistant", between] * 2, "assistant"]
    assert [tool["function"]["name"] for tool in first.tools] == (["search"] if tools else [])
    asked = first.messages[1]
    if tools:
        assert [type(call) for call in asked.tool_calls] == [ToolCall]
        assert first.messages[2].name == "search"
    else:
        assert asked.content.startswith("<search>")
    assert first.messages[-1].content.startswith("<answer>")


def test_traces_of_a_recipe_s_world_have_its_arguments_and_its_rows(sod: Any) -> None:
    questions = {"Where is the moon?": "above", "What is not known?": ""}
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in questions.items()]
    Path("rows.jsonl").write_text("\n".join(rows))
    Path("corpus.json").write_text(json.dumps([{"title": "Moon", "text": "It is above."}]))
    recipe = {
        "student": {"path": "none"},
        "environment": {"call": "searchqa", "corpus": "corpus.json", "tools": False},
        "data": {"train": "rows.jsonl"},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = sod("env", "traces", "recipe.yaml", "environment.passages=1", "--out", "t.jsonl")
    assert ended.code == 0, ended.err
    assert "1 conversations of 2 episodes played" in ended.out
    assert "in 1 episodes the expert did not reach the goal" in ended.err
    (row,) = map(json.loads, Path("t.jsonl").read_text().splitlines())
    assert [message["content"] for message in row["messages"][1:]] == [
        "<search>Where is the moon?</search>",
        "<information>\nMoon: It is above.\n</information>",
        "<answer>above</answer>",
    ]


def test_speed_is_measured(sod: Any) -> None:
    ended = sod("env", "speed", "searchqa", *SMALL, "--episodes", "20")
    assert ended.code == 0, ended.err
    figures = [line.replace("│", " ").split() for line in ended.out.splitlines()]
    assert ["reached", "the", "goal", "100.0%"] in figures
    assert any(line[:3] == ["episodes", "a", "minute"] and int(line[3].replace(",", "")) > 0 for line in figures)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("play", "serchqa"), "did you mean searchqa?"),
        (("play", "searchqa", "hpos=2"), "environment.hpos: searchqa takes no such argument; did you mean hops?"),
        (("play", "searchqa", *SMALL, "--task", "8"), "give a number from 0 to 7, or an id such as train-0"),
        (("play", "searchqa", "score=rouge"), "environment.score='rouge': an answer is scored by em or f1"),
        (("play", "./counter.py:Counter", "--expert"), "Counter has no expert()"),
        (("play", "./other.py:Counter"), "there is no file"),
        (("play", "recipe.yaml"), "recipe.yaml"),
        (("traces", "searchqa", "--out", "traces"), "written as .jsonl or .parquet"),
        (("traces", "searchqa", *SMALL, "success=2", "--out", "t.jsonl"), "in none of 8 episodes, the best earned 1"),
        (("speed", "./counter.py:Counter", "--player", "random"), "Counter has no choices()"),
    ],
)
def test_what_cannot_be_played_is_told_in_a_line(arguments: tuple[str, ...], said: str, sod: Any) -> None:
    ended = sod("env", *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_person_plays_at_a_terminal(tmp_path: Path) -> None:
    """A real terminal: lines are typed at a prompt, and Ctrl-D ends without an error."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sod", "env", "play", "./counter.py:Counter"]
    environment = {**os.environ, "SOD_ALLOCATOR": "off", "TERM": "dumb"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment)
    os.close(theirs)
    try:
        _shown(ours, b"\n> ")
        os.write(ours, b"add 1\n")
        assert b"At 1." in _shown(ours, b"\n> ")
        os.write(ours, b"\x04")
        assert b"ended before it was over after 1 turn" in _shown(ours, b"not reached")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def _shown(terminal: int, until: bytes) -> bytes:
    """What the terminal shows up to some text; fails where nothing comes any more."""
    shown = b""
    while until not in shown:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, shown
        shown += os.read(terminal, 4096)
    return shown
