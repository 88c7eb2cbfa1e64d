"""A run of two steps whose student calls a SQL tool and a search tool of the user's own, by import path."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sod.build.tools import tool_schemas
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective.batch import supervised_batch
from sod.recipe import load_recipe
from sod.records import Message, Task, ToolCall
from sod.runlog import RunLog
from sod.runlog.trajectories import trajectory_of
from sod.tasks.files import write_tasks

TOOLS = '''\
"""A SQL tool with a database for each episode, and an async search tool."""
import asyncio
import sqlite3

from sod.records import Task

TOWNS = {"Ulm": 126, "Bonn": 331}


class Sql:
    """Query the towns."""

    def start(self, task: Task) -> None:
        self.database = sqlite3.connect(":memory:")
        self.database.execute("CREATE TABLE towns (name TEXT, people INT)")
        self.database.executemany("INSERT INTO towns VALUES (?, ?)", list(TOWNS.items()))

    def __call__(self, query: str) -> str:
        """
        Query the towns.

        Args:
            query: The SELECT.
        """
        return str(self.database.execute(query).fetchall())

    def finish(self) -> None:
        self.database.close()
        raise RuntimeError("too late to matter")


async def search(word: str, task: Task) -> str:
    """
    Search.

    Args:
        word: For what.
    """
    await asyncio.sleep(0.001)
    return f"{TOWNS[word]} people ({task.id:>6})"
'''


TOWNS = (("Ulm", 126), ("Bonn", 331))


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "towns_of_a_test.py").write_text(TOOLS)
    content = {
        "student": {"path": str(tmp_path / "model")},
        "method": "grpo",
        "chat": {"template": "hermes"},
        "data": {"train": str(tmp_path / "train.parquet")},
        "tools": {
            "python": None,
            "sql": {"call": "./towns_of_a_test.py:Sql"},
            "search": {"call": "./towns_of_a_test.py:search", "max_result_tokens": 4},
        },
        "rollout": {
            "prompts": 4,
            "samples": 2,
            "max_turns": 3,
            "max_prompt_tokens": 600,
            "max_turn_tokens": 80,
            "max_response_tokens": 400,
        },
        "train": {"steps": 2, "trajectories_every": 1},
        "optim": {"lr": 1e-5},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "own.yaml"


def conversation(town: str, people: int, tool: str) -> list[Message]:
    arguments = {"query": f"SELECT people FROM towns WHERE name = '{town}'"} if tool == "sql" else {"word": town}
    return [
        Message("user", f"{tool} {town}"),
        Message("assistant", "", (ToolCall(tool, arguments),)),
        Message("tool", str(people)),
        Message("assistant", f"\\boxed{{{people}}}"),
    ]


def write_student(recipe_file: Path) -> None:
    """A tiny model that was shown how both tools are called, and tasks for it."""
    schemas = tool_schemas(load_recipe(recipe_file))
    shown = [conversation(town, n, tool) for town, n in TOWNS for tool in ("sql", "search")]
    blank = Chat(train_tokenizer([], 300), schemas, template="hermes")
    chat = Chat(train_tokenizer([blank.conversation_text(c) for c in shown], 400), schemas, template="hermes")
    student = new_qwen3(chat.tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=2048, seed=3)
    batch = supervised_batch([chat.encode_conversation(c) for c in shown])
    optimizer = torch.optim.AdamW(student.parameters(), lr=8e-3)
    for _ in range(60):
        loss = -action_logps(student, batch).sum() / batch.action_tokens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = recipe_file.parent
    save_model(student, chat.tokenizer, chat.template, chat.end_id, folder / "model")
    tasks = [Task(f"t{n}", tuple(c[:1]), c[-1].content) for n, c in enumerate(shown)]
    write_tasks(folder / "train.parquet", tasks)


@pytest.mark.slow
def test_a_run_calls_the_tools_that_its_recipe_names(recipe_file: Path, sod: Any) -> None:
    write_student(recipe_file)
    ended = sod("train", recipe_file, "--run", recipe_file.parent / "run")
    assert ended.code == 0, ended.err
    assert ended.err.count("its finish() raised RuntimeError: too late to matter") == 1
    run = RunLog.open(recipe_file.parent / "run")
    results: dict[str, Counter[str]] = {}
    for trajectory in (trajectory_of(row) for step in (1, 2) for row in run.trajectories(step)):
        for turn in trajectory.turns:
            for call, result in zip(turn.calls, turn.results, strict=False):
                results.setdefault(call.name, Counter())[result.text] += 1
    assert results["sql"]["[(126,)]"] + results["sql"]["[(331,)]"] > 0
    assert [text for text in results["search"] if text.endswith("... [cut to 4 tokens, 19 characters in all]")], results
