"""Hints that a model writes: what it is asked, what becomes of its replies, and a real tiny model that learned one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build.hints import asked, model_hints, read_hint
from sod.chat.render import Chat
from sod.engines.base import Sampled
from sod.models.load import save_model
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3
from sod.objective.batch import supervised_batch
from sod.records import Message, Task
from sod.tasks.hints import NoHint, Posed

EGGS = Posed(4, Task("eggs", (Message("system", "Box it."), Message("user", "2+3 eggs?")), "5"), "Add 3 to 2: 5.")
BARE = Posed(7, Task("hens", (Message("user", "4+4 hens?"),), "8"))


def test_what_a_model_is_asked() -> None:
    """Task and solution, or the answer where there is no solution; not the task's system message."""
    (message,) = asked(EGGS)
    assert "2+3 eggs?" in message.content
    assert "Add 3 to 2: 5." in message.content
    assert "Box it." not in message.content
    assert "The answer is: 8" in asked(BARE)[0].content


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Count what is there.", "Count what is there."),
        ("<think>\nIt is 5.\n</think>\n\nCount.", "Count."),
        ("You get 5.", NoHint("the model's hint states the answer")),
        ("You get five.", NoHint("the model's hint states the answer")),
        ("```python\nprint(2)\n```", NoHint("the model's hint holds a program")),
        ("  ", NoHint("the model said nothing")),
    ],
)
def test_what_becomes_of_a_reply(said: str, hint: str | NoHint, chat: Chat) -> None:
    ids = (*chat.tokenizer.encode(said, add_special_tokens=False), chat.end_id)
    assert read_hint(EGGS, Sampled(ids, (0.0,) * len(ids), True), chat) == hint


def test_a_reply_without_its_end_and_a_task_that_does_not_fit(chat: Chat) -> None:
    for sampled, reason in ((Sampled((1, 2), (0.0, 0.0), False), "cut off at --max-tokens"), (None, "too long")):
        hint = read_hint(EGGS, sampled, chat)
        assert isinstance(hint, NoHint)
        assert reason in hint.reason


@pytest.mark.slow
def test_a_model_that_learned_two_hints_gives_them(chat: Chat, tokenizer: Any, tmp_path: Path) -> None:
    """Its own words for the one task; for the other it states the answer, so there is none."""
    plain = Chat(tokenizer, template="hermes")
    model = new_qwen3(tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=1024, seed=3)
    replies = [(EGGS, "Join both heaps."), (BARE, "You get 8.")]
    ledgers = [plain.encode_conversation([*asked(one), Message("assistant", said)]) for one, said in replies]
    batch = supervised_batch(ledgers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = -action_logps(model, batch).sum() / batch.action_tokens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model, tokenizer, plain.template, plain.end_id, tmp_path / "model")
    make = model_hints(str(tmp_path / "model"), 32, 0.0, 0)
    assert make([EGGS, BARE]) == ["Join both heaps.", NoHint("the model's hint states the answer")]
    long = Posed(9, Task("long", (Message("user", "egg " * 3000),), "5"))
    assert make([long]) == [NoHint("task and solution are too long for the model")]
    assert model_hints(str(tmp_path / "model"), 3, 0.0, 0)([EGGS]) == [
        NoHint("the model's hint is cut off at --max-tokens")
    ]
