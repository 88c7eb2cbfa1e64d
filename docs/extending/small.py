"""A small world on disk for the proofs beside this file: data, and two models with just enough SFT to call tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective import supervised_batch
from sod.records import SodError, Task
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import write_tasks
from sod.tools.python import SCHEMA

torch.set_num_threads(1)


def small_world(directory: Path) -> dict[str, Any]:
    """The quickstart's arithmetic below `directory`, and the content of a recipe that trains on it for one step."""
    chains = chain.splits({"sft": 64, "train": 4}, 2, 3, seed=0)
    demonstrations = [chain.as_conversation(c, number, SCHEMA) for number, c in enumerate(chains["sft"])]
    tasks = [chain.as_task(c, number) for number, c in enumerate(chains["train"])]
    return made(directory, tasks, demonstrations, [SCHEMA], {"student": 25, "teacher": 40})


def refused(action: Callable[[], object]) -> str:
    """What is told of something that the user got wrong. Raises AssertionError where it is accepted."""
    try:
        action()
    except SodError as error:
        return str(error)
    raise AssertionError("accepted")


def made(
    directory: Path,
    tasks: Sequence[Task],
    demonstrations: Sequence[Conversation],
    schemas: Sequence[Mapping[str, Any]],
    updates: Mapping[str, int],
) -> dict[str, Any]:
    """Tasks and models with so many SFT `updates` below `directory`, and the content of a recipe over them."""
    write_tasks(directory / "train.parquet", tasks)
    blank = Chat(train_tokenizer([], 300), schemas, template="hermes")
    corpus = [blank.conversation_text(d.messages) for d in demonstrations]
    chat = Chat(train_tokenizer(corpus, 400), schemas, template="hermes")
    ledgers = [chat.encode_conversation(d.messages) for d in demonstrations]
    for seed, (name, count) in enumerate(updates.items()):
        model = new_qwen3(chat.tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=2048, seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
        for update in range(count):
            batch = supervised_batch([ledgers[(update * 8 + i) % len(ledgers)] for i in range(8)])
            loss = -action_logps(model, batch).sum() / batch.action_tokens()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_model(model, chat.tokenizer, chat.template, chat.end_id, directory / name)
    limits = {"max_turns": 5, "max_prompt_tokens": 256, "max_turn_tokens": 32, "max_response_tokens": 200}
    return {
        **{name: {"path": str(directory / name)} for name in updates},
        "chat": {"template": "hermes"},
        "data": {"train": str(directory / "train.parquet")},
        "tools": {"python": {"workers": 1, "preload": []}},
        "rollout": {"prompts": 2, "samples": 4, **limits},
        "optim": {"lr": 1e-3},
        "train": {"steps": 1},
    }
