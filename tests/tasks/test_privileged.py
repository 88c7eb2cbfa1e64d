"""Privileged prompts: what is told, what is left alone, and hints on their way through data files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sod.chat.render import Chat
from sod.records import Message, SodError, Task
from sod.tasks import chain
from sod.tasks.files import load_tasks, write_tasks
from sod.tasks.privileged import Privilege, privileged_prompt

SYSTEM, USER, REPLY, MORE = (
    Message("system", "Be brief."),
    Message("user", "How many?"),
    Message("assistant", "Of what?"),
    Message("user", "Of eggs."),
)
TASK = Task("eggs", (SYSTEM, USER, REPLY, MORE), "12", "shop", {"hint": "A dozen.", "index": 4})


@pytest.mark.parametrize(("kind", "told"), [("ground_truth", "Answer: 12"), ("hint", "Hint: A dozen.")])
def test_the_first_user_message_tells_it_and_nothing_else_changes(kind: Privilege, told: str) -> None:
    before = replace(TASK)
    assert privileged_prompt(TASK, kind) == (SYSTEM, Message("user", f"How many?\n\n{told}"), REPLY, MORE)
    assert before == TASK


def test_text_is_told_as_it_is() -> None:
    """Several lines, spaces at the ends, markup: the wording does not touch them."""
    text = "  first\n<tool_call>second\n\n"
    task = replace(TASK, ground_truth=text, extra={"hint": text})
    assert privileged_prompt(task, "ground_truth")[1].content == f"How many?\n\nAnswer: {text}"
    assert privileged_prompt(task, "hint")[1].content == f"How many?\n\nHint: {text}"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"ground_truth": ""}, "ground_truth", "task eggs: the ground truth is empty; set reward_model.ground_truth"),
        ({"ground_truth": " \n"}, "ground_truth", "task eggs: the ground truth is empty"),
        ({"extra": {}}, "hint", "task eggs: no hint; put a non-empty text into extra_info.hint"),
        ({"extra": {"hint": ""}}, "hint", "task eggs: no hint"),
        ({"extra": {"hint": " \t"}}, "hint", "task eggs: no hint"),
        ({"extra": {"hint": None}}, "hint", "task eggs: no hint"),
        ({"extra": {"hint": ["a", "b"]}}, "hint", "task eggs: no hint"),
        ({"extra": {"hint": "\ud800"}}, "hint", "task eggs: extra_info.hint is not valid Unicode"),
        ({"ground_truth": "\ud800"}, "ground_truth", "task eggs: reward_model.ground_truth is not valid Unicode"),
        ({"prompt": (SYSTEM,)}, "hint", "task eggs: a privileged prompt needs a user message"),
        ({"prompt": ()}, "ground_truth", "task eggs: a privileged prompt needs a user message"),
    ],
)
def test_nothing_to_tell_is_told_by_the_tasks_name(change: dict[str, Any], kind: Privilege, message: str) -> None:
    with pytest.raises(SodError, match=message):
        privileged_prompt(replace(TASK, **change), kind)


def test_the_other_kind_is_not_needed() -> None:
    assert privileged_prompt(replace(TASK, ground_truth=""), "hint")
    assert privileged_prompt(replace(TASK, extra={}), "ground_truth")


def test_hints_survive_writing_and_reading(tmp_path: Path) -> None:
    """As structs where all tasks have one, as JSON text where some do not; the prompts come out alike."""
    made = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 5}, 1, 5, seed=3)["t"])]
    for name, tasks in (("all", made), ("some", [*made, TASK, replace(TASK, id="bare", extra={"index": 5})])):
        write_tasks(tmp_path / f"{name}.parquet", tasks)
        loaded = load_tasks(str(tmp_path / f"{name}.parquet")).items
        assert loaded == tasks
        for task, original in zip(loaded[:5], made, strict=True):
            assert privileged_prompt(task, "hint") == privileged_prompt(original, "hint")
    with pytest.raises(SodError, match="task bare: no hint"):
        privileged_prompt(loaded[-1], "hint")
    assert pa.types.is_struct(pq.read_schema(tmp_path / "all.parquet").field("extra_info").type)


def test_hints_of_other_peoples_files(tmp_path: Path) -> None:
    """`extra_info.hint` in parquet structs (None in rows without), as JSON text, and in JSONL."""
    row = {"prompt": "How many?", "reward_model": {"ground_truth": "12"}}
    infos: list[dict[str, Any]] = [{"hint": "A dozen.", "index": 0}, {"index": 1}]
    pq.write_table(pa.Table.from_pylist([{**row, "extra_info": info} for info in infos]), tmp_path / "a.parquet")
    pq.write_table(
        pa.Table.from_pylist([{**row, "extra_info": json.dumps(info)} for info in infos]), tmp_path / "b.parquet"
    )
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({**row, "extra_info": info}) + "\n" for info in infos))
    for name in ("a.parquet", "b.parquet", "c.jsonl"):
        hinted, bare = load_tasks(str(tmp_path / name)).items
        assert privileged_prompt(hinted, "hint") == (Message("user", "How many?\n\nHint: A dozen."),)
        with pytest.raises(SodError, match="task 1: no hint"):
            privileged_prompt(bare, "hint")


@pytest.mark.parametrize("kind", ["ground_truth", "hint"])
def test_a_tokenizer_that_never_read_one_encodes_it(chat: Chat, kind: Privilege) -> None:
    """Byte-level BPE: the prompt is decoded as it was written; only what is told makes it longer."""
    for number, one in enumerate(chain.splits({"t": 20}, 1, 5, seed=3)["t"]):
        task = chain.as_task(one, number)
        told = privileged_prompt(task, kind)
        text = chat.tokenizer.decode(chat.prompt_ids(told))
        assert text == chat.tokenizer.decode(chat.prompt_ids(task.prompt)).replace(one.expression, told[0].content)
